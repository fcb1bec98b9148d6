"""What portals' reads cause: alarms about tags that must not pass, and passages that move custody.

These commands are the service's own: nobody is answered, and the same reads make the same command.
"""

from __future__ import annotations

from google.protobuf.message import Message

from core.decisions import Context, Decision, Handler, reason
from core.ledger.tables import CONTAINERS, PASSAGES, PORTALS, TAGS, IndexKind, State
from core.store.v1.commands_pb2 import RaisePortalAlarm, RecordPassage
from core.store.v1.rows_pb2 import ContainerRow, PortalRow, TagRow
from jinku.event.v1.event_pb2 import AlarmRaised, CustodyMoved, Event, PassageRecorded
from jinku.type.v1.place_pb2 import Custody, CustodyPlace
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.type.v1.tag_pb2 import Direction

_IN, _OUT = Direction.DIRECTION_IN, Direction.DIRECTION_OUT
_UNDETERMINED = Direction.DIRECTION_UNDETERMINED
_WITH_HOLDER = CustodyPlace.CUSTODY_PLACE_WITH_HOLDER
_IN_TRANSIT = CustodyPlace.CUSTODY_PLACE_IN_TRANSIT


def decide_raise_portal_alarm(
    request: RaisePortalAlarm, state: State, context: Context
) -> Decision:
    """One alarm, naming the tag, its box and the institution that owns it, as far as registered."""
    portal = state.get(PORTALS, request.portal_id)
    if portal is None:
        return _no_portal(request.portal_id)
    tag_id, tag, container = _look_up(state, request.identity)
    owner = container.institution_id if container else portal.institution_id
    alarm = AlarmRaised(
        alarm_id=context.new_id(),
        institution_id=owner,
        portal_id=request.portal_id,
        tag_id=tag_id,
        container_id=tag.container_id if tag else b"",
        identity=b"" if tag else request.identity,
        reasons=[_about(record, tag_id, container) for record in request.reasons],
        seen_at_ns=request.seen_at_ns,
        suppressed_count=request.suppressed_count,
        suppressed_digest=request.suppressed_digest,
    )
    return Decision(events=[Event(alarm_raised=alarm)])


def decide_record_passage(request: RecordPassage, state: State, context: Context) -> Decision:
    """The passage, and what follows from its direction.

    IN: the portal's vault answers for the box from now on. OUT: it is on the way, and whoever
    answered for it still does until a handover. UNDETERMINED: an alarm. A passage whose last read
    is not after the last one journalled of this tag here is the same reads again: nothing happens.
    """
    portal = state.get(PORTALS, request.portal_id)
    if portal is None:
        return _no_portal(request.portal_id)
    tag = state.get(TAGS, request.tag_id)
    if tag is None:
        return Decision(
            reasons=[reason(ReasonCode.REASON_CODE_TAG_NOT_REGISTERED, item_id=request.tag_id)]
        )
    before = state.get(PASSAGES, request.portal_id + request.tag_id)
    if (
        before is not None
        and before.portal_epoch == request.portal_epoch
        and before.last_read_ns >= request.last_read_ns
    ):
        return Decision()
    events = [Event(passage_recorded=_passage(request, tag))]
    container = state.get(CONTAINERS, tag.container_id)
    if container is not None:
        events += _moves(request, tag, container, portal)
    if request.direction == _UNDETERMINED:
        record = reason(ReasonCode.REASON_CODE_PASSAGE_UNDETERMINED)
        alarm = AlarmRaised(
            alarm_id=context.new_id(),
            institution_id=container.institution_id if container else portal.institution_id,
            portal_id=request.portal_id,
            tag_id=request.tag_id,
            container_id=tag.container_id,
            reasons=[_about(record, request.tag_id, container)],
            seen_at_ns=request.last_read_ns,
        )
        events.append(Event(alarm_raised=alarm))
    return Decision(events=events)


def _passage(request: RecordPassage, tag: TagRow) -> PassageRecorded:
    return PassageRecorded(
        portal_id=request.portal_id,
        tag_id=request.tag_id,
        container_id=tag.container_id,
        direction=request.direction,
        confidence_permille=request.confidence_permille,
        first_read_ns=request.first_read_ns,
        last_read_ns=request.last_read_ns,
        reads_inner=request.reads_inner,
        reads_outer=request.reads_outer,
        portal_epoch=request.portal_epoch,
        first_sequence=request.first_sequence,
        last_sequence=request.last_sequence,
    )


def _moves(
    request: RecordPassage, tag: TagRow, container: ContainerRow, portal: PortalRow
) -> list[Event]:
    """The change of custody, if there is one."""
    after = Custody()
    after.CopyFrom(container.custody)
    if request.direction == _IN:
        after.holder_id = portal.vault_id
        after.place = _WITH_HOLDER
    elif request.direction == _OUT:
        after.place = _IN_TRANSIT
    if after == container.custody:
        return []
    moved = CustodyMoved(container_id=tag.container_id, before=container.custody, after=after)
    return [Event(custody_moved=moved)]


def _look_up(state: State, identity: bytes) -> tuple[bytes, TagRow | None, ContainerRow | None]:
    """Tag id, tag and box of an identity; empty where nobody registered it."""
    tag_id = state.find(IndexKind.TAG_IDENTITY, identity) if identity else None
    tag = state.get(TAGS, tag_id) if tag_id else None
    if tag_id is None or tag is None:
        return b"", None, None
    return tag_id, tag, state.get(CONTAINERS, tag.container_id)


def _about(record: ReasonRecord, tag_id: bytes, container: ContainerRow | None) -> ReasonRecord:
    """The reason with the tag's id, and the box's label where it names no item itself."""
    label = container.label if container else ""
    return ReasonRecord(code=record.code, item_id=tag_id, item=record.item or label)


def _no_portal(portal_id: bytes) -> Decision:
    record = reason(ReasonCode.REASON_CODE_PORTAL_NOT_REGISTERED, item_id=portal_id)
    return Decision(reasons=[record])


PORTAL_HANDLERS: dict[type[Message], Handler] = {
    RaisePortalAlarm: Handler(RaisePortalAlarm, decide_raise_portal_alarm),
    RecordPassage: Handler(RecordPassage, decide_record_passage),
}
