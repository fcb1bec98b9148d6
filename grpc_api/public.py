"""The public door: the newest checkpoint and hash tiles over plain HTTP, as c2sp.org/tlog-tiles has
it. Nothing else is served, entries least of all; what is served proves itself, so it needs no TLS.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from core.errors import SettingsError
from core.ledger.ledger import Ledger
from core.ledger.note import Checkpoint
from core.ledger.tiles import read_tile
from core.settings import PublicSettings
from jinku.notes import NoteInvalid
from jinku.plain_http import TEXT, Answer, Request, refuse
from jinku.plain_server import Limits, Server
from jinku.tiles import Tile

METHODS = ("GET", "HEAD")
# A checkpoint changes with every commit, a tile never.
CHECKPOINT_CACHING = ("Cache-Control", "no-cache")
TILE_CACHING = ("Cache-Control", "public, max-age=31536000, immutable")
BYTES = "application/octet-stream"
NOT_FOUND = "here are /checkpoint and hash tiles, /tile/<L>/<N>[.p/<W>]; entries are not"


class PublicDoor:
    """Open from construction until `close`."""

    def __init__(
        self, settings: PublicSettings, ledger: Ledger, on_error: Callable[[Exception], object]
    ) -> None:
        """Raises:
        SettingsError: the address cannot be listened on.
        """
        self._ledger = ledger
        self._lock = threading.Lock()
        self._given: Checkpoint | None = None
        limits = Limits(
            connections_max=settings.connections_max,
            connection_seconds_max=settings.connection_seconds_max,
            requests_per_second_max=settings.requests_per_second_max,
        )
        try:
            self._server = Server(settings.listen, self._answer, limits, on_error)
        except OSError as error:
            raise SettingsError(
                f"public.listen: cannot listen on {settings.listen} ({error.strerror})"
            ) from None
        self.listen = self._server.listen
        self._server.start()

    def close(self) -> None:
        self._server.close()

    def _answer(self, request: Request) -> Answer:
        if request.method not in METHODS:
            return refuse(405, "only GET and HEAD", ("Allow", ", ".join(METHODS)))
        if request.path == "/checkpoint":
            return Answer(200, self._checkpoint().note.encode(), TEXT, (CHECKPOINT_CACHING,))
        try:
            tile = Tile.parse(request.path.removeprefix("/"))
            content = read_tile(self._ledger, tile.level, tile.index, tile.width)
        except NoteInvalid:
            return refuse(404, NOT_FOUND)
        except IndexError as error:
            return refuse(404, str(error))
        return Answer(200, content, BYTES, (TILE_CACHING,))

    def _checkpoint(self) -> Checkpoint:
        """The newest witnessed one, or the newest while there is none; but never one smaller than was
        given out: who follows the log would take that for a journal that was put back.
        """
        with self._lock:
            found = self._ledger.witnessed.newest or self._ledger.checkpoint()
            if self._given is None or found.tree_size >= self._given.tree_size:
                self._given = found
            return self._given
