"""Refusals beyond a caller's quota get their entry (HND-26). The service's own command."""

from __future__ import annotations

from core.decisions import Beside, Context, Decision, Handler, reason
from core.ledger.tables import SUPPRESSED, State
from core.store.v1.commands_pb2 import SumUpRefusals
from jinku.event.v1.event_pb2 import AlarmRaised, Event, RefusalsCounted
from jinku.type.v1.reason_pb2 import ReasonCode


def decide_sum_up(request: SumUpRefusals, state: State, context: Context) -> Decision:
    """One event for all of them; an alarm too, if each would have raised one."""
    row = state.get(SUPPRESSED, request.key)
    if row is None:
        raise ValueError("nothing is suppressed there")
    alarming = bool(request.key[-1])
    counted = RefusalsCounted(
        device_id=row.device_id,
        principal=row.principal,
        count=row.count,
        first_ns=row.first_ns,
        last_ns=row.last_ns,
        digest=row.digest,
        alarming=alarming,
    )
    events = [Event(refusals_counted=counted)]
    if alarming:
        name = row.principal.rpartition("/")[2]
        alarm = AlarmRaised(
            alarm_id=context.new_id(),
            reasons=[reason(ReasonCode.REASON_CODE_REFUSALS_SUPPRESSED, name, row.device_id)],
            suppressed_count=row.count,
            suppressed_digest=row.digest,
        )
        events.append(Event(alarm_raised=alarm))
    return Decision(events=events, beside=[Beside(SUPPRESSED, request.key, None)])


REFUSAL_HANDLERS = (Handler(SumUpRefusals, decide_sum_up),)
