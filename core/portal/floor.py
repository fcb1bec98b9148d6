"""The one thread in which all portals' sessions live: an event loop.

A batch on its way passes from thread to thread as seldom as it can, because every such pass costs
more than what is done with a small batch: it is read, judged, acknowledged and told in this one.
The writers of read log and journal hand back what they made durable, a whole commit at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol, TypeVar

T = TypeVar("T")

# Large batches are judged beside the loop, so that small ones of other portals do not wait.
JUDGES = 2


class Receiver(Protocol):
    """Takes what other threads hand over."""

    inbox: deque[object]

    def advance(self) -> None:
        """Work on what is in `inbox`."""


class Floor:
    """One per service. Everything of a session but `post` is called in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._arrived: deque[tuple[Receiver, object]] = deque()
        self._woken = False
        self._judges = ThreadPoolExecutor(JUDGES, thread_name_prefix="judge")

    def post(self, receiver: Receiver, item: object) -> None:
        """Hand over an item; `receiver` advances soon, once for all that arrived by then. Safe from
        any thread, and in vain when the loop has ended.
        """
        self._arrived.append((receiver, item))
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
        return await self.loop.run_in_executor(self._judges, work)

    def close(self) -> None:
        """Nothing is judged any more."""
        self._judges.shutdown(wait=False, cancel_futures=True)


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
