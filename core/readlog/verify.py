"""Proves a read log against the journal: every batch that has to be there is, and is what it was."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from core.errors import LedgerCorrupt
from core.ledger.tables import (
    PORTALS,
    READ_COUNTERS,
    REALM_KEY,
    SEGMENT_KEY_SIZE,
    SEGMENTS,
    State,
    split_segment_key,
)
from core.readlog.counters import CounterSet, advances, digest_kept
from core.readlog.layout import COUNTERS, KEPT, Block, Position, unpack_block
from core.readlog.segments import DIGEST_START, extend_digest
from core.readlog.stored import StoredReads
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
    # Tags with a counter.
    counters: int = 0


class _Count:
    """How far it has come, and what the batches so far say of counters."""

    def __init__(self, progress: Progress, total: int, read_log: StoredReads) -> None:
        self.progress, self.total = progress, total
        self.batches = self.reads = 0
        self._log = read_log
        self._kept_turn = read_log.kept_turn or 0
        self._turns = array("Q")
        self._counters = CounterSet()
        self._terms: set[bytes] = set()
        for identities, counters in read_log.counter_arrays(KEPT):
            self._counters.raise_to(identities, counters)

    def add(self, block: Block) -> None:
        self.batches += 1
        self.reads += len(block.columns)
        self._add_terms(block.basis.terms)
        if block.turn is not None and block.turn >= self._kept_turn:
            self._turns.append(block.turn)
            self._counters.raise_to(*advances(block))
        if self.batches % _TELL_EVERY == 0:
            self.progress("read log", self.batches, self.total)

    def _add_terms(self, digest: bytes) -> None:
        if digest not in self._terms:
            terms = self._log.terms(digest)
            if terms is None or sha256(terms).digest() != digest:
                raise LedgerCorrupt("read log", "the terms that it names are missing or others")
            self._terms.add(digest)

    def verify_counters(self) -> int:
        """Every turn from the kept counters on is there once, and they and these batches make the
        newest counters; how many there are.
        """
        turns = np.sort(np.frombuffer(self._turns, np.uint64))
        expected = np.arange(self._kept_turn, self._log.turns, dtype=np.uint64)
        if not np.array_equal(turns, expected):
            both = min(len(turns), len(expected))
            differing = np.flatnonzero(turns[:both] != expected[:both])
            at = int(differing[0]) if len(differing) else both
            turn = self._kept_turn + at
            raise LedgerCorrupt("read log", f"the batch of turn {turn} is not there once")
        identity = self._counters.difference(self._log.counter_arrays(COUNTERS))
        if identity is not None:
            where = f"read log, counter {self._log.blinded(identity).hex()}"
            raise LedgerCorrupt(where, "is not what the batches make it")
        if self._log.counted.sum != self._log.sum_counters():
            raise LedgerCorrupt("read log, counters", "have another sum than was written with them")
        return len(self._counters)


def check_not_older(state: State, read_log: StoredReads) -> None:
    """LedgerCorrupt if the journal has batches that the read log, or its counters, do not know.

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
        # Batches with counters become durable in the order of their turns.
        if row.counter_batches and read_log.turns < row.first_turn + row.counter_batches:
            raise LedgerCorrupt("read log, counters", "are older than the journal")


def check_not_newer(read_log: StoredReads, journal_size: int) -> None:
    """LedgerCorrupt if batches were judged when the journal was longer: it was put back from a copy."""
    for portal_id, position in read_log.positions():
        newest = read_log.first_basis(portal_id, position.epoch, position.last_sequence)
        if newest is not None and newest[1].journal_size > journal_size:
            raise LedgerCorrupt(
                "the journal",
                f"has {journal_size} entries, and the read log has a batch that was judged when there "
                f"were {newest[1].journal_size}: an older copy was put back, see docs/operations.md",
            )


_Sealed = dict[int, list[tuple[int, SegmentRow]]]  # by epoch: first sequence and row, in order


def verify_segments(
    state: State, read_log: StoredReads, progress: Progress = lambda _stage, _done, _total: None
) -> SegmentsReport:
    """Verify all batches of a read log that nobody writes.

    Those of every segment that is sealed and not pruned are there and make its digest; after the
    last of them every batch up to the portal's position is there; no other is. The counters that are
    kept are those of the journal, and with the batches after them make the newest. LedgerCorrupt names
    the portal and the sequence of the first difference.
    """
    verify_kept(state, read_log)
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
    count = _Count(progress, total, read_log)
    for portal_id, epochs in sealed.items():
        row_of_portal = state.get(PORTALS, portal_id)
        name = row_of_portal.name if row_of_portal is not None else portal_id.hex()
        _verify_portal(read_log, portal_id, name, positions.get(portal_id), epochs, count)
    progress("read log", count.batches, count.total)
    counters = count.verify_counters()
    return SegmentsReport(segments, pruned, count.batches, count.reads, counters)


def verify_kept(state: State, read_log: StoredReads) -> None:
    """The counters that are kept are those that the journal was told of, or those before as long as it
    takes to write them, and nothing was deleted that they do not stand for. Else LedgerCorrupt.
    """
    turn = read_log.kept_turn
    tags, digest = digest_kept(read_log, turn or 0)
    row = state.get(READ_COUNTERS, REALM_KEY)
    if turn is None:
        known = not tags and (row is None or not row.digest_before)
    else:
        told = [] if row is None else [(row.turn, row.digest), (row.turn_before, row.digest_before)]
        known = (turn, digest) in told
    if not known:
        raise LedgerCorrupt("read log, kept counters", "are not those the journal has")
    for _, segment in state.scan(SEGMENTS):
        if segment.pruned and segment.counter_batches and segment.end_turn > (turn or 0):
            raise LedgerCorrupt("read log, kept counters", "are older than what was deleted")


def _end(listed: list[tuple[int, SegmentRow]]) -> int:
    """The last sequence that a segment of this epoch holds."""
    return listed[-1][1].last_sequence if listed else 0


def _verify_portal(
    read_log: StoredReads,
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
    read_log: StoredReads,
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
    read_log: StoredReads,
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
                count.add(unpack_block(packed))
        except LedgerCorrupt as error:
            raise LedgerCorrupt(f"{where}, batch {expected}", str(error)) from None
        if sequence != expected:
            raise LedgerCorrupt(f"{where}, batch {expected}", "is missing")
        yield sequence, packed
