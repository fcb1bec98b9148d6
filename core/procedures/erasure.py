"""Erasing a person's values: asked for by one principal, confirmed by another, never before its time.

With the confirming entry the person's key and ciphertexts leave the ledger; `core.personal.eraser`
then sees to it that no backup can be read either, by the service's own commands at the end here.
"""

from __future__ import annotations

from typing import Final

from core.decisions import Beside, Context, Decision, Handler, reason
from core.ledger.tables import ERASURES, REALM_KEY, SUBJECT_KEYS, WRAPPING, State
from core.personal.office import (
    CLOCK_DIFFERENCE_NS_MAX,
    Office,
    kept_subject,
    removal_of,
    take,
)
from core.procedures.contacts import OfficeOf, show_day, subject_faults, with_office
from core.store.v1.personal_pb2 import (
    CarryErasure,
    ErasureRow,
    NoteWrappingKeyDestroyed,
    RewrapSubjectKeys,
    SubjectRow,
    TakeWrappingKey,
    WrappingRow,
)
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Event, Events
from jinku.event.v1.personal_pb2 import (
    ErasureRequested,
    SubjectErased,
    SubjectKeysRewrapped,
    WrappingKeyDestroyed,
)
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.v1.common_pb2 import Outcome
from jinku.v1.contact_pb2 import (
    ConfirmErasureRequest,
    ConfirmErasureResponse,
    RequestErasureRequest,
    RequestErasureResponse,
)

_NS_PER_HOUR: Final = 3_600 * 1_000_000_000
_NS_PER_DAY: Final = 24 * _NS_PER_HOUR


def decide_request_erasure(
    request: RequestErasureRequest, state: State, context: Context, office: Office
) -> Decision:
    """Refused if there is nobody, the values are erased, must be kept still, or a request waits."""
    reasons = _erasure_faults(state, request.subject_id, context, office)
    row = kept_subject(state, request.subject_id)
    waiting = None if row is None else waiting_request(state, row, context.decided_at_ns)
    if row is not None and waiting is not None:
        item = request.subject_id.hex()
        why = reason(ReasonCode.REASON_CODE_ERASURE_UNDER_WAY, item, row.erasure_id)
        reasons.append(why)
    if reasons:
        return Decision(reasons=reasons)
    requested = ErasureRequested(
        erasure_id=context.new_id(),
        subject_id=request.subject_id,
        requested_by=context.device_id,
        requested_at_ns=context.decided_at_ns,
        expires_at_ns=context.decided_at_ns + int(office.settings.confirm_hours_max * _NS_PER_HOUR),
    )
    return Decision(events=[Event(erasure_requested=requested)])


def answer_request_erasure(
    header: EntryHeader, events: Events, outcome: Outcome
) -> RequestErasureResponse:
    """With the request's id, and until when it may be confirmed."""
    made = events.events[0].erasure_requested if events.events else ErasureRequested()
    return RequestErasureResponse(
        outcome=outcome, erasure_id=made.erasure_id, expires_at_ns=made.expires_at_ns
    )


def decide_confirm_erasure(
    request: ConfirmErasureRequest, state: State, context: Context, office: Office
) -> Decision:
    """Refused unless the request is there, of that person, of another principal, not yet over and
    not used; and on all that the request itself would be refused for now.
    """
    item = request.erasure_id.hex()
    asked = state.get(ERASURES, request.erasure_id)
    if asked is None or asked.subject_id != request.subject_id:
        why = reason(ReasonCode.REASON_CODE_ERASURE_NOT_REQUESTED, item, request.erasure_id)
        return Decision(reasons=[why])
    reasons = _erasure_faults(state, request.subject_id, context, office)
    if asked.requested_by == context.device_id:
        code = ReasonCode.REASON_CODE_ERASURE_BY_ITS_REQUESTER
        reasons.append(reason(code, item, request.erasure_id))
    # A newer request has taken its place only after it had expired.
    if context.decided_at_ns > asked.expires_at_ns:
        reasons.append(reason(ReasonCode.REASON_CODE_ERASURE_EXPIRED, item, request.erasure_id))
    row = kept_subject(state, request.subject_id)
    if reasons or row is None:
        return Decision(reasons=reasons)
    erased = SubjectErased(
        subject_id=request.subject_id,
        erasure_id=request.erasure_id,
        confirmed_by=context.device_id,
        erased_at_ns=context.decided_at_ns,
        generation=(state.get(WRAPPING, REALM_KEY) or WrappingRow()).generation,
        retention_until_ns=_retention_until(row, office),
        retention_article=office.settings.retention_article,
    )
    removal = removal_of(row, context.realm, request.subject_id)
    return Decision(events=[Event(subject_erased=erased)], beside=removal)


