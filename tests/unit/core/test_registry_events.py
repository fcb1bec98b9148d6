"""Every event has its `apply`, and one that does not fit the state stops everything."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from core.decisions import Context, Decision
from core.errors import DecideFailed, LedgerCorrupt, SettingsError
from core.ids import make_id
from core.ledger.tables import ALARMS, CONTAINERS, HISTORY, PASSAGES, SERVICES, IndexKind, State
from core.mechanisms.apply import APPLY, Where, apply
from core.mechanisms.credentials import TRANSITIONS, Illegal, TagAct, refusal_of
from core.mechanisms.history import places
from core.procedures.founding import FOUNDING_HANDLERS, decide_found_realm
from core.reasons import CATALOGUE
from core.sequencer import Committed
from core.store.v1.commands_pb2 import (
    FoundingServiceSpec,
    FoundRealm,
    PruneReadSegment,
    RaisePortalAlarm,
    RecordPassage,
    SealReadSegment,
)
from jinku.event.v1.event_pb2 import (
    AlarmRaised,
    CustodyMoved,
    Event,
    Events,
    PassageRecorded,
    TagFrozen,
    TagIssued,
    TagRetired,
    TagUnfrozen,
)
from jinku.type.v1.command_pb2 import CommandId
from jinku.type.v1.place_pb2 import Custody
from jinku.type.v1.tag_pb2 import Direction, TagState
from ledgers import REALM, TRUST_DOMAIN, command
from registrar import (
    Registrar,
    container,
    freeze,
    institution,
    issue,
    portal,
    retire,
    unfreeze,
    vault,
)

A, B = b"\xa1" * 12, b"\xb2" * 12
HERE = Where(REALM, 99, 0)
NEW = make_id(REALM, 99, 0)
ABSENT = make_id(REALM, 98, 7)


class Bank:
    """One box with a live tag at one portal, and the ids of it all."""

    def __init__(self, directory: Path) -> None:
        self.registrar = Registrar(directory)
        run = self.registrar.accept
        self.institution_id = run(institution()).institution_id
        self.vault_id = run(vault()).vault_id
        self.portal_id = run(portal()).portal_id
        self.container_id = run(container()).container_id
        self.tag_id = run(issue(A)).tag_id
        self.ledger = self.registrar.ledger

    def with_holder(self, holder_id: bytes) -> Custody:
        return Custody(holder_id=holder_id, place="CUSTODY_PLACE_WITH_HOLDER")


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    made = Bank(tmp_path)
    yield made
    made.ledger.close()


def history(state: State, subject_id: bytes) -> set[tuple[int, int]]:
    return set(places(state, subject_id))


def test_every_event_has_its_apply() -> None:
    kinds = {field.name for field in Event.DESCRIPTOR.oneofs_by_name["event"].fields}
    assert set(APPLY) == kinds
    assert {field.name for field in Event.DESCRIPTOR.fields} == kinds


def test_every_kind_of_event_is_replayed_byte_for_byte(bank: Bank) -> None:
    accept = bank.registrar.accept
    for request in (freeze(A), unfreeze(A), issue(B, replaces=True), retire(B)):
        accept(request)
    commands: list[Message] = [
        RaisePortalAlarm(portal_id=bank.portal_id, identity=A, reasons=[], seen_at_ns=1),
        *(
            RecordPassage(
                portal_id=bank.portal_id,
                tag_id=bank.tag_id,
                direction=direction,
                portal_epoch=1,
                first_sequence=at,
                last_read_ns=at,
            )
            for at, direction in enumerate(Direction.values()[1:], start=1)
        ),
        *(
            SealReadSegment(
                portal_id=bank.portal_id,
                portal_epoch=1,
                first_sequence=first,
                last_sequence=first + 9,
                digest=bytes(32),
            )
            for first in (1, 11)
        ),
        PruneReadSegment(portal_id=bank.portal_id, portal_epoch=1, first_sequence=1),
    ]
    for one in commands:
        (committed,) = bank.registrar.writer.commit([command(one)])
        assert isinstance(committed, Committed)
        assert committed.accepted
    written = {
        event.WhichOneof("event")
        for _, entry in bank.ledger.entries()
        for event in Events.FromString(entry.events).events
    }
    # Events of persons: test_persons; refusals: test_refusals; kept counters: test_segments.
    elsewhere = {one.name for one in Event.DESCRIPTOR.fields if one.number // 100 in (12, 13)}
    elsewhere.add("counters_kept")
    assert written == set(APPLY) - elsewhere
    assert bank.registrar.verify().entries == bank.ledger.size


@pytest.mark.parametrize("raw", [b"", b"\xd2\x3e\x00"])
def test_unknown_event_stops(bank: Bank, raw: bytes) -> None:
    with (
        pytest.raises(LedgerCorrupt, match="entry 99, event 0"),
        bank.ledger.writing() as writing,
    ):
        apply(Event.FromString(raw), writing.tables, HERE)


def test_every_state_and_act_has_a_row() -> None:
    assert set(TRANSITIONS) == set(product(TagState.values(), TagAct))
    for (before, act), outcome in TRANSITIONS.items():
        if isinstance(outcome, Illegal):
            assert outcome.why in CATALOGUE
            assert refusal_of(before, act) == outcome.why
        else:
            assert refusal_of(before, act) is None
            assert before != TagState.TAG_STATE_RETIRED
            assert outcome not in {before, TagState.TAG_STATE_UNSPECIFIED}


def unfitting(bank: Bank) -> dict[str, Event]:
    issued = {"institution_id": bank.institution_id, "container_id": bank.container_id}
    other = bank.with_holder(bank.vault_id)
    held = bank.with_holder(bank.institution_id)
    box: dict[str, Any] = {"container_id": bank.container_id}
    return {
        "second live tag": Event(tag_issued=TagIssued(tag_id=NEW, identity=B, **issued)),
        "no such container": Event(tag_issued=TagIssued(tag_id=NEW, identity=B)),
        "id used": Event(tag_issued=TagIssued(tag_id=bank.tag_id, identity=B, **issued)),
        "no id": Event(alarm_raised=AlarmRaised()),
        "freeze of nothing": Event(tag_frozen=TagFrozen(tag_id=ABSENT)),
        "unfreeze of an active": Event(tag_unfrozen=TagUnfrozen(tag_id=bank.tag_id)),
        "retirement of nothing": Event(tag_retired=TagRetired(tag_id=ABSENT)),
        "wrong holder": Event(custody_moved=CustodyMoved(before=other, after=held, **box)),
        "no holder": Event(custody_moved=CustodyMoved(before=held, **box)),
        "no place": Event(
            custody_moved=CustodyMoved(before=held, after=Custody(holder_id=bank.vault_id), **box)
        ),
        "custody of nothing": Event(custody_moved=CustodyMoved(container_id=ABSENT, after=held)),
        "no such portal": Event(passage_recorded=PassageRecorded(tag_id=bank.tag_id)),
        "no such tag": Event(passage_recorded=PassageRecorded(portal_id=bank.portal_id)),
    }


@pytest.mark.parametrize(
    "what",
    [
        "second live tag", "no such container", "id used", "no id", "freeze of nothing",
        "unfreeze of an active", "retirement of nothing", "wrong holder", "no holder", "no place",
        "custody of nothing", "no such portal", "no such tag",
    ],
)  # fmt: skip
def test_event_that_does_not_fit_stops(bank: Bank, what: str) -> None:
    with pytest.raises(LedgerCorrupt, match="entry 99"), bank.ledger.writing() as writing:
        apply(unfitting(bank)[what], writing.tables, HERE)


def test_identity_is_never_bound_twice_even_by_an_event(bank: Bank) -> None:
    run = bank.registrar.accept
    other_id = run(container("K-2")).container_id
    event = Event(tag_issued=TagIssued(tag_id=NEW, identity=A, container_id=other_id))
    with (
        pytest.raises(LedgerCorrupt, match="identity a second time"),
        bank.ledger.writing() as writing,
    ):
        apply(event, writing.tables, HERE)


def test_custody_moves_from_holder_to_holder(bank: Bank) -> None:
    before, after = bank.with_holder(bank.institution_id), bank.with_holder(bank.vault_id)
    event = CustodyMoved(container_id=bank.container_id, before=before, after=after)
    with bank.ledger.writing() as writing:
        apply(Event(custody_moved=event), writing.tables, HERE)
    with bank.ledger.read() as state:
        row = state.get(CONTAINERS, bank.container_id)
        assert row is not None
        assert row.custody == after
        for subject_id in (bank.container_id, bank.vault_id, bank.institution_id):
            assert (99, 0) in history(state, subject_id)


def test_passage_is_the_last_one_and_all_stay_in_the_history(bank: Bank) -> None:
    for index in (1, 2):
        event = PassageRecorded(
            portal_id=bank.portal_id,
            tag_id=bank.tag_id,
            container_id=bank.container_id,
            portal_epoch=5,
            first_sequence=index,
            last_sequence=index + 1,
            last_read_ns=index * 100,
        )
        with bank.ledger.writing() as writing:
            apply(Event(passage_recorded=event), writing.tables, Where(REALM, 99, index))
    with bank.ledger.read() as state:
        row = state.get(PASSAGES, bank.portal_id + bank.tag_id)
        assert row is not None
        assert (row.portal_epoch, row.first_sequence, row.last_sequence) == (5, 2, 3)
        assert (row.last_read_ns, row.institution_id) == (200, bank.institution_id)
        for subject_id in (bank.container_id, bank.tag_id, bank.portal_id):
            assert {(99, 1), (99, 2)} <= history(state, subject_id)


def test_alarm_stands_in_the_history_of_all_it_names(bank: Bank) -> None:
    event = AlarmRaised(
        alarm_id=NEW, institution_id=bank.institution_id, portal_id=bank.portal_id, identity=B
    )
    with bank.ledger.writing() as writing:
        apply(Event(alarm_raised=event), writing.tables, HERE)
    with bank.ledger.read() as state:
        row = state.get(ALARMS, NEW)
        assert row is not None
        assert (row.institution_id, row.entry_index) == (bank.institution_id, 99)
        assert (99, 0) in history(state, bank.portal_id)
        assert (99, 0) in history(state, bank.institution_id)
        assert (99, 0) not in history(state, bank.container_id)


def test_every_row_of_the_history_carries_its_institution(bank: Bank) -> None:
    with bank.ledger.read() as state:
        rows = [row.institution_id for _, row in state.scan(HISTORY)]
    assert len(rows) >= 10
    assert set(rows) == {bank.institution_id}


# -- founding


def context() -> Context:
    return Context(REALM, 0, 1, "p", b"", CommandId(), b"")


def decide(request: FoundRealm, tmp_path: Path) -> Decision:
    """Decide on an empty ledger."""
    from core.keys import RealmKeys
    from core.ledger.ledger import Ledger

    keys = RealmKeys.create(tmp_path / "keys")
    ledger = Ledger(tmp_path / "ledger", keys, REALM, TRUST_DOMAIN, map_gib=1)
    try:
        with ledger.read() as state:
            return decide_found_realm(request, state, context())
    finally:
        ledger.close()


def spec(name: str, *roles: str) -> FoundingServiceSpec:
    return FoundingServiceSpec(name=name, roles=roles)


def test_founding_makes_the_realm_and_its_services(bank: Bank) -> None:
    with bank.ledger.read() as state:
        service_id = state.find(IndexKind.SERVICE_NAME, b"auditor")
        assert service_id is not None
        row = state.get(SERVICES, service_id)
        assert row is not None
        assert (row.name, list(row.roles)) == ("auditor", ["AUDITOR"])
        with pytest.raises(SettingsError, match="founded already"):
            decide_found_realm(FoundRealm(realm=REALM), state, context())


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (FoundRealm(realm=REALM + 1), "realm.number"),
        (FoundRealm(realm=REALM, services=[spec("a", "PORTAL")]), "no role PORTAL"),
        (FoundRealm(realm=REALM, services=[spec("a", "AUDITOR"), spec("a")]), "named twice"),
        (FoundRealm(realm=REALM, services=[spec("jinkud")]), "own name"),
        (FoundRealm(realm=REALM, services=[spec(f"s{n}") for n in range(33)]), "at most 32"),
    ],
)
def test_wrong_founding_is_told(tmp_path: Path, request_: FoundRealm, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        decide(request_, tmp_path)


def test_founding_is_no_command_of_a_caller() -> None:
    assert list(FOUNDING_HANDLERS) == [FoundRealm]
    assert FOUNDING_HANDLERS[FoundRealm].answer is None


@pytest.mark.parametrize(
    "request_",
    [
        SealReadSegment(first_sequence=2, last_sequence=3),
        SealReadSegment(first_sequence=1, last_sequence=0),
        PruneReadSegment(first_sequence=1),
    ],
    ids=["a gap", "empty", "pruned before it is sealed"],
)
def test_a_read_segment_that_cannot_be_is_not_recorded(bank: Bank, request_: Message) -> None:
    request = type(request_)()
    request.CopyFrom(request_)
    request.portal_id, request.portal_epoch = bank.portal_id, 1  # type: ignore[attr-defined]
    if isinstance(request, SealReadSegment):
        request.digest = bytes(32)
    before = bank.ledger.size
    (failed,) = bank.registrar.writer.commit([command(request)])
    assert isinstance(failed, DecideFailed)
    assert bank.ledger.size == before
