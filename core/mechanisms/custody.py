"""Who answers for an item: exactly one holder at every instant (HND-20, design section 1)."""

from __future__ import annotations

from core.errors import LedgerCorrupt
from core.ids import ID_SIZE
from core.ledger.tables import CONTAINERS, WritableState
from core.mechanisms.history import Where, need, remember
from jinku.event.v1.event_pb2 import CustodyMoved
from jinku.type.v1.place_pb2 import CustodyPlace

_NOWHERE = CustodyPlace.CUSTODY_PLACE_UNSPECIFIED


def apply_custody_moved(event: CustodyMoved, state: WritableState, where: Where) -> None:
    """The holder or the place changes from what it was to what the event says."""
    container = need(state, CONTAINERS, event.container_id, where)
    if container.custody != event.before:
        raise LedgerCorrupt(str(where), "moves a container from a holder that does not hold it")
    after = event.after
    if len(after.holder_id) != ID_SIZE or after.place == _NOWHERE:
        raise LedgerCorrupt(str(where), "leaves a container without a holder")
    container.custody.CopyFrom(after)
    state.put(CONTAINERS, event.container_id, container)
    holders = (event.before.holder_id, after.holder_id)
    remember(state, where, container.institution_id, event.container_id, *holders)
