"""What the journal knows of the read log: the digest of every complete run of batches."""

from __future__ import annotations

from core.errors import LedgerCorrupt
from core.ledger.tables import PORTALS, SEGMENTS, WritableState, segment_key
from core.mechanisms.history import Where, need, remember
from core.store.v1.rows_pb2 import SegmentRow
from jinku.event.v1.event_pb2 import ReadSegmentPruned, ReadSegmentSealed


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
