"""The native tag index, kept equal to the tags table: what the read pipeline looks up."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core.ids import ID_SIZE
from core.kernels import KeyArena, TagIndex
from core.ledger.ledger import Ledger
from core.ledger.tables import TAGS, State
from core.sequencer import Committed
from core.store.v1.rows_pb2 import TagRow

_GROWTH = 4096


class TagDirectory:
    """Tags by identity for the kernels, tag ids by the index's dense numbers for the rest."""

    def __init__(self, ledger: Ledger, masters: Sequence[tuple[int, int, bytearray]]) -> None:
        """Move the tag masters into the locked arena, wiping them, and fill the index from the
        tags table.
        """
        arena = KeyArena()
        loaded = {(realm, version) for realm, version, _ in masters}
        for realm, version, key in masters:
            arena.add(realm, version, key)
        self._ledger = ledger
        self._arena = arena
        self._loaded = loaded
        self.index = TagIndex()
        self._tag_ids: npt.NDArray[np.uint8] = np.zeros((_GROWTH, ID_SIZE), np.uint8)
        self._lock = threading.Lock()
        with ledger.read() as state:
            for tag_id, row in state.scan(TAGS):
                self._put(tag_id, row)

    @property
    def arena(self) -> KeyArena:
        """The tag masters."""
        return self._arena

    def loaded_keys(self) -> frozenset[tuple[int, int]]:
        """(issuing realm, version) of every tag master that is loaded."""
        return frozenset(self._loaded)

    def tag_id(self, number: int) -> bytes:
        """The 16-byte id of the tag with this number in the index."""
        return bytes(self._tag_ids[number])

    def on_committed(self, committed: Sequence[Committed]) -> None:
        """Follow the journal.

        Called by the writer before it answers, so that a freeze that was answered is in force.
        """
        touched: dict[bytes, None] = {}
        for entry in committed:
            for event in entry.events.events:
                kind = event.WhichOneof("event") or ""
                if kind.startswith("tag_"):
                    touched[getattr(event, kind).tag_id] = None
        if touched:
            with self._ledger.read() as state:
                self._refresh(state, touched)

    def _refresh(self, state: State, tag_ids: dict[bytes, None]) -> None:
        for tag_id in tag_ids:
            row = state.get(TAGS, tag_id)
            if row is not None:
                self._put(tag_id, row)

    def _put(self, tag_id: bytes, row: TagRow) -> None:
        key = self._arena.find(row.issuing_realm, row.key_version)
        if key is None:
            # Its issuing realm's master is not loaded here: read as unknown, never as genuine.
            return
        with self._lock:
            # The id first: whoever finds the tag in the index may ask for it at once.
            known = self.index.get(row.identity)
            number = len(self.index) if known is None else known.number
            if number >= len(self._tag_ids):
                grown = np.zeros((max(number + 1, 2 * len(self._tag_ids)), ID_SIZE), np.uint8)
                grown[: len(self._tag_ids)] = self._tag_ids
                self._tag_ids = grown
            self._tag_ids[number] = np.frombuffer(tag_id, np.uint8)
            self.index.put(row.identity, row.scheme, row.state, key)
