"""The one writer of a realm: decide, apply, journal; many commands per commit, all durable first.

Design section 3. An error in deciding changes nothing and fails that command alone; an error in
applying or committing means that the outcome is unknown, so the writer stops for good and the
ledger verifies itself when it is opened again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from core.clock import Clock, system_clock
from core.errors import LedgerStopped, QueueFull
from core.journal_clock import Jump, boot_clock
from core.ledger.port import LogPort
from core.refusals import Quota
from core.writer import Command, Committed, Handlers, Writer, record

__all__ = ["Command", "Committed", "Handlers", "Sequencer", "Writer", "record"]

# How often an idle writer looks at the clock at least, so that a jump is seen as one.
_LOOK_SECONDS: Final = 60.0
# Whoever was answered together asks again one after another. The writer waits for as many as it has
# just answered, at most this share of the time that they took: a commit of few costs as much as one
# of many. One command alone waits for nobody.
_GATHERING: Final = 1 / 8

_Waiting = tuple[Command, "Future[Committed]"]


class Sequencer:
    """The writer in its own thread, behind a bounded queue."""

    def __init__(
        self,
        log: LogPort,
        handlers: Handlers,
        *,
        queue_max: int = 1024,
        batch_max: int = 256,
        quota: Quota | None = None,
        clock: Clock = system_clock,
        steady: Clock = boot_clock,
        on_committed: Callable[[Sequence[Committed]], None] = lambda _: None,
        on_stop: Callable[[BaseException], None] = lambda _: None,
        on_jump: Callable[[Jump], None] = lambda _: None,
    ) -> None:
        """`on_committed` runs in the writer's thread, after the commit and before anybody is
        answered; `on_jump` is told there of a clock that jumps where `steady` does not.
        """
        self._log = log
        self._writer = Writer(log, handlers, clock, steady=steady, quota=quota, on_jump=on_jump)
        self._queue_max = queue_max
        self._batch_max = min(batch_max, log.limits.entries_max)
        self._on_committed = on_committed
        self._on_stop = on_stop
        self._waiting: deque[_Waiting] = deque()
        self._closed = False
        # How many the writer waits for.
        self._wanted = 1
        # Guards all three; notified when the writer has what it waits for.
        self._changed = threading.Condition(threading.Lock())
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)

    def start(self) -> None:
        """Begin to take commands."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many commands wait."""
        return len(self._waiting)

    @property
    def ahead_ns(self) -> int:
        """How far the journal's time is ahead of the clock, because that was set back."""
        return self._writer.clock.ahead_ns

    def submit(self, command: Command) -> Future[Committed]:
        """Hand in a command. The future is done only when its entry is durable.

        Raises QueueFull if too many wait, LedgerStopped after `stop` or a fail-stop. The future
        fails with DecideFailed if the procedure raised (nothing recorded), LedgerStopped if the
        outcome is unknown.
        """
        future: Future[Committed] = Future()
        # From here on it cannot be cancelled: a caller who goes away does not take back what it
        # asked for.
        future.set_running_or_notify_cancel()
        with self._changed:
            if self._closed:
                raise LedgerStopped("the writer has stopped")
            if len(self._waiting) >= self._queue_max:
                raise QueueFull("as many commands wait as the writer takes")
            self._waiting.append((command, future))
            if len(self._waiting) == self._wanted:
                self._changed.notify()
        return future

    def stop(self) -> None:
        """Take no more, finish what waits, end the thread. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:
            # Of no command, and the thread ends: nobody may wait for it.
            self._fail([], error)

    def _write(self) -> None:
        gather = (0, 0.0)
        while True:
            batch, closed = self._take(*gather)
            began = time.monotonic()
            if not self._commit(batch) or (closed and not batch):
                return
            gather = len(batch), (time.monotonic() - began) * _GATHERING

    def _take(self, answered: int, gathering: float) -> tuple[list[_Waiting], bool]:
        """What waits, at most a batch of it; nothing, if there is something else to tend to or the
        writer is to end. Of as many as were `answered` the last are waited for so many seconds.
        """
        idle_ns = self._writer.idle_ns()
        seconds = _LOOK_SECONDS if idle_ns is None else min(_LOOK_SECONDS, idle_ns / 1e9)
        with self._changed:
            if answered > 1:
                self._wait(answered, gathering)
            self._wait(1, seconds)
            count = min(len(self._waiting), self._batch_max)
            return [self._waiting.popleft() for _ in range(count)], self._closed

    def _wait(self, wanted: int, seconds: float) -> None:
        """Until so many wait, or the time is over, or the writer is to end. Holds the lock."""
        self._wanted = wanted
        if len(self._waiting) < wanted and not self._closed:
            self._changed.wait(seconds)

    def _commit(self, batch: list[_Waiting]) -> bool:
        try:
            own = self._writer.tend()
            results = self._writer.commit([command for command, _ in batch]) if batch else []
            told = [
                r for r in results if isinstance(r, Committed) and r.recorded and not r.repeated
            ]
            if own or told:
                self._on_committed(own + told)
        except BaseException as error:
            self._fail(batch, error)
            return False
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, Committed):
                future.set_result(result)
            else:
                future.set_exception(result)
        return True

    def _fail(self, batch: list[_Waiting], error: BaseException) -> None:
        """Outcome unknown.

        Stop for good, tell everyone who waits, let the next opening verify everything.
        """
        with self._changed:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
        try:
            self._log.suspect()
        except Exception as unmarked:
            # The disk does not take even that. It happened on the way from `error`, and says so.
            error = unmarked
        stopped = LedgerStopped("the outcome of a commit is unknown; the service must be restarted")
        stopped.__cause__ = error
        for _, future in batch + waiting:
            future.set_exception(stopped)
        self._on_stop(error)
