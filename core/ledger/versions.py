"""Which version of every row that changes is the current one, in memory: 64 bits of each.

A row opens at its place for ever. So that an older version of it, put back into the file, is not
answered, the first 8 bytes of every current sealed row (of its synthetic IV, a keyed function of
table, key and value) are kept in a set: its mark. The set is made of a sealed snapshot of it and the
stamps of the commits since, never of the tables, unless these were proved.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

import lmdb

from core.errors import LedgerCorrupt
from core.kernels import MarkSet
from core.ledger.changes import TableChange
from core.ledger.seal import Sealer
from core.ledger.stamps import Stamp
from core.ledger.store import Store
from core.ledger.tables import CHANGING
from core.sealed_parts import Kind, SealedParts, SnapshotUnusable

MARK_SIZE: Final = 8
# How often a row that others change is read again before it is called an older one.
_LOOKS_MAX: Final = 32

Doubt = Callable[[int, bytes, bytes], None]

_HEAD: Final = struct.Struct(">Q16sQ")
_PART: Final = 1 << 20
_KIND: Final = Kind(b"JKMARKS1", b"jinku marks v1", _PART)


class Place(NamedTuple):
    """Between two commits: after the one with this position and link."""

    position: int
    link: bytes


class Versions:
    """The marks of all current rows. One thread writes, any number read."""

    def __init__(self, store: Store, sealer: Sealer, marks: MarkSet) -> None:
        self._store = store
        self._marks = marks
        # What a snapshot's rows are opened with; what the writer's are.
        self.reading: CurrentRows = CurrentRows(sealer, marks, self._confirm)
        self.writing: CurrentRows = CurrentRows(sealer, marks, older)

    def __len__(self) -> int:
        return len(self._marks)

    @property
    def memory_bytes(self) -> int:
        """What the set takes."""
        return self._marks.memory_bytes

    def turnover(self, txn: lmdb.Transaction, change: TableChange) -> tuple[bytes, bytes]:
        """Marks of the rows that a change, not yet written, replaces or removes, and of those that
        come. LedgerCorrupt if one of the former is not a current one: it was put back.
        """
        if change.number not in CHANGING:
            return b"", b""
        with txn.cursor(db=self._store.handles[change.number]) as cursor:
            before = cursor.getmulti(change.keys)
        gone = b"".join([value[:MARK_SIZE] for _, value in before])
        at = self._marks.first_missing(gone)
        if at is not None:
            older(change.number, bytes(before[at][0]), bytes(before[at][1]))
        return gone, b"".join([value[:MARK_SIZE] for _, value in change.rows])

    def add(self, marks: bytes) -> None:
        """Of rows that a commit is about to bring: before any reader can see them."""
        self._marks.add(marks)

    def remove(self, marks: bytes) -> None:
        """Of rows that a commit has replaced or removed."""
        self._marks.remove(marks)

    def dump(self) -> bytes:
        """All marks."""
        return self._marks.dump()

    def _confirm(self, number: int, key: bytes, sealed: bytes) -> None:
        """A snapshot's row was current if what stands there now is: the writer looks at all that it
        replaces.
        """
        for _ in range(_LOOKS_MAX):
            with self._store.snapshot() as txn:
                now = txn.get(key, db=self._store.handles[number])
            if now is None or bytes(now) in self._marks:
                return
        older(number, key, sealed)


class CurrentRows:
    """Opens rows as a sealer does, and none but their current versions."""

    def __init__(self, sealer: Sealer, marks: MarkSet, doubt: Doubt) -> None:
        """`doubt` is asked about a row whose mark is not there, and raises if it must not be read."""
        self._sealer = sealer
        self._marks = marks
        self._doubt = doubt
        self._open_row = sealer.open_row
        self.blind = sealer.blind

    def open_row(self, number: int, key: bytes, sealed: bytes) -> bytes:
        """As `Sealer.open_row`; LedgerCorrupt also for an older version."""
        row = self._open_row(number, key, sealed)
        if number in CHANGING and sealed not in self._marks:
            self._doubt(number, key, sealed)
        return row

    def open(self, number: int, key: bytes, sealed: bytes) -> bytes:
        """As `Sealer.open`; LedgerCorrupt also for an older version."""
        row = self._sealer.open(number, key, sealed)
        if number in CHANGING and sealed not in self._marks:
            self._doubt(number, key, sealed)
        return row


def older(number: int, key: bytes, sealed: bytes) -> None:
    """Say that this is not the current version of the row."""
    del sealed
    raise LedgerCorrupt(f"table {number}, row {key.hex()}", "is an older version, put back")


def stored_marks(store: Store) -> MarkSet:
    """Those of the tables as they lie there: for tables that were proved."""
    with store.snapshot() as txn:
        total = sum(int(txn.stat(store.handles[number])["entries"]) for number in CHANGING)
        marks = MarkSet(total + total // 8)
        for number in sorted(CHANGING):
            with txn.cursor(db=store.handles[number]) as cursor:
                marks.add(b"".join(value[:MARK_SIZE] for value in cursor.iternext(keys=False)))
    return marks


class MarksFile:
    """Where the snapshot of the marks lies."""

    def __init__(self, path: Path, key: bytes, realm: int) -> None:
        self._parts = SealedParts(_KIND, path, key, realm)

    def write(self, stamp: Stamp, marks: bytes) -> None:
        """The marks as of the commit of this stamp; durable on return. OSError."""
        head = _HEAD.pack(stamp.position, stamp.link, len(marks) // MARK_SIZE)
        parts = (marks[at : at + _PART] for at in range(0, len(marks), _PART))
        self._parts.write(chain([head], parts))

    def read(self) -> tuple[Place, MarkSet]:
        """After which commit, and the marks.

        SnapshotUnusable: there is none, it is not ours, damaged or not whole.
        """
        contents = self._parts.read()
        try:
            position, link, count = _HEAD.unpack(next(contents, b""))
        except struct.error:
            raise SnapshotUnusable("it is not whole") from None
        marks = MarkSet(count + count // 8)
        for part in contents:
            marks.add(part)
        if len(marks) != count:
            raise SnapshotUnusable("it is not whole")
        return Place(position, link), marks


def follow(place: Place, marks: MarkSet, stamps: Iterator[Stamp], last: Stamp) -> None:
    """Bring marks as of `place` to those as of the commit `last`, with the stamps after it.

    SnapshotUnusable if these do not lead from one to the other.
    """
    for stamp in stamps:
        if (stamp.position, stamp.previous) != (place.position + 1, place.link):
            raise SnapshotUnusable("the stamps of the commits after it are not all there")
        if marks.remove(stamp.removed):
            raise SnapshotUnusable("the commits after it do not follow from it")
        marks.add(stamp.added)
        place = Place(stamp.position, stamp.link)
    if place != Place(last.position, last.link):
        raise SnapshotUnusable("it is of another ledger, or of a later one")
    if len(marks) != sum(last.counts.get(number, 0) for number in CHANGING):
        raise SnapshotUnusable("it and the stamps after it do not make as many rows as there are")
