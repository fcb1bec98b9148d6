"""What every commit says of itself, sealed, in the same commit: the file as this service left it.

Somebody with an LMDB tool has a transaction of his own, or cuts one off; the last stamp then tells
another number than LMDB does, other counts of rows, or another end of the journal.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

import lmdb

from core.errors import LedgerCorrupt
from core.ledger import layout
from core.ledger.environment import DATABASES_MAX, READERS_MAX, foreign, reserve_readers
from core.ledger.seal import Sealer
from core.ledger.store import Handles, Store
from core.ledger.tables import BESIDE, TABLES

COUNTED: Final = tuple(table.number for table in TABLES + BESIDE)

LINK_SIZE: Final = 16
# Of what comes before the first commit of a ledger that begins empty.
BEGINNING: Final = bytes(LINK_SIZE)

_HEAD: Final = struct.Struct(">QQ32s16sHI")
_COUNT: Final = struct.Struct(">HQ")
# Stamps that one commit deletes at most, when a snapshot of the marks has made them dispensable.
_DELETED_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Stamp:
    """One commit's."""

    # How many commits there were, this one included; goes on where the file is copied.
    position: int
    # LMDB's number of its transaction.
    transaction: int
    # Entries after it, and the root hash over them.
    size: int
    root: bytes
    # The link of the commit before it.
    previous: bytes
    # Rows of every table.
    counts: Mapping[int, int]
    # Marks of the rows that it replaced or removed, and of those that came, 8 bytes each.
    removed: bytes = b""
    added: bytes = b""
    # Its sealed value's synthetic IV: no other stamp has it, so that each says which one it follows.
    link: bytes = b""

    def pack(self) -> bytes:
        """Everything but position and link."""
        head = _HEAD.pack(
            self.transaction, self.size, self.root, self.previous, len(self.counts),
            len(self.removed),
        )  # fmt: skip
        counts = struct.pack(
            f">{'HQ' * len(self.counts)}", *chain.from_iterable(self.counts.items())
        )
        return b"".join((head, counts, self.removed, self.added))

    @classmethod
    def unpack(cls, position: int, packed: bytes, link: bytes) -> Stamp:
        """As it was packed: what opens was made by `pack`."""
        transaction, size, root, previous, tables, removed = _HEAD.unpack_from(packed)
        counts_end = _HEAD.size + tables * _COUNT.size
        marks = packed[counts_end:]
        return cls(
            position, transaction, size, root, previous,
            dict(_COUNT.iter_unpack(packed[_HEAD.size : counts_end])),
            marks[:removed], marks[removed:], link,
        )  # fmt: skip


class Stamps:
    """Reads the stamps, and seals them for the one who writes."""

    def __init__(self, store: Store, sealer: Sealer) -> None:
        self._store = store
        self._sealer = sealer

    def last(self) -> Stamp | None:
        """Of the last commit; None in a ledger that has none. LedgerCorrupt if it does not open."""
        with self._store.snapshot() as txn:
            return last_stamp(txn, self._store.handles, self._sealer)

    def since(self, position: int) -> Iterator[Stamp]:
        """Those after `position`. LedgerCorrupt if one does not open."""
        start = layout.index_key(position + 1)
        for key, sealed in self._store.pages(layout.STAMPS, start):
            yield _open(key, sealed, self._sealer)

    def put(self, txn: lmdb.Transaction, stamp: Stamp) -> Stamp:
        """Part of the commit that it is of; with its link."""
        return put_stamp(txn, self._store.handles, self._sealer, stamp)

    def delete_all(self, txn: lmdb.Transaction) -> int:
        """Whether they open or not; the position of the last, 0 if there was none."""
        with txn.cursor(db=self._store.handles[layout.STAMPS]) as cursor:
            last = layout.key_index(bytes(cursor.key())) if cursor.last() else 0
            while cursor.first():
                cursor.delete()
        return last

    def delete(self, txn: lmdb.Transaction, until: int) -> bool:
        """The first ones, at `until` or before, a bounded number of them; whether that was all."""
        with txn.cursor(db=self._store.handles[layout.STAMPS]) as cursor:
            for _ in range(_DELETED_MAX):
                if not cursor.first() or layout.key_index(bytes(cursor.key())) > until:
                    return True
                cursor.delete()
        return False


def last_stamp(txn: lmdb.Transaction, handles: Handles, sealer: Sealer) -> Stamp | None:
    """As `Stamps.last`, of what a transaction sees."""
    with txn.cursor(db=handles[layout.STAMPS]) as cursor:
        if not cursor.last():
            return None
        return _open(bytes(cursor.key()), bytes(cursor.value()), sealer)


def put_stamp(txn: lmdb.Transaction, handles: Handles, sealer: Sealer, stamp: Stamp) -> Stamp:
    """Seal it into the transaction that it names; with its link."""
    key = layout.index_key(stamp.position)
    sealed = sealer.seal(layout.STAMPS, key, stamp.pack())
    if not txn.put(key, sealed, db=handles[layout.STAMPS], append=True):
        raise LedgerCorrupt("the stamps of commits", f"there is one after {stamp.position} already")
    return replace(stamp, link=sealed[:LINK_SIZE])


def renew(path: Path, sealer: Sealer, transaction: int) -> None:
    """Stamp a copy of a ledger that LMDB made at its transaction `transaction`: in the copy, LMDB
    counts from the beginning. Durable on return.

    LedgerCorrupt if the copied ledger's own last stamp is not of that transaction: it was written by
    another program. One without stamps is left without. OSError, lmdb.Error if there is no room.
    """
    reserve_readers(path, READERS_MAX)
    with lmdb.open(str(path), map_size=0, max_dbs=DATABASES_MAX) as env:
        with env.begin() as txn:
            if txn.get(b"%d" % layout.STAMPS) is None:
                return
        handles = {layout.STAMPS: env.open_db(b"%d" % layout.STAMPS, create=False)}
        with env.begin(write=True) as txn:
            last = last_stamp(txn, handles, sealer)
            if last is None:
                return
            if last.transaction != transaction:
                raise foreign(transaction, last.transaction)
            put_stamp(txn, handles, sealer, following(last, txn))


def following(last: Stamp, txn: lmdb.Transaction) -> Stamp:
    """The stamp after `last` of a transaction that changes nothing else."""
    return replace(
        last, position=last.position + 1, transaction=txn.id(), previous=last.link, removed=b"",
        added=b"",
    )  # fmt: skip


def counts_of(
    txn: lmdb.Transaction, handles: Handles, numbers: Iterable[int] = COUNTED
) -> dict[int, int]:
    """Rows of these tables, as LMDB counts them."""
    return {number: int(txn.stat(handles[number])["entries"]) for number in numbers}


def _open(key: bytes, sealed: bytes, sealer: Sealer) -> Stamp:
    try:
        packed = sealer.open(layout.STAMPS, key, sealed)
        return Stamp.unpack(layout.key_index(key), packed, sealed[:LINK_SIZE])
    except (LedgerCorrupt, struct.error):
        where = f"the stamp {key.hex()} of a commit"
        what = "does not open: it was altered, or moved here from another place"
        raise LedgerCorrupt(where, what) from None
