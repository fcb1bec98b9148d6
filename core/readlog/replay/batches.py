"""The stored batches of all portals, in the order in which they were judged.

A portal's batches come in their own order, each run of them proven by its digest as it ends; among
portals they come by the journal's size that they saw, and by their turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from core.errors import LedgerCorrupt
from core.ledger.tables import PORTALS, SEGMENTS, State, split_segment_key
from core.readlog.layout import Block, Position, unpack_block
from core.readlog.replay.report import Report
from core.readlog.segments import DIGEST_START, extend_digest
from core.readlog.stored import StoredReads
from core.store.v1.rows_pb2 import PortalRow, SegmentRow


@dataclass(frozen=True, slots=True)
class Batch:
    """One stored batch."""

    portal_id: bytes
    portal: str
    epoch: int
    sequence: int
    block: Block

    def __str__(self) -> str:
        return f"read log, portal {self.portal}, epoch {self.epoch}, batch {self.sequence}"

    @property
    def order(self) -> tuple[int, int, int]:
        """In what order it was judged, as far as verdicts depend on it."""
        basis = self.block.basis
        # Without counters it may go before whatever saw the same tags.
        counted = self.block.turn is not None
        return basis.journal_size, counted, basis.turn if counted else 0


@dataclass(frozen=True, slots=True)
class _Run:
    """Batches that follow each other; `row` of a sealed segment, None of what is not sealed."""

    epoch: int
    first: int
    last: int
    row: SegmentRow | None


class Source:
    """Which batches there must be."""

    def __init__(self, state: State, read_log: StoredReads) -> None:
        self._log = read_log
        self.segments_pruned = self.reads_pruned = self.total = 0
        self._lines: list[tuple[bytes, PortalRow, list[_Run]]] = []
        for portal_id, position in read_log.positions():
            row = state.get(PORTALS, portal_id)
            if row is None:
                raise LedgerCorrupt(
                    "read log", f"has reads of {portal_id.hex()}, which is no portal"
                )
            self._lines.append((portal_id, row, self._runs(state, portal_id, position)))

    def _runs(self, state: State, portal_id: bytes, position: Position) -> list[_Run]:
        runs: list[_Run] = []
        sealed_through = 0
        for key, row in state.scan(SEGMENTS, portal_id):
            _, epoch, first = split_segment_key(key)
            if epoch == position.epoch:
                sealed_through = row.last_sequence
            if row.pruned:
                self.segments_pruned += 1
                self.reads_pruned += row.reads
            else:
                runs.append(_Run(epoch, first, row.last_sequence, row))
        if position.last_sequence > sealed_through:
            runs.append(_Run(position.epoch, sealed_through + 1, position.last_sequence, None))
        self.total += sum(run.last + 1 - run.first for run in runs)
        return runs

    def lines(self) -> list[Iterator[Batch]]:
        """The batches of each portal."""
        return [self._line(portal_id, row.name, runs) for portal_id, row, runs in self._lines]

    def _line(self, portal_id: bytes, name: str, runs: list[_Run]) -> Iterator[Batch]:
        before = (0, 0, 0)
        for run in runs:
            digest = DIGEST_START
            stored = self._log.packed(portal_id, run.epoch, run.first)
            for expected in range(run.first, run.last + 1):
                where = f"read log, portal {name}, epoch {run.epoch}, batch {expected}"
                try:
                    sequence, packed = next(stored, (0, b""))
                    if sequence != expected:
                        raise LedgerCorrupt(where, "is missing")
                    batch = Batch(portal_id, name, run.epoch, sequence, unpack_block(packed))
                except LedgerCorrupt as error:
                    raise (
                        error if error.where == where else LedgerCorrupt(where, str(error))
                    ) from None
                after = _moment(batch.block)
                if any(now < then for now, then in zip(after, before, strict=True)):
                    raise LedgerCorrupt(where, "was judged before the batch that it follows")
                before = after
                digest = extend_digest(digest, sequence, sha256(packed).digest())
                yield batch
            if run.row is not None and digest != run.row.digest:
                raise LedgerCorrupt(
                    f"read log, portal {name}, epoch {run.epoch}, batches {run.first} to {run.last}",
                    "are not those the journal sealed",
                )


def _moment(block: Block) -> tuple[int, int, int]:
    """What never goes back from batch to batch of a portal."""
    return block.received_ns, block.basis.journal_size, block.basis.turn


def in_order(source: Source, report: Report) -> Iterator[Batch]:
    """Every batch. The next of a portal is read, and what came before it proven, only when the last one
    that was handed out has been dealt with.
    """
    report.segments_pruned = source.segments_pruned
    report.reads_pruned = source.reads_pruned
    yield from heapq.merge(*source.lines(), key=lambda batch: batch.order)
