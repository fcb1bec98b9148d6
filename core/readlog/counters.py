"""Counters out of stored batches, and the counters that are kept instead of batches that are deleted.

    digest  =  SHA-256("jinku counters v1" ‖ u64 BE turn ‖ counters as packed, in the order of their keys)

The counters of a turn are those that the batch of this turn found. They follow from those of an earlier
turn and the batches in between, whose segments' digests the journal has; at turn 0 there are none.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import numpy as np

from core.errors import LedgerCorrupt
from core.kernels import UNKNOWN_NUMBER, TagIndex
from core.portal.columns import U8, U32
from core.readlog.layout import KEPT, Block, Counter, pack_counter, unpack_block
from core.readlog.segments import DIGEST_START, extend_digest
from core.readlog.stored import StoredReads
from jinku.type.v1.tag_pb2 import TagScheme, Verdict

_LABEL: Final = b"jinku counters v1"
_ADVANCING: Final = (Verdict.VERDICT_GENUINE, Verdict.VERDICT_NOT_ACTIVE)


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """A sealed segment with counters."""

    portal_id: bytes
    epoch: int
    first_sequence: int
    last_sequence: int
    digest: bytes
    name: str  # of the portal


def advances(block: Block) -> tuple[U8, U32]:
    """Identities (N, width) and counters (N,) of the reads that advanced one, in their order; of a batch
    with counters.
    """
    columns = block.columns
    rows = np.flatnonzero(np.isin(block.verdicts, _ADVANCING))
    width = 3 if columns.scheme == TagScheme.TAG_SCHEME_SUN else 4
    counters = np.zeros((len(rows), 4), np.uint8)
    counters[:, :width] = columns.evidence[rows, :width]
    return columns.identity[rows], counters.view("<u4").reshape(-1)


class CounterSet:
    """The highest counter of each identity."""

    def __init__(self) -> None:
        self._index = TagIndex()

    def __len__(self) -> int:
        return len(self._index)

    def raise_to(self, identities: U8, counters: U32) -> None:
        """Take these, (N, width) and (N,), where they are greater."""
        if len(counters):
            ones = np.ones(len(counters), np.uint8)
            numbers = self._index.put_many(np.ascontiguousarray(identities), ones, ones, ones)
            self._index.advance_counters(numbers, np.ascontiguousarray(counters))

    def difference(self, rows: Iterable[tuple[U8, U32]]) -> bytes | None:
        """An identity whose counter is another in `rows`, or is in one of the two alone; None: they are
        the same. `rows` has no identity twice.
        """
        own = self._index.counters(0, len(self._index))
        met = np.zeros(len(own), bool)
        for identities, counters in rows:
            numbers = self._index.find_many(identities)
            known = numbers != UNKNOWN_NUMBER
            wrong = ~known
            wrong[known] = own[numbers[known]] != counters[known]
            if wrong.any():
                return bytes(identities[np.flatnonzero(wrong)[0]])
            met[numbers] = True
        return None if met.all() else self._index.identity_of(int(np.flatnonzero(~met)[0]))


def counted(
    log: StoredReads, runs: Iterable[Run], first_turn: int, end_turn: int
) -> Iterator[tuple[int, Block]]:
    """Turn and batch of every batch with counters of these turns, in their order.

    Each run is verified against its digest before anything of it is handed out. LedgerCorrupt if one is
    not what was sealed, or a turn is missing.
    """
    by_portal: dict[bytes, list[Run]] = {}
    for run in sorted(runs):
        by_portal.setdefault(run.portal_id, []).append(run)
    lines = [_of_portal(log, listed, first_turn) for listed in by_portal.values()]
    expected = first_turn
    for turn, _, block in heapq.merge(*lines, key=lambda one: one[:2]):
        if turn >= end_turn:
            break
        if turn != expected:
            raise LedgerCorrupt("read log", f"has no batch of turn {expected}, and one of {turn}")
        expected += 1
        yield turn, block
    if expected != end_turn:
        raise LedgerCorrupt("read log", f"has no batch of turn {expected}")


def _of_portal(
    log: StoredReads, runs: Iterable[Run], first_turn: int
) -> Iterator[tuple[int, bytes, Block]]:
    for run in runs:
        _verify(log, run)
        for sequence, packed in log.packed(run.portal_id, run.epoch, run.first_sequence):
            if sequence > run.last_sequence:
                break
            block = unpack_block(packed)
            if block.turn is not None and block.turn >= first_turn:
                yield block.turn, run.portal_id, block


def _verify(log: StoredReads, run: Run) -> None:
    digest = DIGEST_START
    for sequence, packed in log.packed(run.portal_id, run.epoch, run.first_sequence):
        if sequence > run.last_sequence:
            break
        digest = extend_digest(digest, sequence, sha256(packed).digest())
    if digest != run.digest:
        raise LedgerCorrupt(
            f"read log, portal {run.name}, epoch {run.epoch}, batches {run.first_sequence} to "
            f"{run.last_sequence}",
            "are not those the journal sealed",
        )


def digest_kept(
    log: StoredReads, turn: int, changed: Mapping[bytes, int] | None = None
) -> tuple[int, bytes]:
    """How many counters are kept, and their digest as of `turn`, after those of `changed` (counter by
    identity) have changed.
    """
    changes = sorted(
        (log.blinded(identity), pack_counter(Counter(identity, counter)))
        for identity, counter in (changed or {}).items()
    )
    digest = sha256(_LABEL + turn.to_bytes(8, "big"))
    count = at = 0
    for rows in log.counters(KEPT):
        end = at
        while end < len(changes) and changes[end][0] <= rows[-1][0]:
            end += 1
        if end > at:
            rows = sorted({**dict(rows), **dict(changes[at:end])}.items())
            at = end
        digest.update(b"".join(packed for _, packed in rows))
        count += len(rows)
    digest.update(b"".join(packed for _, packed in changes[at:]))
    return count + len(changes) - at, digest.digest()
