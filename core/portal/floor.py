"""The one thread in which all portals' sessions live: an event loop.

A batch on its way passes from thread to thread as seldom as it can, because every such pass costs
more than what is done with a small batch: it is read, judged, acknowledged and told in this one.
The writers of read log and journal hand back what they made durable, a whole commit at a time.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

# Large batches are judged beside the loop, so that small ones of other portals do not wait.
JUDGES = 2


class Receiver(Protocol):
    """Takes what other threads hand over."""

    inbox: deque[object]

    def advance(self) -> None:
        """Work on what is in `inbox`."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a judge found, for whoever waits for it in the loop."""

    future: asyncio.Future[Any]
    result: object
    error: BaseException | None

    def give(self) -> None:
        """In the loop."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Floor:
    """One per service. Everything of a session but `post` is called in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._arrived: deque[tuple[Receiver | None, object]] = deque()
        self._woken = False
        self._work: queue.SimpleQueue[tuple[Callable[[], object], asyncio.Future[Any]] | None]
        self._work = queue.SimpleQueue()
        self._closed = False
        for number in range(JUDGES):
            threading.Thread(target=self._judge, name=f"judge-{number}", daemon=True).start()

    def post(self, receiver: Receiver, item: object) -> None:
        """Hand over an item; `receiver` advances soon, once for all that arrived by then. Safe from
        any thread, and in vain when the loop has ended.
        """
        self._arrived.append((receiver, item))
        self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # Before the first is taken: what arrives from now on wakes us again.
        self._woken = False
        touched: dict[int, Receiver] = {}
        while self._arrived:
            receiver, item = self._arrived.popleft()
            if receiver is None:
                assert isinstance(item, _Answer)
                item.give()
                continue
            receiver.inbox.append(item)
            touched[id(receiver)] = receiver
        for receiver in touched.values():
            self.attempt(receiver.advance)

    def attempt(self, work: Callable[[], None]) -> None:
        """Do something; should it raise, that is logged, and what comes next has its turn."""
        try:
            work()
        except Exception as error:
            self.loop.call_exception_handler({"message": "in the floor", "exception": error})

    async def beside(self, work: Callable[[], T]) -> T:
        """The result of `work`, done in another thread."""
        future: asyncio.Future[T] = self.loop.create_future()
        self._work.put((work, future))
        return await future

    def _judge(self) -> None:
        while (found := self._work.get()) is not None and not self._closed:
            work, future = found
            try:
                answer = _Answer(future, work(), None)
            except BaseException as error:
                answer = _Answer(future, None, error)
            self._arrived.append((None, answer))
            self._wake()
            # Nothing of a batch is kept until the next one comes.
            del found, work, future, answer

    def close(self) -> None:
        """Nothing is judged any more."""
        self._closed = True
        for _ in range(JUDGES):
            self._work.put(None)


class Signal:
    """Lets coroutines wait until something may have changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Whoever waits looks again."""
        self._event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when `condition` holds, which is asked after every `notify`."""
        while not condition():
            self._event.clear()
            await self._event.wait()
