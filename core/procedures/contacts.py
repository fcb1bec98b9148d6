"""The contact person of an institution: registered, changed, ended, read.

The values are sealed beside the journal, which holds commitments to them. Who reads them is on
record, so reading is a command; its answer alone is no pure function of its entry: the values are
what lies beside the journal when it is answered, and nothing once they are erased.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.message import Message

from core.authority import Role
from core.decisions import Answer, Context, Decide, Decision, Handler, reason
from core.errors import WrappingKeyMissing
from core.ledger.tables import CONTACTS, SERVICES, SUBJECTS, IndexKind, State
from core.personal.office import Given, Office, Sealing, is_openable, open_values
from core.reasons import refusal
from core.store.v1.personal_pb2 import SubjectRow
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Event, Events
from jinku.event.v1.personal_pb2 import (
    ContactChanged,
    ContactEnded,
    ContactRegistered,
    PersonalValuesRead,
)
from jinku.type.v1.personal_pb2 import PersonalField
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.v1.common_pb2 import Outcome
from jinku.v1.contact_pb2 import (
    ChangeContactRequest,
    ChangeContactResponse,
    ContactValue,
    EndContactRequest,
    EndContactResponse,
    ReadContactRequest,
    ReadContactResponse,
    RegisterContactRequest,
    RegisterContactResponse,
)

NAME: Final = PersonalField.PERSONAL_FIELD_CONTACT_NAME
TELEPHONE: Final = PersonalField.PERSONAL_FIELD_CONTACT_TELEPHONE

OfficeOf = Callable[[], Office]


def decide_register_contact(
    request: RegisterContactRequest, state: State, context: Context, office: Office
) -> Decision:
    """Refused if the institution is not registered, or has a contact that is not to be replaced.

    With `replaces` an institution without one is refused too: it was another that was meant.
    """
    code = request.institution_code
    institution_id = state.find(IndexKind.INSTITUTION_CODE, code.encode())
    if institution_id is None:
        why = reason(ReasonCode.REASON_CODE_INSTITUTION_NOT_REGISTERED, code)
        return Decision(reasons=[why])
    earlier = state.get(CONTACTS, institution_id)
    if earlier is not None and not request.replaces:
        why = reason(ReasonCode.REASON_CODE_CONTACT_EXISTS, code, earlier.contact_id)
        return Decision(reasons=[why])
    if earlier is None and request.replaces:
        return Decision(reasons=[reason(ReasonCode.REASON_CODE_CONTACT_NOT_REGISTERED, code)])
    contact_id = context.new_id()
    sealing = Sealing(office, context.realm, context.entry_index, contact_id)
    sealing.begin(state)
    sealing.add(NAME, request.name)
    sealing.add(TELEPHONE, request.telephone)
    registered = ContactRegistered(
        contact_id=contact_id,
        institution_id=institution_id,
        values=sealing.commitments,
        replaces_contact_id=b"" if earlier is None else earlier.contact_id,
        registered_at_ns=context.decided_at_ns,
    )
    events = [*sealing.events, Event(contact_registered=registered)]
    return Decision(events=events, beside=sealing.beside)


def answer_register_contact(
    header: EntryHeader, events: Events, outcome: Outcome
) -> RegisterContactResponse:
    """With the id it made."""
    made = events.events[-1].contact_registered.contact_id if events.events else b""
    return RegisterContactResponse(outcome=outcome, contact_id=made)


def decide_change_contact(
    request: ChangeContactRequest, state: State, context: Context, office: Office
) -> Decision:
    """Refused if the person is no contact now, is erased, or nothing is to be changed.

    The earlier values stay: who wants them gone asks for an erasure, which needs two.
    """
    contact_id = request.contact_id
    reasons = _current_faults(state, contact_id, office)
    given = {NAME: "name", TELEPHONE: "telephone"}
    said = {number: name for number, name in given.items() if request.HasField(name)}
    if not reasons and not said:
        reasons = [_about(ReasonCode.REASON_CODE_NOTHING_TO_CHANGE, contact_id)]
    if reasons:
        return Decision(reasons=reasons)
    sealing = Sealing(office, context.realm, context.entry_index, contact_id)
    sealing.go_on(state)
    for number, name in said.items():
        sealing.add(number, getattr(request, name))
    changed = ContactChanged(
        contact_id=contact_id, values=sealing.commitments, changed_at_ns=context.decided_at_ns
    )
    return Decision(events=[Event(contact_changed=changed)], beside=sealing.beside)


def answer_change_contact(
    header: EntryHeader, events: Events, outcome: Outcome
) -> ChangeContactResponse:
    """The outcome says it all."""
    return ChangeContactResponse(outcome=outcome)


def decide_end_contact(request: EndContactRequest, state: State, context: Context) -> Decision:
    """Refused if the person is no contact now, or is erased."""
    reasons = _current_faults(state, request.contact_id)
    if reasons:
        return Decision(reasons=reasons)
    ended = ContactEnded(contact_id=request.contact_id, ended_at_ns=context.decided_at_ns)
    return Decision(events=[Event(contact_ended=ended)])


def answer_end_contact(header: EntryHeader, events: Events, outcome: Outcome) -> EndContactResponse:
    """The outcome says it all."""
    return EndContactResponse(outcome=outcome)


def decide_read_contact(
    request: ReadContactRequest, state: State, context: Context, office: Office
) -> Decision:
    """Refused if there is nobody, the values are erased, or more is asked for than the caller's
    role is given. What is accepted is on record with its purpose.
    """
    contact_id, reasons = find_contact(state, request)
    if not reasons:
        reasons = subject_faults(state, contact_id, office)
    roles = _roles(state, context)
    for asked in ("with_superseded", "with_openings"):
        if getattr(request, asked) and Role.PRIVACY_OFFICER not in roles:
            reasons.append(reason(ReasonCode.REASON_CODE_PRIVACY_OFFICER_ONLY, asked))
    if reasons:
        return Decision(reasons=reasons)
    read = PersonalValuesRead(
        subject_id=contact_id,
        purpose=request.purpose,
        superseded=request.with_superseded,
        openings=request.with_openings,
    )
    return Decision(events=[Event(personal_values_read=read)])


def answer_read_contact(
    header: EntryHeader, events: Events, outcome: Outcome, office: Office
) -> ReadContactResponse:
    """The values as the entry found them, or why they are withheld: erased since it was written.

    Asked again it gives nothing newer: who reads that has an entry of its own.
    """
    response = ReadContactResponse(outcome=outcome)
    if not events.events:
        return response
    read = events.events[0].personal_values_read
    response.contact_id = read.subject_id
    reasons, given = _open_now(office, header, read.subject_id)
    if reasons and reasons[0].code == ReasonCode.REASON_CODE_SUBJECT_KEY_MISSING:
        # Wrapped anew since that snapshot, and the old wrapping key destroyed.
        reasons, given = _open_now(office, header, read.subject_id)
    if reasons:
        response.withheld.CopyFrom(refusal(reasons))
    response.values.extend(
        ContactValue(
            field=one.value.field,
            text=one.opened.value.decode(),
            entry_index=one.value.entry_index,
            superseded=one.superseded,
            opening=one.opened.opening if read.openings else b"",
        )
        for one in given
        if read.superseded or not one.superseded
    )
    return response


def _open_now(
    office: Office, header: EntryHeader, subject_id: bytes
) -> tuple[list[ReasonRecord], list[Given]]:
    """Every value of a person that the entry found, or why none can be given any more."""
    with office.ledger.read() as state:
        reasons = subject_faults(state, subject_id, office)
        row = state.get(SUBJECTS, subject_id)
        if reasons or row is None:
            return reasons, []
        try:
            return [], open_values(office.keys, state, header.realm, subject_id, row, header.index)
        except WrappingKeyMissing:
            return [_about(ReasonCode.REASON_CODE_SUBJECT_KEY_MISSING, subject_id)], []


def find_contact(state: State, request: Any) -> tuple[bytes, list[ReasonRecord]]:
    """The contact that a request names by its own id or by its institution's code."""
    if request.WhichOneof("by") == "contact_id":
        return request.contact_id, []
    code = request.institution_code
    institution_id = state.find(IndexKind.INSTITUTION_CODE, code.encode())
    if institution_id is None:
        return b"", [reason(ReasonCode.REASON_CODE_INSTITUTION_NOT_REGISTERED, code)]
    contact = state.get(CONTACTS, institution_id)
    if contact is None:
        return b"", [reason(ReasonCode.REASON_CODE_CONTACT_NOT_REGISTERED, code)]
    return contact.contact_id, []


