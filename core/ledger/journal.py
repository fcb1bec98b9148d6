"""The journal's entries, sealed commit by commit under the index of the first."""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final

import lmdb

from core.errors import LedgerCorrupt
from core.kernels import leaf_hashes, split_fields
from core.ledger import layout
from core.ledger.port import Entry
from core.ledger.seal import Sealer
from core.ledger.store import Store

# Commits whose entries are kept opened: those just written are asked for at once, for receipts.
_OPENED_MAX: Final = 64


class Journal:
    """Reads the entries, in any thread; seals them for the one who writes."""

    def __init__(self, store: Store, sealer: Sealer) -> None:
        self._store = store
        self._sealer = sealer
        self._opened: OrderedDict[int, Sequence[Entry]] = OrderedDict()
        self._lock = threading.Lock()

    def entry(self, index: int, txn: lmdb.Transaction | None = None) -> Entry:
        """One entry that is durable, read in `txn` or in a snapshot. LedgerCorrupt if it is missing, or
        not what was hashed.
        """
        first, entries = self.commit(index, txn)
        return entries[index - first]

    def commit(
        self, index: int, txn: lmdb.Transaction | None = None
    ) -> tuple[int, Sequence[Entry]]:
        """The index of the first entry of the commit that holds an entry, and all of its entries; as
        `entry`.
        """
        found = self._recall(index)
        if found is None and txn is not None:
            found = self._read(index, txn)
        elif found is None:
            with self._store.snapshot() as snapshot:
                found = self._read(index, snapshot)
        first, entries = found
        if index - first >= len(entries):
            raise LedgerCorrupt(f"entry {index}", "is missing")
        return found

    def entries(self, start: int) -> Iterator[tuple[int, Entry]]:
        """Index and entry from `start` to what is durable now. Keeps no snapshot between two.

        LedgerCorrupt names one that is missing between them, or is not what was hashed.
        """
        following = start
        for key, sealed in self._from(start):
            first = index_of("journal", key)
            if first > following:
                raise LedgerCorrupt(f"entry {following}", "is missing")
            with self._store.snapshot() as txn:
                entries = self._open(first, sealed, txn)
            for index, entry in enumerate(entries, first):
                if index >= start:
                    yield index, entry
                following = index + 1

    def packed(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Index of the first entry, and all entries as `layout.pack_entries` has them, of every
        commit from the one on that holds `start`.
        """
        for key, sealed in self._from(start):
            yield index_of("journal", key), self._unseal(key, sealed)

    def commits(self) -> Iterator[int]:
        """Index of the first entry of every commit, in order."""
        for key, _ in self._store.pages(layout.JOURNAL):
            yield index_of("journal", key)

    def seal(self, first: int, packed: bytes) -> tuple[bytes, bytes]:
        """Key and value of one commit's entries, as `layout.pack_entries` has them."""
        key = layout.index_key(first)
        return key, self._sealer.seal(layout.JOURNAL, key, packed)

    def committed(self, first: int, entries: Sequence[Entry]) -> None:
        """They are durable: keep them opened for a while."""
        with self._lock:
            self._opened[first] = entries
            if len(self._opened) > _OPENED_MAX:
                self._opened.popitem(last=False)

    def _recall(self, index: int) -> tuple[int, Sequence[Entry]] | None:
        with self._lock:
            for first, entries in reversed(self._opened.items()):
                if first <= index < first + len(entries):
                    return first, entries
        return None

    def _read(self, index: int, txn: lmdb.Transaction) -> tuple[int, Sequence[Entry]]:
        """The commit that holds an entry."""
        key = self._first_key(index, txn)
        sealed = txn.get(key, db=self._store.handles[layout.JOURNAL])
        first = index_of("journal", key)
        if sealed is None:
            raise LedgerCorrupt(f"journal from {first}", "is missing")
        entries = self._open(first, bytes(sealed), txn)
        self.committed(first, entries)
        return first, entries

    def _from(self, start: int) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of every commit from the one on that holds entry `start`."""
        with self._store.snapshot() as txn:
            first = self._first_key(start, txn)
        return self._store.pages(layout.JOURNAL, first)

    def _first_key(self, index: int, txn: lmdb.Transaction) -> bytes:
        """Key of the commit that holds an entry, or would."""
        wanted = layout.index_key(index)
        with txn.cursor(db=self._store.handles[layout.JOURNAL]) as cursor:
            found = cursor.set_range(wanted)
            if found and cursor.key() == wanted:
                return wanted
            before = cursor.prev() if found else cursor.last()
            return bytes(cursor.key()) if before else wanted

    def _open(self, first: int, sealed: bytes, txn: lmdb.Transaction) -> list[Entry]:
        """The entries, each with the hash that the tree has of it: a value of a copy that went on
        otherwise opens too.
        """
        packed = self._unseal(layout.index_key(first), sealed)
        try:
            entries = [Entry(header, events) for header, events in layout.unpack_entries(packed)]
        except ValueError as error:
            raise LedgerCorrupt(f"journal from {first}", str(error)) from None
        hashes = leaf_hashes(packed, split_fields(packed))
        with txn.cursor(db=self._store.handles[layout.NODES]) as nodes:
            there = nodes.set_range(layout.node_key(0, first))
            for index, hashed in enumerate(hashes, first):
                if not there or nodes.item() != (layout.node_key(0, index), hashed.tobytes()):
                    raise LedgerCorrupt(f"entry {index}", "is not what was hashed")
                there = nodes.next()
        return entries

    def _unseal(self, key: bytes, sealed: bytes) -> bytes:
        try:
            return self._sealer.open(layout.JOURNAL, key, sealed)
        except LedgerCorrupt:
            where = f"entry {index_of('journal', key)} and those committed with it"
            what = "do not open: they were altered, or moved here from another place"
            raise LedgerCorrupt(where, what) from None


def index_of(what: str, key: bytes) -> int:
    """The index that a key is. LedgerCorrupt if it is none."""
    try:
        return layout.key_index(key)
    except struct.error:
        raise LedgerCorrupt(f"{what} {key.hex()}", "has a key that is no number") from None
