"""Contacts and their erasure on a real ledger: what is answered, what is refused, what is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.errors import LedgerCorrupt
from core.ledger.tables import PERSONAL_VALUES, SUBJECT_KEYS, TABLES
from core.mechanisms.apply import APPLY
from core.personal.verify import verify_personal
from core.settings import PersonalSettings
from core.store.v1.personal_pb2 import PersonalValueRow, SubjectKeyRow
from jinku.event.v1.event_pb2 import Event, Events
from jinku.type.v1.personal_pb2 import PersonalField, SubjectState
from jinku.v1.common_pb2 import Outcome
from jinku.v1.contact_pb2 import EndContactRequest, ReadContactRequest, RequestErasureRequest
from persons import NAME, TELEPHONE, Files, Persons, change, confirm, found, opened, register

DAY_NS = 86_400 * 1_000_000_000
# After the realm was founded, whenever this runs.
START_NS = time.time_ns() + DAY_NS
LI, ZHANG = "李四", "张三"
NOBODY = b"n" * 16


@pytest.fixture
def realm(tmp_path: Path) -> Path:
    found(tmp_path)
    return tmp_path


@pytest.fixture
def persons(realm: Path) -> Iterator[Persons]:
    with opened(realm) as made:
        yield made


# ── registering, changing, ending ───────────────────────────────────────────────────────────────


def test_contact_is_registered_and_read(persons: Persons) -> None:
    contact_id = persons.contact()
    response = persons.read(contact_id)
    assert [(one.field, one.text) for one in response.values] == [
        (PersonalField.PERSONAL_FIELD_CONTACT_NAME, NAME),
        (PersonalField.PERSONAL_FIELD_CONTACT_TELEPHONE, TELEPHONE),
    ]
    assert not response.HasField("withheld")
    by_code = persons.run(ReadContactRequest(institution_code="1001", purpose=1))
    assert by_code.contact_id == contact_id
    assert list(by_code.values) == list(response.values)
    known = persons.get(institution_code="1001")
    assert (known.found, known.contact_id, known.state) == (
        True, contact_id, SubjectState.SUBJECT_STATE_KEPT,
    )  # fmt: skip
    assert persons.verify().values == 2


def test_neither_journal_nor_tables_hold_a_value(persons: Persons) -> None:
    persons.contact()
    entries = [entry.header + entry.events for _, entry in persons.ledger.entries()]
    with persons.ledger.read() as state:
        rows = [row.SerializeToString() for table in TABLES for _, row in state.scan(table)]
    for value in (NAME, TELEPHONE):
        assert not any(value.encode() in held for held in entries + rows)


def test_same_values_have_other_commitments(persons: Persons) -> None:
    """Who has two journals, or one and a telephone book, learns nothing."""
    first, second = persons.contact("1"), persons.contact("2")
    made = [one.commitment for each in (first, second) for one in persons.subject(each).values]
    assert len(set(made)) == 4


def test_changed_values_supersede_and_stay(persons: Persons) -> None:
    contact_id = persons.contact()
    persons.accept(change(contact_id, telephone="010-66008800"))
    persons.accept(change(contact_id, name=LI, telephone="1"))
    assert persons.texts(contact_id) == [LI, "1"]
    everything = persons.read(contact_id, with_superseded=True).values
    assert [(one.text, one.superseded) for one in everything] == [
        (NAME, True), (TELEPHONE, True), ("010-66008800", True), (LI, False), ("1", False),
    ]  # fmt: skip
    assert persons.refuse(change(contact_id)) == ["NOTHING_TO_CHANGE"]
    assert persons.verify().values == 5


def test_asking_again_gives_nothing_newer_than_its_entry(persons: Persons) -> None:
    """Who has read what is on record: the record of one reading gives no later value."""
    contact_id = persons.contact()
    asked = ReadContactRequest(contact_id=contact_id, purpose=4, with_superseded=True)
    command = persons.command(asked, "privacy")
    first = persons.commit(command)
    persons.accept(change(contact_id, telephone="010-66008800"))
    again = persons.commit(command)
    assert again.repeated
    answer = persons.table[ReadContactRequest].answer
    assert answer is not None
    for one in (first, again):
        values = answer(one.header, one.events, Outcome()).values  # type: ignore[attr-defined]
        assert [(value.text, value.superseded) for value in values] == [
            (NAME, False), (TELEPHONE, False),
        ]  # fmt: skip
    assert persons.texts(contact_id) == [NAME, "010-66008800"]


def test_replaced_contact_is_another_person(persons: Persons) -> None:
    first = persons.contact()
    assert persons.refuse(register(name=LI)) == ["CONTACT_EXISTS"]
    second = persons.accept(register(name=LI, replaces=True)).contact_id
    assert persons.get(institution_code="1001").contact_id == second
    assert persons.get(contact_id=first).ended_at_ns
    assert persons.refuse(change(first, name=ZHANG)) == ["CONTACT_ENDED"]
    assert persons.refuse(EndContactRequest(contact_id=first)) == ["CONTACT_ENDED"]
    assert persons.texts(first)[0] == NAME
    persons.erase(first)
    assert persons.texts(second)[0] == LI


def test_who_is_not_there(persons: Persons) -> None:
    persons.institution("1001")
    assert persons.refuse(register("9")) == ["INSTITUTION_NOT_REGISTERED"]
    assert persons.refuse(register(replaces=True)) == ["CONTACT_NOT_REGISTERED"]
    assert persons.refuse(change(NOBODY, name="x")) == ["SUBJECT_NOT_REGISTERED"]
    assert persons.refuse(EndContactRequest(contact_id=NOBODY)) == ["SUBJECT_NOT_REGISTERED"]
    asked = ReadContactRequest(institution_code="1001", purpose=1)
    assert persons.refuse(asked) == ["CONTACT_NOT_REGISTERED"]
    assert persons.get(institution_code="9").refused.reasons[0].name == "INSTITUTION_NOT_REGISTERED"
    assert persons.get(contact_id=NOBODY).refused.reasons[0].name == "SUBJECT_NOT_REGISTERED"
    assert persons.refuse(RequestErasureRequest(subject_id=NOBODY)) == ["SUBJECT_NOT_REGISTERED"]


def test_openings_and_earlier_values_are_for_privacy_officers(persons: Persons) -> None:
    contact_id = persons.contact()
    asked = ReadContactRequest(
        contact_id=contact_id, purpose=4, with_openings=True, with_superseded=True
    )
    refused = persons.run(asked, "registrar")
    assert persons.refused == ["PRIVACY_OFFICER_ONLY", "PRIVACY_OFFICER_ONLY"]
    assert not refused.values
    given = persons.accept(asked, "privacy").values
    assert [len(one.opening) for one in given] == [32, 32]
    assert not any(one.opening for one in persons.read(contact_id).values)


def test_who_read_is_in_the_history(persons: Persons) -> None:
    contact_id = persons.contact()
    committed = persons.commit(
        persons.command(ReadContactRequest(contact_id=contact_id, purpose=3), "privacy")
    )
    assert committed.header.principal.endswith("/service/privacy")
    (event,) = committed.events.events
    read = event.personal_values_read
    assert (read.subject_id, read.purpose, read.openings) == (contact_id, 3, False)


# ── erasing: two principals, and not before its time ────────────────────────────────────────────


def test_erased_values_are_gone_and_say_when(persons: Persons) -> None:
    contact_id = persons.former()
    earlier = persons.command(ReadContactRequest(contact_id=contact_id, purpose=1), "privacy")
    read = persons.commit(earlier)
    persons.erase(contact_id)
    row = persons.subject(contact_id)
    refused = persons.run(ReadContactRequest(contact_id=contact_id, purpose=1), "privacy")
    assert persons.refused == ["SUBJECT_ERASED"]
    assert not refused.values
    known = persons.get(contact_id=contact_id)
    assert known.state == SubjectState.SUBJECT_STATE_ERASED
    assert known.erased_entry_index == row.erased_entry_index
    # A reading that was accepted before, asked for again.
    again = persons.commit(earlier)
    assert again.repeated
    answer = persons.table[ReadContactRequest].answer
    assert answer is not None
    response = answer(read.header, read.events, refused.outcome)
    assert not response.values  # type: ignore[attr-defined]
    (reason,) = response.withheld.reasons  # type: ignore[attr-defined]
    assert reason.name == "SUBJECT_ERASED"
    assert f"entry {row.erased_entry_index}" in reason.text_zh
    assert persons.verify().erased == 1
    for request in (change(contact_id, name="x"), RequestErasureRequest(subject_id=contact_id)):
        assert persons.refuse(request) == ["SUBJECT_ERASED"]


def test_requester_does_not_confirm(persons: Persons) -> None:
    contact_id = persons.former()
    erasure_id = persons.request_erasure(contact_id, "privacy")
    assert persons.refuse(confirm(erasure_id, contact_id), "privacy") == [
        "ERASURE_BY_ITS_REQUESTER"
    ]
    assert persons.texts(contact_id)
    persons.accept(confirm(erasure_id, contact_id), "deputy")


def test_confirmation_is_used_once_and_for_its_person_alone(persons: Persons) -> None:
    first, second = persons.former("1"), persons.former("2")
    erasure_id = persons.request_erasure(first)
    other = persons.request_erasure(second)
    assert persons.refuse(confirm(erasure_id, second), "privacy") == ["ERASURE_NOT_REQUESTED"]
    assert persons.refuse(confirm(b"x" * 16, first), "privacy") == ["ERASURE_NOT_REQUESTED"]
    sent = persons.command(confirm(erasure_id, first), "privacy")
    done = persons.commit(sent)
    assert done.accepted
    # The same bytes again are the same command; a new command with the same confirmation is none.
    assert persons.commit(sent).entry_index == done.entry_index
    assert persons.refuse(confirm(erasure_id, first), "deputy") == ["SUBJECT_ERASED"]
    assert persons.texts(second)
    persons.accept(confirm(other, second), "privacy")
    assert persons.verify().erased == 2


def test_a_second_request_waits_for_the_first_to_expire(realm: Path) -> None:
    now = [START_NS]
    times = {"clock": lambda: now[0], "steady": lambda: now[0]}
    settings = PersonalSettings(retention_days=0, confirm_hours_max=24)
    with opened(realm, settings=settings, **times) as persons:
        contact_id = persons.former()
        first = persons.request_erasure(contact_id)
        asked = RequestErasureRequest(subject_id=contact_id)
        assert persons.refuse(asked, "privacy") == ["ERASURE_UNDER_WAY"]
        now[0] += DAY_NS + 1
        assert persons.refuse(confirm(first, contact_id), "privacy") == ["ERASURE_EXPIRED"]
        second = persons.request_erasure(contact_id)
        assert persons.refuse(confirm(first, contact_id), "privacy") == ["ERASURE_EXPIRED"]
        now[0] += DAY_NS
        persons.accept(confirm(second, contact_id), "privacy")


def test_retention_is_over_to_the_nanosecond(realm: Path) -> None:
    now = [START_NS]
    times = {"clock": lambda: now[0], "steady": lambda: now[0]}
    settings = PersonalSettings(retention_days=10, retention_article="档案办法第9条")
    with opened(realm, settings=settings, **times) as persons:
        contact_id = persons.contact()
        asked = RequestErasureRequest(subject_id=contact_id)
        # Nothing runs while the person is the contact, however long.
        now[0] += 100 * DAY_NS
        assert persons.refuse(asked) == ["CONTACT_NOT_ENDED"]
        persons.accept(EndContactRequest(contact_id=contact_id))
        now[0] += 10 * DAY_NS - 1
        refused = persons.commit(persons.command(asked))
        assert persons.refused == ["RETENTION_RUNS"]
        now[0] += 1
        day = f"{datetime.fromtimestamp(now[0] // 10**9, UTC):%Y-%m-%d}"
        assert refused.header.reasons[0].item == f"{day} UTC (档案办法第9条)"
        erasure_id = persons.request_erasure(contact_id)
        committed = persons.commit(persons.command(confirm(erasure_id, contact_id), "privacy"))
        erased = committed.events.events[0].subject_erased
        assert erased.retention_until_ns == now[0]
        assert erased.retention_article == "档案办法第9条"


def test_retention_that_was_lengthened_holds_a_confirmation_back(realm: Path) -> None:
    with opened(realm) as persons:
        contact_id = persons.former()
        erasure_id = persons.request_erasure(contact_id)
    with opened(realm, settings=PersonalSettings(retention_days=1)) as persons:
        assert persons.refuse(confirm(erasure_id, contact_id), "privacy") == ["RETENTION_RUNS"]


@pytest.mark.parametrize("forward_days", [4000, -4000])
def test_a_clock_that_was_stepped_erases_nobody(realm: Path, forward_days: int) -> None:
    """Also when it is set right again: the journal's time does not go back."""
    true = [START_NS]
    step = [0]
    times = {"clock": lambda: true[0] + step[0], "steady": lambda: true[0]}
    settings = PersonalSettings(retention_days=1825)
    with opened(realm, settings=settings, **times) as persons:
        contact_id = persons.former()
        asked = RequestErasureRequest(subject_id=contact_id)
        step[0] = forward_days * DAY_NS
        # Forward, retention seems over and the clock speaks against it; back, the journal's time
        # stands still and retention runs.
        why = "CLOCK_STEPPED" if forward_days > 0 else "RETENTION_RUNS"
        assert persons.refuse(asked) == [why]
        step[0] = 0
        true[0] += DAY_NS
        assert persons.refuse(asked) == [why]


