"""Keeps what is stored to what this service wrote last: stamps, marks, and the snapshot of these.

The ledger asks it at an opening, around each commit, and for what rows are read with.
"""

from __future__ import annotations

import os
from typing import Final

import lmdb

from core.errors import LedgerCorrupt
from core.kernels import MarkSet
from core.ledger.environment import FILE, foreign
from core.ledger.note import Checkpoint
from core.ledger.port import Head
from core.ledger.seal import RowOpener, Sealer
from core.ledger.stamps import BEGINNING, LINK_SIZE, Stamp, Stamps, counts_of, following
from core.ledger.store import Store
from core.ledger.versions import MarksFile, Place, Versions, follow, stored_marks
from core.ledger.writing import Writing
from core.sealed_parts import SnapshotUnusable

# In the ledger's directory.
MARKS: Final = "marks"
# A snapshot is worth its writing when a start would have to follow so many commits: some hundredths of
# a second of it at an orderly end, some tenths else. One more for so many rows, which it has to write.
_BEHIND_MIN: Final = 1_024
_BEHIND_MAX: Final = 8_192
_ROWS_PER_COMMIT: Final = 256


class Currency:
    """What the last commit left, and whether it is still that."""

    def __init__(self, store: Store, sealer: Sealer, file: MarksFile) -> None:
        self._store = store
        self._sealer = sealer
        self._file = file
        self._stamps = Stamps(store, sealer)
        # None: there is no commit yet that has one.
        self._last: Stamp | None = None
        # The position that the snapshot is of, and up to which stamps were deleted.
        self._saved = self._deleted = 0
        # None: rows are read as they are stored.
        self.versions: Versions | None = None
        # Why the rows that change are not known to be the current ones; empty: they are.
        self.doubt = ""

    @property
    def opener(self) -> RowOpener:
        """What a snapshot's rows are read with."""
        return self._sealer if self.versions is None else self.versions.reading

    # -- the start

    def open(self, head: Head, *, as_found: bool, suspect: bool) -> None:
        """Compare the last stamp with what is stored, whose journal ends at `head`, and fill the marks.

        LedgerCorrupt if it was written by another program, unless it is to be opened `as_found`; and if
        it is older than the snapshot of the marks.
        """
        try:
            self._last = self._stamps.last()
            self.check(head)
            self._check_transaction()
        except LedgerCorrupt as error:
            if not as_found:
                raise
            self.doubt = str(error)
            return
        try:
            self.versions = Versions(self._store, self._sealer, self._load(head, suspect=suspect))
        except SnapshotUnusable as unusable:
            self.doubt = str(unusable)
            if not as_found:
                self.versions = Versions(self._store, self._sealer, stored_marks(self._store))

    def check(self, head: Head) -> None:
        """LedgerCorrupt if journal or tables have another end than the last stamp says."""
        last = self._last
        if last is None:
            return
        if (last.size, last.root) != head:
            what = f"ends with {head.size} entries, and the last commit left {last.size}"
            raise LedgerCorrupt("the journal", f"{what}; run `jinkud fsck`")
        with self._store.snapshot() as txn:
            counts = counts_of(txn, self._store.handles)
        for number, count in counts.items():
            left = last.counts.get(number, 0)
            if count != left:
                what = f"has {count} rows, and the last commit left {left}"
                raise LedgerCorrupt(f"table {number}", f"{what}; run `jinkud fsck`")

    def _check_transaction(self) -> None:
        if self._last is not None and self._last.transaction != self._store.transaction:
            raise foreign(self._store.transaction, self._last.transaction)

    def _load(self, head: Head, *, suspect: bool) -> MarkSet:
        """The marks as the snapshot and the stamps since make them. SnapshotUnusable; LedgerCorrupt if
        the snapshot is of a commit that the ledger has not.
        """
        last = self._last
        unusable = None
        try:
            place, marks = self._file.read()
        except SnapshotUnusable as error:
            unusable, place, marks = error, Place(0, BEGINNING), MarkSet()
        stands_at = last.position if last is not None else 0
        if place.position > stands_at:
            what = f"is older than `{MARKS}` beside it: of commit {stands_at}, not {place.position}"
            raise LedgerCorrupt(FILE, f"{what}; an older copy was put back, see docs/operations.md")
        if suspect:
            raise SnapshotUnusable("what came of the last commit was not known")
        if last is None:
            if head.size:
                raise SnapshotUnusable("its commits have no stamps yet")
            return MarkSet()
        try:
            if unusable is not None:
                first = next(self._stamps.since(0), last)
                # In a young ledger the stamps of all commits are there.
                if (first.position, first.previous) != (1, BEGINNING):
                    raise unusable
            follow(place, marks, self._stamps.since(place.position), last)
        except LedgerCorrupt as damaged:
            raise SnapshotUnusable(str(damaged)) from None
        self._saved = place.position
        return marks

    def believe(self, head: Head) -> None:
        """The tables were proved: what is stored is current. The marks are saved. OSError."""
        self.check(head)
        if self._last is None or self._last.transaction != self._store.transaction:
            self._renew(head)
        self.versions = Versions(self._store, self._sealer, stored_marks(self._store))
        self.save()
        self.doubt = ""

    def _renew(self, head: Head) -> None:
        """A commit of nothing but a stamp: LMDB's last transaction is one of ours again."""
        txn = self._store.begin_write(whoever=True)
        try:
            if self._last is None:
                # Of those that there are the last one does not open, or another program wrote it.
                position = self._stamps.delete_all(txn) + 1
                counts = counts_of(txn, self._store.handles)
                stamp = Stamp(position, txn.id(), *head, os.urandom(LINK_SIZE), counts)
            else:
                stamp = following(self._last, txn)
            stamp = self._stamps.put(txn, stamp)
            txn.commit()
        except BaseException:
            self._store.abort(txn)
            raise
        self._store.committed(changed=True)
        self._last = stamp

    # -- each commit

    def stamp(self, txn: lmdb.Transaction, writing: Writing, tip: Checkpoint) -> Stamp | None:
        """Put the stamp into a commit that is complete; None if there is nothing in it.

        From here on its rows may be read.
        """
        if not writing.entries and not writing.changed:
            return None
        last = self._last
        if last is None:
            position, counts = 0, counts_of(txn, self._store.handles)
        else:
            position = last.position
            counts = {**last.counts, **counts_of(txn, self._store.handles, writing.changed)}
        # What follows from nothing known is linked to nothing: a start verifies everything first.
        previous = os.urandom(LINK_SIZE)
        if self.versions is not None and (last is not None or not writing.first):
            previous = last.link if last is not None else BEGINNING
        stamp = Stamp(
            position + 1, txn.id(), tip.tree_size, tip.root_hash, previous, counts,
            writing.removed, writing.added,
        )  # fmt: skip
        if self._deleted < self._saved and self._stamps.delete(txn, self._saved):
            self._deleted = self._saved
        stamp = self._stamps.put(txn, stamp)
        if self.versions is not None:
            self.versions.add(stamp.added)
        return stamp

    def committed(self, stamp: Stamp | None) -> None:
        """The commit with this stamp is durable."""
        if stamp is None:
            return
        if self.versions is not None:
            self.versions.remove(stamp.removed)
        self._last = stamp

    # -- the snapshot

    def is_due(self, ending: bool) -> bool:
        """Whether a start would follow so many commits that a snapshot is worth writing now."""
        if self.doubt or self.versions is None or self._last is None:
            return False
        behind = self._last.position - self._saved
        bound = max(_BEHIND_MAX, len(self.versions) // _ROWS_PER_COMMIT)
        return behind >= (_BEHIND_MIN if ending else bound)

    def copy(self) -> tuple[Stamp, bytes] | None:
        """What `save` writes, of one commit: while nobody writes."""
        if self.versions is None or self._last is None:
            return None
        return self._last, self.versions.dump()

    def save(self, copied: tuple[Stamp, bytes] | None = None) -> None:
        """Write the snapshot; durable on return. Stamps up to it are deleted by later commits. OSError."""
        copied = copied or self.copy()
        if copied is not None:
            self._file.write(*copied)
            self._saved = copied[0].position
