"""Bounds on how long a peer may keep one of our threads: one watchdog for every call.

A synchronous gRPC server hands a response to the transport and blocks until the transport took it.
A client that reads nothing would hold that thread, and what is queued behind it, for ever.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

PERIODS_PER_DEADLINE = 8
PERIOD_SECONDS_MAX = 0.5


# From opening a call to its (first) request.
REQUEST_SECONDS_MAX = 10.0


class _None:
    """What no request is."""


_NONE = _None()


class Wait:
    """One peer that we may be waiting for. Armed and disarmed by the call's own thread."""

    __slots__ = ("cancel", "expires_at")

    def __init__(self, cancel: Callable[[], object]) -> None:
        self.cancel = cancel
        self.expires_at = math.inf

    def arm(self, seconds: float) -> None:
        self.expires_at = time.monotonic() + seconds

    def disarm(self) -> None:
        self.expires_at = math.inf


class Watchdog:
    """Cancels calls whose peer lets a deadline pass. Arming costs one store, no lock, no wake-up."""

    def __init__(
        self, shortest_seconds: float, on_expired: Callable[[], None] = lambda: None
    ) -> None:
        """Args:
        shortest_seconds: the shortest deadline that will be armed; it sets how often we look.
        on_expired: told of every cancelled call, from the watchdog's thread.
        """
        self._period = min(shortest_seconds / PERIODS_PER_DEADLINE, PERIOD_SECONDS_MAX)
        self._on_expired = on_expired
        self._lock = threading.Lock()
        self._waits: set[Wait] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def open(self, cancel: Callable[[], object]) -> Wait:
        """Begins to look after one call; `cancel` is called at most once, from another thread."""
        wait = Wait(cancel)
        with self._lock:
            self._waits.add(wait)
        return wait

    def close(self, wait: Wait) -> None:
        with self._lock:
            self._waits.discard(wait)

    def guard_writes(
        self, responses: Iterator[T], cancel: Callable[[], object], seconds: float
    ) -> Iterator[T]:
        """The same responses; the call is cancelled if one of them is not taken in time.

        Only the time between handing out an item and being asked for the next one counts: a stream
        that has nothing to say may stay silent for as long as it likes. `responses` is closed when
        the returned iterator is.
        """
        wait = self.open(cancel)
        try:
            for response in responses:
                wait.arm(seconds)
                yield response
                wait.disarm()
        finally:
            self.close(wait)
            close = getattr(responses, "close", None)
            if close is not None:
                close()

    def guard_first(
        self, requests: Iterator[T], cancel: Callable[[], object], seconds: float
    ) -> Iterator[T]:
        """The same requests; the call is cancelled if the first of them does not come in time."""
        wait = self.open(cancel)
        wait.arm(seconds)
        try:
            first = next(requests, _NONE)
        finally:
            self.close(wait)
        if not isinstance(first, _None):
            yield first
            yield from requests

    def _run(self) -> None:
        while not self._stopped.wait(self._period):
            now = time.monotonic()
            with self._lock:
                late = [wait for wait in self._waits if wait.expires_at <= now]
            for wait in late:
                wait.disarm()
                wait.cancel()
                self._on_expired()
