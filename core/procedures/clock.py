"""The service's clock jumped: somebody must look (APP-11). The service's own command."""

from __future__ import annotations

from core.decisions import Context, Decision, Handler, reason
from core.ledger.tables import State
from core.store.v1.commands_pb2 import RaiseTimeAlarm
from jinku.event.v1.event_pb2 import AlarmRaised, Event
from jinku.type.v1.reason_pb2 import ReasonCode


def decide_raise_time_alarm(request: RaiseTimeAlarm, state: State, context: Context) -> Decision:
    """One alarm that says how far it jumped."""
    seconds = (request.shown_ns - request.expected_ns) / 1e9
    alarm = AlarmRaised(
        alarm_id=context.new_id(),
        reasons=[reason(ReasonCode.REASON_CODE_TIME_JUMPED, f"{seconds:+.0f} s")],
        suppressed_count=request.further_count,
    )
    return Decision(events=[Event(alarm_raised=alarm)])


CLOCK_HANDLERS = (Handler(RaiseTimeAlarm, decide_raise_time_alarm),)