def test_erased_between_request_and_registration_of_another(persons: Persons) -> None:
    """Whatever comes between: an erasure touches its own person."""
    contact_id = persons.former("1", ZHANG)
    erasure_id = persons.request_erasure(contact_id)
    batch = [
        persons.command(register("1", LI), "registrar"),
        persons.command(confirm(erasure_id, contact_id), "privacy"),
        persons.command(change(contact_id, name="x")),
        persons.command(register("1", "王五", replaces=True), "registrar"),
    ]
    results = persons.writer.commit(batch)
    assert [getattr(one, "accepted", None) for one in results] == [True, True, False, True]
    wang = persons.get(institution_code="1").contact_id
    assert persons.texts(wang)[0] == "王五"
    report = persons.verify()
    assert (report.subjects, report.erased) == (2, 1)


def test_every_event_about_persons_is_replayed(persons: Persons) -> None:
    contact_id = persons.contact()
    persons.accept(change(contact_id, name=LI))
    persons.read(contact_id)
    persons.accept(register(name=ZHANG, replaces=True))
    other = persons.former("2")
    persons.erase(contact_id)
    persons.eraser.complete()
    persons.erase(other)
    written = {
        event.WhichOneof("event")
        for _, entry in persons.ledger.entries()
        for event in Events.FromString(entry.events).events
    }
    ours = {one.name for one in Event.DESCRIPTOR.fields if one.number // 100 == 12}
    assert len(ours) == 9
    assert ours <= written
    assert ours <= set(APPLY)
    assert persons.verify().erased == 2


# ── what somebody does to the files ─────────────────────────────────────────────────────────────


KEYS, VALUES = SUBJECT_KEYS.number, PERSONAL_VALUES.number


def two_contacts(realm: Path) -> tuple[bytes, bytes]:
    with opened(realm) as persons:
        return persons.contact("1", ZHANG), persons.contact("2", LI)


def finding(realm: Path, subject_id: bytes) -> str:
    """What reading this person's values ends in, and that verifying ends in the same."""
    with opened(realm, as_found=True) as persons:
        with pytest.raises(LedgerCorrupt) as read:
            persons.read(subject_id)
        with pytest.raises(LedgerCorrupt) as verified:
            verify_personal(persons.ledger, persons.keys)
    assert str(read.value) == str(verified.value)
    return str(read.value)


@pytest.mark.parametrize("resealed", [False, True], ids=["as it is", "with the key of rows"])
@pytest.mark.parametrize("which", ["another person's", "another field's", "cut off"])
def test_value_put_in_the_place_of_another_is_never_answered(
    realm: Path, which: str, resealed: bool
) -> None:
    first, second = two_contacts(realm)
    files = Files(realm, resealed)
    mine, theirs = files.keys_of(VALUES, first), files.keys_of(VALUES, second)
    source = {"another person's": theirs[0], "another field's": mine[1], "cut off": mine[0]}[which]
    value = files.get(VALUES, source)
    if which == "cut off":
        row = PersonalValueRow.FromString(value) if resealed else PersonalValueRow(sealed=value)
        row.sealed = row.sealed[:-1]
        value = row.SerializeToString() if resealed else row.sealed
    files.put(VALUES, mine[0], value)
    assert "does not open" in finding(realm, first)


@pytest.mark.parametrize("resealed", [False, True], ids=["as it is", "with the key of rows"])
def test_wrapped_key_of_another_person_opens_nothing(realm: Path, resealed: bool) -> None:
    first, second = two_contacts(realm)
    files = Files(realm, resealed)
    files.put(KEYS, first, files.get(KEYS, second))
    assert "does not open" in finding(realm, first)


def test_missing_rows_are_named(realm: Path) -> None:
    first, _ = two_contacts(realm)
    files = Files(realm)
    files.put(VALUES, files.keys_of(VALUES, first)[1], None)
    assert finding(realm, first).startswith("personal value 2 of")
    files.put(KEYS, first, None)
    with opened(realm, as_found=True) as persons:
        assert persons.refuse(ReadContactRequest(contact_id=first, purpose=1)) == [
            "SUBJECT_KEY_MISSING"
        ]
        with pytest.raises(LedgerCorrupt, match="key of .* is missing"):
            verify_personal(persons.ledger, persons.keys)


def test_rows_of_nobody_are_named(realm: Path) -> None:
    first, _ = two_contacts(realm)
    files = Files(realm, resealed=True)
    files.put(KEYS, NOBODY, files.get(KEYS, first))
    with opened(realm, as_found=True) as persons:
        assert persons.texts(first)
        with pytest.raises(LedgerCorrupt, match="3 rows, and the journal knows of 2"):
            verify_personal(persons.ledger, persons.keys)


@pytest.mark.parametrize("number", [KEYS, VALUES])
@pytest.mark.parametrize("complete", [False, True])
def test_what_is_put_back_after_an_erasure_is_not_answered(
    realm: Path, number: int, complete: bool
) -> None:
    first, second = two_contacts(realm)
    kept = Files(realm)
    rows = {key: kept.get(number, key) for key in kept.keys_of(number, first)}
    with opened(realm) as persons:
        persons.accept(EndContactRequest(contact_id=first))
        persons.erase(first)
        if complete:
            assert persons.eraser.complete()
    files = Files(realm)
    for key, value in rows.items():
        files.put(number, key, value)
    with opened(realm, as_found=True) as persons:
        assert not persons.read(first).values
        assert persons.refused == ["SUBJECT_ERASED"]
        with pytest.raises(LedgerCorrupt, match="is there, and was erased"):
            verify_personal(persons.ledger, persons.keys)
        # Completing an erasure never carries a key along that was put back.
        if not complete:
            persons.eraser.complete()
        assert persons.taken().destroyed_generation == 1
        with persons.ledger.read() as state:
            row = state.get(SUBJECT_KEYS, first)
        assert row is None or row.generation == 1
        assert not persons.keys.is_loaded(1)
        assert persons.texts(second)[0] == LI


def test_realm_key_alone_opens_no_person(realm: Path) -> None:
    """Rows open with the realm's key; what is in these does not."""
    first, _ = two_contacts(realm)
    files = Files(realm, resealed=True)
    row = SubjectKeyRow.FromString(files.get(KEYS, first))
    value = PersonalValueRow.FromString(files.get(VALUES, files.keys_of(VALUES, first)[0]))
    assert (row.generation, len(row.wrapped)) == (1, 48)
    assert ZHANG.encode() not in value.sealed
    assert len(value.sealed) == 160