def subject_faults(
    state: State, subject_id: bytes, office: Office | None = None
) -> list[ReasonRecord]:
    """Why nothing can be done with somebody's values: nobody, erased, or no key to them."""
    row = state.get(SUBJECTS, subject_id)
    if row is None:
        return [_about(ReasonCode.REASON_CODE_SUBJECT_NOT_REGISTERED, subject_id)]
    if row.erased_at_ns:
        return [reason(ReasonCode.REASON_CODE_SUBJECT_ERASED, show_erasure(row), subject_id)]
    if office is not None and not is_openable(office.keys, state, subject_id):
        return [_about(ReasonCode.REASON_CODE_SUBJECT_KEY_MISSING, subject_id)]
    return []


def show_erasure(row: SubjectRow) -> str:
    """When, and under which entry."""
    return f"{show_day(row.erased_at_ns)}, entry {row.erased_entry_index}"


def show_day(time_ns: int) -> str:
    """A day, UTC."""
    return f"{datetime.fromtimestamp(time_ns // 1_000_000_000, UTC):%Y-%m-%d} UTC"


def _current_faults(
    state: State, contact_id: bytes, office: Office | None = None
) -> list[ReasonRecord]:
    """Of somebody who must be a contact now."""
    reasons = subject_faults(state, contact_id, office)
    row = state.get(SUBJECTS, contact_id)
    if not reasons and row is not None and row.ended_at_ns:
        reasons = [_about(ReasonCode.REASON_CODE_CONTACT_ENDED, contact_id)]
    return reasons


def _about(code: ReasonCode, subject_id: bytes) -> ReasonRecord:
    return reason(code, subject_id.hex(), subject_id)


def _roles(state: State, context: Context) -> frozenset[str]:
    row = state.get(SERVICES, context.device_id) if context.device_id else None
    return frozenset(row.roles) if row is not None else frozenset()


def with_office(
    decide: Callable[[Any, State, Context, Office], Decision], office: OfficeOf
) -> Decide:
    """A decision that asks for the office each time, in the writer's thread; replay asks nobody."""

    def decided(request: Message, state: State, context: Context) -> Decision:
        return decide(request, state, context, office())

    return decided


def contact_handlers(office: OfficeOf) -> list[Handler]:
    """The commands of contacts."""

    def answer_read(header: EntryHeader, events: Events, outcome: Outcome) -> Message:
        return answer_read_contact(header, events, outcome, office())

    reading: Answer = answer_read
    register = with_office(decide_register_contact, office)
    change = with_office(decide_change_contact, office)
    return [
        Handler(RegisterContactRequest, register, answer_register_contact),
        Handler(ChangeContactRequest, change, answer_change_contact),
        Handler(EndContactRequest, decide_end_contact, answer_end_contact),
        Handler(ReadContactRequest, with_office(decide_read_contact, office), reading),
    ]
