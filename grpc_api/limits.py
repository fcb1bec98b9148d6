"""How many calls of each kind may be under way at once, and the door's state while it drains.

gRPC's own `maximum_concurrent_rpcs` refuses health checks too, so calls are counted here: health and
reflection pass uncounted, streams and unary calls have limits of their own.
"""

from __future__ import annotations

import asyncio
import enum
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from . import errors

Context = grpc.aio.ServicerContext[bytes, bytes]

# From opening a call to its (first) request.
REQUEST_SECONDS_MAX = 10.0


async def read_first(context: Context) -> bytes | None:
    """The first request of a call; None if its client ended it without one.

    Raises:
        CallRefused: DEADLINE_EXCEEDED, if none came in time.
    """
    try:
        async with asyncio.timeout(REQUEST_SECONDS_MAX):
            # The stubs do not know that there may be none.
            received: object = await context.read()
    except TimeoutError:
        raise errors.request_late() from None
    return received if isinstance(received, bytes) else None


class CallKind(enum.StrEnum):
    """What is counted apart. The value is the setting's name without `_max`."""

    CALL = "calls"
    STREAM = "streams"


class Gate:
    """Lets calls in while there is room and the service serves."""

    def __init__(self, limits: dict[CallKind, int]) -> None:
        self._limits = limits
        self._counts = dict.fromkeys(limits, 0)
        self._changed = threading.Condition()
        self._refuse: Callable[[], errors.CallRefused] | None = None

    def count(self, kind: CallKind) -> int:
        return self._counts[kind]

    def close(self, refuse: Callable[[], errors.CallRefused]) -> None:
        """From now on every call is refused with what this makes; calls under way go on."""
        with self._changed:
            self._refuse = refuse

    @property
    def is_open(self) -> bool:
        return self._refuse is None

    @contextmanager
    def enter(self, kind: CallKind) -> Iterator[None]:
        """Raises:
        CallRefused: the limit is reached, or the service drains or has stopped.
        """
        with self._changed:
            if self._refuse is not None:
                raise self._refuse()
            if self._counts[kind] >= self._limits[kind]:
                raise errors.too_many(kind.value)
            self._counts[kind] += 1
        try:
            yield
        finally:
            with self._changed:
                self._counts[kind] -= 1
                self._changed.notify_all()

    def wait_empty(self, kinds: tuple[CallKind, ...], seconds: float) -> bool:
        """Whether no call of these kinds was left within this time."""
        deadline = time.monotonic() + seconds
        with self._changed:
            return self._changed.wait_for(
                lambda: not any(self._counts[kind] for kind in kinds),
                timeout=max(0.0, deadline - time.monotonic()),
            )