def answer_confirm_erasure(
    header: EntryHeader, events: Events, outcome: Outcome
) -> ConfirmErasureResponse:
    """The outcome says it all."""
    return ConfirmErasureResponse(outcome=outcome)


def waiting_request(state: State, row: SubjectRow, now_ns: int) -> ErasureRow | None:
    """The request to erase somebody that can be confirmed now, if there is one."""
    asked = state.get(ERASURES, row.erasure_id) if row.erasure_id else None
    return None if asked is None or asked.used or now_ns > asked.expires_at_ns else asked


def _erasure_faults(
    state: State, subject_id: bytes, context: Context, office: Office
) -> list[ReasonRecord]:
    """What stands against erasing somebody now, whoever asks."""
    reasons = subject_faults(state, subject_id)
    row = kept_subject(state, subject_id)
    if reasons or row is None:
        return reasons
    if not row.ended_at_ns:
        code = ReasonCode.REASON_CODE_CONTACT_NOT_ENDED
        return [reason(code, subject_id.hex(), subject_id)]
    until_ns = _retention_until(row, office)
    if context.decided_at_ns < until_ns:
        item = f"{show_day(until_ns)} ({office.settings.retention_article})"
        reasons.append(reason(ReasonCode.REASON_CODE_RETENTION_RUNS, item, subject_id))
    # The journal's time never goes back: one command while the clock is ahead, and every retention
    # seems over. The steady clock was not stepped.
    if abs(context.decided_at_ns - office.steady()) > CLOCK_DIFFERENCE_NS_MAX:
        item = f"{show_day(context.decided_at_ns)}, {show_day(office.steady())}"
        reasons.append(reason(ReasonCode.REASON_CODE_CLOCK_STEPPED, item))
    return reasons


def _retention_until(row: SubjectRow, office: Office) -> int:
    return row.ended_at_ns + office.settings.retention_days * _NS_PER_DAY


def decide_take_wrapping_key(
    request: TakeWrappingKey, state: State, context: Context, office: Office
) -> Decision:
    """The newest wrapping key, unless a subject that was registered meanwhile took it already."""
    return Decision(events=take(office.keys, office.keys.newest, state))


def decide_rewrap(
    request: RewrapSubjectKeys, state: State, context: Context, office: Office
) -> Decision:
    """Those of them whose keys are not under the newest wrapping key yet, and still there.

    A key that is there of somebody who was erased was put back, and is removed.
    """
    beside = []
    for subject_id in request.subject_ids:
        row = state.get(SUBJECT_KEYS, subject_id)
        if row is not None and kept_subject(state, subject_id) is None:
            beside.append(Beside(SUBJECT_KEYS, subject_id, None))
        elif row is not None and row.generation != office.keys.newest:
            rewrapped = office.keys.wrap(subject_id, office.keys.unwrap(subject_id, row))
            beside.append(Beside(SUBJECT_KEYS, subject_id, rewrapped))
    if not beside:
        return Decision()
    rewrapped_keys = SubjectKeysRewrapped(generation=office.keys.newest, count=len(beside))
    return Decision(events=[Event(subject_keys_rewrapped=rewrapped_keys)], beside=beside)


def decide_carry_erasure(request: CarryErasure, state: State, context: Context) -> Decision:
    """Somebody whose erasure this journal has lost, because an older ledger was put back."""
    row = kept_subject(state, request.subject_id)
    if row is None:
        return Decision()
    erased = SubjectErased(subject_id=request.subject_id, erased_at_ns=context.decided_at_ns)
    removal = removal_of(row, context.realm, request.subject_id)
    return Decision(events=[Event(subject_erased=erased)], beside=removal)


def decide_note_destroyed(
    request: NoteWrappingKeyDestroyed, state: State, context: Context
) -> Decision:
    """Of keys that are gone: what was under them alone is nobody's to read any more."""
    row = state.get(WRAPPING, REALM_KEY) or WrappingRow()
    if request.generation <= row.destroyed_generation:
        return Decision()
    destroyed = WrappingKeyDestroyed(generation=request.generation)
    return Decision(events=[Event(wrapping_key_destroyed=destroyed)])


def erasure_handlers(office: OfficeOf) -> list[Handler]:
    """The commands of erasure: callers' and the service's own."""
    return [
        Handler(
            RequestErasureRequest,
            with_office(decide_request_erasure, office),
            answer_request_erasure,
        ),
        Handler(
            ConfirmErasureRequest,
            with_office(decide_confirm_erasure, office),
            answer_confirm_erasure,
        ),
        Handler(TakeWrappingKey, with_office(decide_take_wrapping_key, office)),
        Handler(RewrapSubjectKeys, with_office(decide_rewrap, office)),
        Handler(CarryErasure, decide_carry_erasure),
        Handler(NoteWrappingKeyDestroyed, decide_note_destroyed),
    ]
