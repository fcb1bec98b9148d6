"""What a portal is told, on its way out: bounded, because some clients send and never read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from core.portal.floor import Signal
from jinku.v1.portal_pb2 import StreamResponse

# Answers that wait for the client, by number and by size. Beyond it nothing of this portal is read
# or settled until it takes some; what was begun may still add a few.
MESSAGES_MAX: Final = 64
BYTES_MAX: Final = 2 << 20


class Outbound:
    """Messages for one client. Used in the loop's thread."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._changed = Signal()
        self._closed = False
        # Told when there is room again.
        self.on_room: Callable[[], None] = lambda: None

    @property
    def has_room(self) -> bool:
        """Whether more may be said. Always, when nobody hears it."""
        return self._closed or (len(self._messages) < MESSAGES_MAX and self._bytes < BYTES_MAX)

    def put(self, response: StreamResponse) -> None:
        """Queue a message; nothing happens when the stream is over."""
        if not self._closed:
            body = response.SerializeToString()
            self._messages.append(body)
            self._bytes += len(body)
            self._changed.notify()

    def close(self, *, keep: bool) -> None:
        """Nothing more will be put. `keep`: what is queued is still taken."""
        self._closed = True
        if not keep:
            self._messages.clear()
        self._changed.notify()

    async def get(self) -> bytes | None:
        """The next message; None when there will be none."""
        await self._changed.until(lambda: bool(self._messages) or self._closed)
        if not self._messages:
            return None
        had_room = self.has_room
        body = self._messages.popleft()
        self._bytes -= len(body)
        if self.has_room and not had_room:
            asyncio.get_running_loop().call_soon(self.on_room)
        return body
