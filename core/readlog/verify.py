"""Proves a read log against the journal: every batch that has to be there is, and is what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from core.errors import LedgerCorrupt
from core.ledger.tables import (
    PORTALS,
    SEGMENT_KEY_SIZE,
    SEGMENTS,
    State,
    split_segment_key,
)
from core.readlog.layout import Position, unpack_block
from core.readlog.log import ReadLog
from core.readlog.segments import DIGEST_START, extend_digest
from core.store.v1.rows_pb2 import SegmentRow

Progress = Callable[[str, int, int], None]
_TELL_EVERY = 4096


@dataclass(frozen=True)
class SegmentsReport:
    """What was verified. There is no report of a read log that is not sound."""

    segments: int
    pruned: int
    # In segments and after the last of them.
    batches: int
    reads: int


@dataclass
class _Count:
    """How far it has come."""

    progress: Progress
    total: int
    batches: int = 0
    reads: int = 0

    def add(self, reads: int) -> None:
        self.batches += 1
        self.reads += reads
        if self.batches % _TELL_EVERY == 0:
            self.progress("read log", self.batches, self.total)


def check_not_older(state: State, read_log: ReadLog) -> None:
    """LedgerCorrupt if the journal has batches that the read log does not know.

    It was put back from a copy, or lost: what was read since could be accepted again.
    """
    for portal_id, portal in state.scan(PORTALS):
        newest = state.last(SEGMENTS, portal_id, SEGMENT_KEY_SIZE)
        if newest is None:
            continue
        key, row = newest
        position = read_log.position(portal_id)
        stands_at = (position.epoch, position.last_sequence) if position is not None else (0, 0)
        if stands_at < (split_segment_key(key)[1], row.last_sequence):
            raise LedgerCorrupt(f"read log, portal {portal.name}", "is older than the journal")


_Sealed = dict[int, list[tuple[int, SegmentRow]]]  # by epoch: first sequence and row, in order


def verify_segments(
    state: State, read_log: ReadLog, progress: Progress = lambda _stage, _done, _total: None
) -> SegmentsReport:
    """Verify all batches of a read log that nobody writes.

    Those of every segment that is sealed and not pruned are there and make its digest; after the
    last of them every batch up to the portal's position is there; no other is. LedgerCorrupt names
    the portal and the sequence of the first difference.
    """
    positions = dict(read_log.positions())
    sealed: dict[bytes, _Sealed] = {portal_id: {} for portal_id in positions}
    segments = pruned = total = 0
    for key, row in state.scan(SEGMENTS):
        portal_id, epoch, first = split_segment_key(key)
        sealed.setdefault(portal_id, {}).setdefault(epoch, []).append((first, row))
        segments += 1
        pruned += row.pruned
        total += 0 if row.pruned else row.last_sequence + 1 - first
    for portal_id, position in positions.items():
        total += position.last_sequence - _end(sealed[portal_id].get(position.epoch, []))
    count = _Count(progress, total)
    for portal_id, epochs in sealed.items():
        row_of_portal = state.get(PORTALS, portal_id)
        name = row_of_portal.name if row_of_portal is not None else portal_id.hex()
        _verify_portal(read_log, portal_id, name, positions.get(portal_id), epochs, count)
    progress("read log", count.batches, count.total)
    return SegmentsReport(segments, pruned, count.batches, count.reads)


def _end(listed: list[tuple[int, SegmentRow]]) -> int:
    """The last sequence that a segment of this epoch holds."""
    return listed[-1][1].last_sequence if listed else 0


def _verify_portal(
    read_log: ReadLog,
    portal_id: bytes,
    name: str,
    position: Position | None,
    epochs: _Sealed,
    count: _Count,
) -> None:
    if position is None or max(epochs, default=0) > position.epoch:
        raise LedgerCorrupt(f"read log, portal {name}", "is older than the journal")
    for epoch in sorted({*epochs, *read_log.epochs(portal_id), position.epoch}):
        where = f"read log, portal {name}, epoch {epoch}"
        if epoch > position.epoch:
            raise LedgerCorrupt(where, "has batches, and the portal's position knows no such epoch")
        listed = epochs.get(epoch, [])
        for first, row in listed:
            if not row.pruned:
                _verify_segment(read_log, portal_id, epoch, where, first, row, count)
        last = _end(listed)
        if epoch == position.epoch:
            if last > position.last_sequence:
                raise LedgerCorrupt(where, "is older than the journal")
            for _, _ in _expect(
                read_log, portal_id, epoch, where, last + 1, position.last_sequence, count
            ):
                continue
            last = position.last_sequence
        beyond = next(read_log.packed(portal_id, epoch, last + 1), None)
        if beyond is not None:
            raise LedgerCorrupt(f"{where}, batch {beyond[0]}", "is there, and nothing says so")


def _verify_segment(
    read_log: ReadLog,
    portal_id: bytes,
    epoch: int,
    where: str,
    first: int,
    row: SegmentRow,
    count: _Count,
) -> None:
    digest, reads_before = DIGEST_START, count.reads
    batches = _expect(read_log, portal_id, epoch, where, first, row.last_sequence, count)
    for sequence, packed in batches:
        digest = extend_digest(digest, sequence, sha256(packed).digest())
    if (digest, count.reads - reads_before) != (row.digest, row.reads):
        raise LedgerCorrupt(
            f"{where}, batches {first} to {row.last_sequence}", "are not those the journal sealed"
        )


def _expect(
    read_log: ReadLog,
    portal_id: bytes,
    epoch: int,
    where: str,
    first: int,
    last: int,
    count: _Count,
) -> Iterator[tuple[int, bytes]]:
    """Every batch from `first` to `last`."""
    batches = read_log.packed(portal_id, epoch, first)
    for expected in range(first, last + 1):
        try:
            sequence, packed = next(batches, (0, b""))
            if sequence == expected:
                count.add(len(unpack_block(packed).columns))
        except LedgerCorrupt as error:
            raise LedgerCorrupt(f"{where}, batch {expected}", str(error)) from None
        if sequence != expected:
            raise LedgerCorrupt(f"{where}, batch {expected}", "is missing")
        yield sequence, packed
