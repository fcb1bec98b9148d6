"""Persons of whom values are kept, and what became of them. No value is opened here, or ever was."""

from __future__ import annotations

from collections.abc import Iterable

from core.errors import LedgerCorrupt
from core.ledger.tables import (
    CONTACTS,
    ERASURES,
    INSTITUTIONS,
    REALM_KEY,
    SUBJECTS,
    WRAPPING,
    WritableState,
)
from core.mechanisms.history import Where, need, need_new, remember
from core.store.v1.personal_pb2 import ContactRow, ErasureRow, SubjectRow, WrappingRow
from jinku.event.v1.personal_pb2 import (
    ContactChanged,
    ContactEnded,
    ContactRegistered,
    ErasureRequested,
    PersonalValuesRead,
    SubjectErased,
    SubjectKeysRewrapped,
    WrappingKeyDestroyed,
    WrappingKeyTaken,
)
from jinku.type.v1.personal_pb2 import PersonalCommitment


def apply_contact_registered(event: ContactRegistered, state: WritableState, where: Where) -> None:
    """A new subject, the one contact of its institution."""
    need_new(state, SUBJECTS, event.contact_id, where)
    need(state, INSTITUTIONS, event.institution_id, where)
    if event.replaces_contact_id:
        _end(state, event.replaces_contact_id, event.registered_at_ns, where)
    if state.get(CONTACTS, event.institution_id) is not None:
        raise LedgerCorrupt(str(where), "gives an institution a second contact")
    row = SubjectRow(institution_id=event.institution_id, changed_at_ns=event.registered_at_ns)
    _commit_to(row, event.values, where)
    state.put(SUBJECTS, event.contact_id, row)
    state.put(CONTACTS, event.institution_id, ContactRow(contact_id=event.contact_id))
    institution_id = event.institution_id
    subjects = (event.contact_id, institution_id, event.replaces_contact_id)
    remember(state, where, institution_id, *subjects)


def apply_contact_changed(event: ContactChanged, state: WritableState, where: Where) -> None:
    """Newer values of a contact that is one still."""
    row = _kept(state, event.contact_id, where)
    if row.ended_at_ns:
        raise LedgerCorrupt(str(where), "changes a contact that has ended")
    row.changed_at_ns = event.changed_at_ns
    _commit_to(row, event.values, where)
    state.put(SUBJECTS, event.contact_id, row)
    remember(state, where, row.institution_id, event.contact_id)


def apply_contact_ended(event: ContactEnded, state: WritableState, where: Where) -> None:
    """The institution has no contact."""
    row = _end(state, event.contact_id, event.ended_at_ns, where)
    remember(state, where, row.institution_id, event.contact_id, row.institution_id)


def apply_personal_values_read(
    event: PersonalValuesRead, state: WritableState, where: Where
) -> None:
    """A line in the person's history."""
    row = _kept(state, event.subject_id, where)
    remember(state, where, row.institution_id, event.subject_id)


def apply_erasure_requested(event: ErasureRequested, state: WritableState, where: Where) -> None:
    """The newest request takes the place of one that has expired."""
    need_new(state, ERASURES, event.erasure_id, where)
    row = _kept(state, event.subject_id, where)
    request = ErasureRow(
        subject_id=event.subject_id,
        requested_by=event.requested_by,
        expires_at_ns=event.expires_at_ns,
    )
    state.put(ERASURES, event.erasure_id, request)
    row.erasure_id = event.erasure_id
    state.put(SUBJECTS, event.subject_id, row)
    remember(state, where, row.institution_id, event.subject_id)


def apply_subject_erased(event: SubjectErased, state: WritableState, where: Where) -> None:
    """Nothing of the person can be read from here on; the commitments stay."""
    row = _kept(state, event.subject_id, where)
    if event.erasure_id:
        request = need(state, ERASURES, event.erasure_id, where)
        if request.used or request.subject_id != event.subject_id:
            raise LedgerCorrupt(str(where), "uses a request to erase twice, or another's")
        if request.requested_by == event.confirmed_by:
            raise LedgerCorrupt(str(where), "erases on one principal's word")
        request.used = True
        state.put(ERASURES, event.erasure_id, request)
    if not row.ended_at_ns:
        _end(state, event.subject_id, event.erased_at_ns, where)
        row.ended_at_ns = event.erased_at_ns
    row.erased_at_ns = event.erased_at_ns
    row.erased_entry_index = where.entry_index
    row.erased_generation = event.generation
    state.put(SUBJECTS, event.subject_id, row)
    wrapping = state.get(WRAPPING, REALM_KEY) or WrappingRow()
    wrapping.erased_generation = max(wrapping.erased_generation, event.generation)
    state.put(WRAPPING, REALM_KEY, wrapping)
    remember(state, where, row.institution_id, event.subject_id, row.institution_id)


def apply_wrapping_key_taken(event: WrappingKeyTaken, state: WritableState, where: Where) -> None:
    """A newer wrapping key than the one before."""
    row = state.get(WRAPPING, REALM_KEY) or WrappingRow()
    if event.generation <= row.generation:
        raise LedgerCorrupt(str(where), "takes a wrapping key that is not newer")
    row.generation, row.key_check = event.generation, event.key_check
    state.put(WRAPPING, REALM_KEY, row)


def apply_subject_keys_rewrapped(
    event: SubjectKeysRewrapped, state: WritableState, where: Where
) -> None:
    """The wraps lie beside the journal; here is only who may have made them."""
    row = state.get(WRAPPING, REALM_KEY)
    if row is None or event.generation != row.generation:
        raise LedgerCorrupt(str(where), "wraps under a wrapping key that is not the newest")


def apply_wrapping_key_destroyed(
    event: WrappingKeyDestroyed, state: WritableState, where: Where
) -> None:
    """Every erasure of that time is complete."""
    row = state.get(WRAPPING, REALM_KEY) or WrappingRow()
    if not row.destroyed_generation < event.generation < row.generation:
        raise LedgerCorrupt(str(where), "destroys a wrapping key that is in use or gone")
    row.destroyed_generation = event.generation
    state.put(WRAPPING, REALM_KEY, row)


def _kept(state: WritableState, subject_id: bytes, where: Where) -> SubjectRow:
    row = need(state, SUBJECTS, subject_id, where)
    if row.erased_at_ns:
        raise LedgerCorrupt(str(where), "is about a person who was erased")
    return row


def _end(state: WritableState, contact_id: bytes, ended_at_ns: int, where: Where) -> SubjectRow:
    row = _kept(state, contact_id, where)
    contact = need(state, CONTACTS, row.institution_id, where)
    if contact.contact_id != contact_id:
        raise LedgerCorrupt(str(where), "ends a contact that is none")
    row.ended_at_ns = ended_at_ns
    state.put(SUBJECTS, contact_id, row)
    state.delete(CONTACTS, row.institution_id)
    return row


def _commit_to(row: SubjectRow, values: Iterable[PersonalCommitment], where: Where) -> None:
    seen = set()
    for value in values:
        if value.field in seen:
            raise LedgerCorrupt(str(where), "commits to two values of one field")
        seen.add(value.field)
        row.values.add(
            field=value.field, entry_index=where.entry_index, commitment=value.commitment
        )
