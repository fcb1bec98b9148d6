"""A command id that comes back with another body: refused and alarmed (MSG-05).

The refusal is no caller's procedure: the sequencer decides it in place of the command's own.
"""

from __future__ import annotations

from core.decisions import Context, Decision, reason
from core.ledger.tables import CONTAINERS, TAGS, State
from jinku.event.v1.event_pb2 import AlarmRaised, Event, Events
from jinku.type.v1.command_pb2 import CommandId
from jinku.type.v1.reason_pb2 import ReasonCode

_CONCERNED = ("institution_id", "portal_id", "tag_id", "container_id")


def decide_reused(first: Events, state: State, context: Context) -> Decision:
    """One alarm, about what the first command of this id was about, as far as that is known."""
    why = [reason(ReasonCode.REASON_CODE_COMMAND_ID_REUSED, show_command_id(context.command_id))]
    alarm = AlarmRaised(
        alarm_id=context.new_id(),
        reasons=why,
        command_id=context.command_id,
        request_digest=context.request_digest,
    )
    for field, value in _concerned(first, state).items():
        setattr(alarm, field, value)
    return Decision(events=[Event(alarm_raised=alarm)], reasons=why)


def show_command_id(command_id: CommandId) -> str:
    """A client's command id as its logs show it, epoch/sequence; the others are nobody's to see."""
    client = command_id.client
    return f"{client.epoch}/{client.sequence}" if command_id.HasField("client") else ""


def _concerned(first: Events, state: State) -> dict[str, bytes]:
    """The ids that the events name, the newest of each kind, and whose they are."""
    found: dict[str, bytes] = {}
    for event in first.events:
        body = getattr(event, event.WhichOneof("event") or "")
        for name in _CONCERNED:
            value = getattr(body, name, b"")
            if value:
                found[name] = value
    tag = state.get(TAGS, found["tag_id"]) if "tag_id" in found else None
    if tag is not None:
        found.setdefault("container_id", tag.container_id)
    box = state.get(CONTAINERS, found["container_id"]) if "container_id" in found else None
    if box is not None:
        found.setdefault("institution_id", box.institution_id)
    return found
