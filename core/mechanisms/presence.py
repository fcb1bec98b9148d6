"""What passed where (POR-01): the last passage of each tag at each portal, and all of them in the
history."""

from __future__ import annotations

from core.ledger.tables import PASSAGES, PORTALS, TAGS, WritableState
from core.mechanisms.history import Where, need, remember
from core.store.v1.rows_pb2 import PassageRow
from jinku.event.v1.event_pb2 import PassageRecorded


def apply_passage_recorded(event: PassageRecorded, state: WritableState, where: Where) -> None:
    """The newest decided passage takes the place of the one before. Moves no custody by itself."""
    portal = need(state, PORTALS, event.portal_id, where)
    tag = need(state, TAGS, event.tag_id, where)
    row = PassageRow(
        institution_id=portal.institution_id,
        portal_epoch=event.portal_epoch,
        first_sequence=event.first_sequence,
        last_sequence=event.last_sequence,
        last_read_ns=event.last_read_ns,
    )
    state.put(PASSAGES, event.portal_id + event.tag_id, row)
    # The history is the box's; the row above is the portal's, which may be another institution's.
    subjects = (event.tag_id, event.container_id, event.portal_id)
    remember(state, where, tag.institution_id, *subjects)
