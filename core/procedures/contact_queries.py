"""What is known of a contact without its values: answered to more than may read those."""

from __future__ import annotations

from core.ledger.ledger import Ledger
from core.ledger.tables import (
    ERASURES,
    INSTITUTIONS,
    REALM_KEY,
    SUBJECTS,
    WRAPPING,
    State,
)
from core.procedures.contacts import find_contact, subject_faults
from core.procedures.queries import Query
from core.reasons import refusal
from core.store.v1.personal_pb2 import ErasureRow, SubjectRow, WrappingRow
from core.store.v1.rows_pb2 import InstitutionRow
from jinku.type.v1.personal_pb2 import SubjectState
from jinku.v1.contact_pb2 import GetContactRequest, GetContactResponse


def get_contact(request: GetContactRequest, ledger: Ledger) -> GetContactResponse:
    """A contact by its own id, also one that has ended or is erased, or by its institution's code.

    Not found is an answer, with the reason.
    """
    with ledger.read() as state:
        contact_id, reasons = find_contact(state, request)
        row = state.get(SUBJECTS, contact_id) if contact_id else None
        if row is None:
            return GetContactResponse(refused=refusal(reasons or subject_faults(state, contact_id)))
        institution = state.get(INSTITUTIONS, row.institution_id) or InstitutionRow()
        response = GetContactResponse(
            found=True,
            contact_id=contact_id,
            institution_code=institution.code,
            state=_state_of(row, state),
            ended_at_ns=row.ended_at_ns,
            erased_at_ns=row.erased_at_ns,
            erased_entry_index=row.erased_entry_index,
        )
        asked = (state.get(ERASURES, row.erasure_id) if row.erasure_id else None) or ErasureRow()
        if row.erasure_id and not asked.used:
            response.erasure_id = row.erasure_id
            response.erasure_expires_at_ns = asked.expires_at_ns
    return response


def _state_of(row: SubjectRow, state: State) -> SubjectState:
    if not row.erased_at_ns:
        return SubjectState.SUBJECT_STATE_KEPT
    wrapping = state.get(WRAPPING, REALM_KEY) or WrappingRow()
    if row.erased_generation <= wrapping.destroyed_generation:
        return SubjectState.SUBJECT_STATE_ERASURE_COMPLETE
    return SubjectState.SUBJECT_STATE_ERASED


CONTACT_QUERIES = (Query(GetContactRequest, get_contact),)
