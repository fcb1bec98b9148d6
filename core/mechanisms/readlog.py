"""What the journal knows of the read log: the digest of every complete run of batches, and of the counters
as they were before the batches that are kept.
"""

from __future__ import annotations

from core.errors import LedgerCorrupt
from core.ledger.tables import (
    PORTALS,
    READ_COUNTERS,
    REALM_KEY,
    SEGMENTS,
    WritableState,
    segment_key,
)
from core.mechanisms.history import Where, need, remember
from core.store.v1.rows_pb2 import CountersRow, SegmentRow
from jinku.event.v1.event_pb2 import CountersKept, ReadSegmentPruned, ReadSegmentSealed


def apply_read_segment_sealed(event: ReadSegmentSealed, state: WritableState, where: Where) -> None:
    """A new run of batches. LedgerCorrupt if it begins where another one does."""
    portal = need(state, PORTALS, event.portal_id, where)
    key = segment_key(event.portal_id, event.portal_epoch, event.first_sequence)
    if state.get(SEGMENTS, key) is not None:
        raise LedgerCorrupt(str(where), "seals a read segment that is sealed already")
    row = SegmentRow(
        institution_id=portal.institution_id,
        last_sequence=event.last_sequence,
        reads=event.reads,
        digest=event.digest,
        last_received_ns=event.last_received_ns,
        first_turn=event.first_turn,
        end_turn=event.end_turn,
        counter_batches=event.counter_batches,
    )
    state.put(SEGMENTS, key, row)
    remember(state, where, portal.institution_id, event.portal_id)


def apply_read_segment_pruned(event: ReadSegmentPruned, state: WritableState, where: Where) -> None:
    """Its batches are gone; the row with the digest stays."""
    key = segment_key(event.portal_id, event.portal_epoch, event.first_sequence)
    row = need(state, SEGMENTS, key, where)
    row.pruned = True
    state.put(SEGMENTS, key, row)
    remember(state, where, row.institution_id, event.portal_id)


def apply_counters_kept(event: CountersKept, state: WritableState, where: Where) -> None:
    """The newest, and the one before it. LedgerCorrupt if it is not after that."""
    before = state.get(READ_COUNTERS, REALM_KEY)
    if before is not None and event.turn <= before.turn:
        raise LedgerCorrupt(str(where), "keeps counters that are older than those kept")
    row = CountersRow(turn=event.turn, tags=event.tags, digest=event.digest)
    if before is not None:
        row.turn_before, row.digest_before = before.turn, before.digest
    state.put(READ_COUNTERS, REALM_KEY, row)
