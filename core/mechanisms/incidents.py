"""What somebody must look at (POR-05, HND-26)."""

from __future__ import annotations

from core.ledger.tables import ALARMS, WritableState
from core.mechanisms.history import Where, need_new, remember
from core.store.v1.rows_pb2 import AlarmRow
from jinku.event.v1.event_pb2 import AlarmRaised


def apply_alarm_raised(event: AlarmRaised, state: WritableState, where: Where) -> None:
    """An alarm, in the history of all that it names."""
    need_new(state, ALARMS, event.alarm_id, where)
    row = AlarmRow(institution_id=event.institution_id, entry_index=where.entry_index)
    state.put(ALARMS, event.alarm_id, row)
    subjects = (event.portal_id, event.tag_id, event.container_id, event.institution_id)
    remember(state, where, event.institution_id, *subjects)
