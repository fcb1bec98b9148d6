"""What is registered, what is refused and why: decided and applied on a real ledger."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from core.decisions import Context, Decision
from core.ids import split_id
from core.ledger.tables import CONTAINERS, PORTALS, TABLES, VAULTS, Table
from core.mechanisms.history import places
from core.procedures import queries
from core.procedures.tags import tag_handlers
from core.sequencer import Committed, Handlers
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events
from jinku.type.v1.command_pb2 import CommandId, Extra
from jinku.type.v1.place_pb2 import Antenna, CustodyPlace
from jinku.type.v1.tag_pb2 import TagState
from jinku.v1 import registry_pb2
from jinku.v1.common_pb2 import Outcome
from jinku.v1.registry_pb2 import FreezeTagRequest, IssueTagRequest, RetireTagRequest
from ledgers import HANDLERS, REALM, REGISTRAR, command
from registrar import (
    ANTENNAS,
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

A, B, C = (bytes([n]) * 12 for n in (0xA1, 0xB2, 0xC3))


@pytest.fixture
def registrar(tmp_path: Path) -> Iterator[Registrar]:
    """A bank with one institution, one vault, one portal and one box without a tag."""
    made = Registrar(tmp_path)
    for request in (institution(), vault(), portal(), container()):
        made.accept(request)
    yield made
    made.ledger.close()


def row(registrar: Registrar, table: Table[Any], key: bytes) -> Any:
    with registrar.ledger.read() as state:
        return state.get(table, key)


def kinds(response: registry_pb2.GetContainerResponse) -> list[str]:
    return [item.event.WhichOneof("event") or "" for item in response.history]


def decide(registrar: Registrar, request: Message, handlers: Handlers = HANDLERS) -> Decision:
    """Decide and record nothing."""
    context = Context(REALM, registrar.ledger.size, 1, REGISTRAR, b"", CommandId(), b"")
    with registrar.ledger.read() as state:
        return handlers[type(request)].decide(request, state, context)


# -- places and containers


def test_what_is_registered_is_there(registrar: Registrar) -> None:
    branch = registrar.accept(institution("I-2", parent="I-1")).institution_id
    vault_id = registrar.accept(vault("V-2", "I-2")).vault_id
    portal_id = registrar.accept(portal("gate-2", "V-2")).portal_id
    container_id = registrar.accept(container("K-2", "I-2", "V-2")).container_id
    assert row(registrar, VAULTS, vault_id).institution_id == branch
    assert row(registrar, PORTALS, portal_id).institution_id == branch
    assert list(row(registrar, PORTALS, portal_id).antennas) == list(ANTENNAS)
    box = row(registrar, CONTAINERS, container_id)
    assert (box.institution_id, box.vault_id, box.live_tag_id) == (branch, vault_id, b"")
    assert (box.custody.holder_id, box.custody.place) == (
        branch,
        CustodyPlace.CUSTODY_PLACE_WITH_HOLDER,
    )
    assert split_id(container_id) == (REALM, registrar.ledger.size - 1, 0)
    registrar.verify()


@pytest.mark.parametrize(
    ("request_", "reasons"),
    [
        (institution("I-1"), ["INSTITUTION_EXISTS"]),
        (institution("I-2", "none"), ["INSTITUTION_NOT_REGISTERED"]),
        (institution("I-2", "I-2"), ["PARENT_WOULD_BE_ITSELF"]),
        (institution("I-1", "none"), ["INSTITUTION_NOT_REGISTERED", "INSTITUTION_EXISTS"]),
        (institution("I-1", "I-1"), ["PARENT_WOULD_BE_ITSELF", "INSTITUTION_EXISTS"]),
        (vault("V-1"), ["VAULT_EXISTS"]),
        (vault("V-2", "none"), ["INSTITUTION_NOT_REGISTERED"]),
        (vault("V-1", "none"), ["INSTITUTION_NOT_REGISTERED", "VAULT_EXISTS"]),
        (portal("gate-1"), ["PORTAL_EXISTS"]),
        (portal("gate-2", "none"), ["VAULT_NOT_REGISTERED"]),
        (
            portal("gate-1", "none", ANTENNAS[:1]),
            ["VAULT_NOT_REGISTERED", "PORTAL_EXISTS", "ANTENNA_SIDES_INCOMPLETE"],
        ),
        (portal("gate-2", antennas=()), ["ANTENNA_SIDES_INCOMPLETE"] * 2),
        (portal("gate-2", antennas=ANTENNAS[1:]), ["ANTENNA_SIDES_INCOMPLETE"]),
        (portal("gate-2", antennas=(*ANTENNAS, ANTENNAS[0])), ["ANTENNA_SIDES_INCOMPLETE"]),
        (
            portal("gate-2", antennas=(*ANTENNAS, Antenna(port=0, side="ANTENNA_SIDE_INNER"))),
            ["ANTENNA_SIDES_INCOMPLETE"],
        ),
        (
            portal("gate-2", antennas=(*ANTENNAS, Antenna(port=256, side="ANTENNA_SIDE_INNER"))),
            ["ANTENNA_SIDES_INCOMPLETE"],
        ),
        (container("K-1"), ["CONTAINER_EXISTS"]),
        (container("K-2", owner="none"), ["INSTITUTION_NOT_REGISTERED"]),
        (container("K-2", vault_code="none"), ["VAULT_NOT_REGISTERED"]),
        (
            container("K-1", "none", "none"),
            ["INSTITUTION_NOT_REGISTERED", "VAULT_NOT_REGISTERED", "CONTAINER_EXISTS"],
        ),
        (issue(A, "none"), ["CONTAINER_NOT_REGISTERED"]),
        (issue(A, replaces=True), ["CONTAINER_HAS_NO_LIVE_TAG"]),
        (issue(bytes(12)), ["TAG_IDENTITY_INVALID"]),
        (issue(A[:9]), ["TAG_IDENTITY_INVALID"]),
        (issue(A, scheme="TAG_SCHEME_SUN"), ["TAG_IDENTITY_INVALID"]),
        (issue(A, scheme="TAG_SCHEME_UNSPECIFIED"), ["TAG_SCHEME_INVALID"]),
        (issue(A, scheme=99), ["TAG_SCHEME_INVALID"]),
        (issue(A, key_version=2), ["TAG_KEY_NOT_LOADED"]),
        (issue(A, key_version=0), ["TAG_KEY_NOT_LOADED"]),
        (
            issue(bytes(9), "none", scheme=0, key_version=9),
            [
                "CONTAINER_NOT_REGISTERED",
                "TAG_IDENTITY_INVALID",
                "TAG_SCHEME_INVALID",
                "TAG_KEY_NOT_LOADED",
            ],
        ),
        (freeze(A), ["TAG_NOT_REGISTERED"]),
        (unfreeze(A), ["TAG_NOT_REGISTERED"]),
        (retire(A), ["TAG_NOT_REGISTERED"]),
    ],
)
def test_refused_with_every_reason(
    registrar: Registrar, request_: Message, reasons: list[str]
) -> None:
    assert registrar.refuse(request_) == reasons
    registrar.verify()


def test_refusal_names_the_item_and_makes_no_id(registrar: Registrar) -> None:
    answered = registrar.run(portal("gate-2", antennas=(*ANTENNAS, *ANTENNAS[:1])))
    assert [record.item for record in answered.committed.header.reasons] == ["port 1 × 2"]
    assert not answered.committed.header.made_ids
    assert answered.response.portal_id == b""
    answered = registrar.run(issue(bytes(7)))
    assert answered.committed.header.reasons[0].item == "00" * 7


def test_refused_tag_names_the_box_whatever_the_item_is(registrar: Registrar) -> None:
    registrar.accept(container("K-2"))
    holder = registrar.accept(issue(A)).tag_id
    box = registrar.get(label="K-2").container_id
    for request, item, item_id in (
        (issue(A, "K-2"), A.hex().upper(), holder),
        (issue(bytes(12), "K-2"), "00" * 12, b""),
        (issue(B, "K-2", scheme=99), B.hex().upper(), b""),
        (issue(B, "K-2", key_version=9), f"{REALM}-9", b""),
        (issue(B, "K-2", replaces=True), "K-2", box),
    ):
        (record,) = registrar.run(request).committed.header.reasons
        assert (record.item, record.item_id, record.container_id) == (item, item_id, box)
    (record,) = registrar.run(issue(B, "none")).committed.header.reasons
    assert record.container_id == b""


def test_extras_are_journalled(registrar: Registrar) -> None:
    extras = [Extra(name="批次", text="2026-11"), Extra(name="n", number=0)]
    for request in (issue(A), freeze(A), container("K-9"), institution("I-9")):
        request.extras.extend(extras)
        assert list(registrar.run(request).committed.events.extras) == extras


# -- tags: one live tag, one container, a life that ends once


def test_tag_is_issued_replaced_and_retired_with_its_history(registrar: Registrar) -> None:
    """TAG-01: issue, replace (old tag dead, history continuous), retire; each leaves history."""
    first = registrar.accept(issue(A))
    assert first.key_version == 1
    second = registrar.accept(issue(B, replaces=True))
    assert second.replaced_tag_id == first.tag_id
    registrar.accept(freeze(B))
    registrar.accept(unfreeze(B))
    registrar.accept(retire(B))
    box = registrar.get(label="K-1")
    assert [(tag.identity, tag.state) for tag in box.tags] == [
        (A, TagState.TAG_STATE_RETIRED),
        (B, TagState.TAG_STATE_RETIRED),
    ]
    assert kinds(box) == [
        "container_registered", "tag_issued", "tag_retired", "tag_issued", "tag_frozen",
        "tag_unfrozen", "tag_retired",
    ]  # fmt: skip
    assert box.history[2].entry_index == box.history[3].entry_index
    assert box.history[4].event.tag_frozen.note == "lost"
    assert all(item.decided_at_ns for item in box.history)
    with registrar.ledger.read() as state:
        assert len(list(places(state, first.tag_id))) == 2
        assert len(list(places(state, second.tag_id))) == 4
    registrar.verify()


def test_second_live_tag_and_second_binding_are_refused(registrar: Registrar) -> None:
    """TAG-02: binding a tag twice, or a second live tag to one box, is refused."""
    registrar.accept(container("K-2"))
    registrar.accept(issue(A))
    assert registrar.refuse(issue(B)) == ["CONTAINER_HAS_LIVE_TAG"]
    assert registrar.refuse(issue(A, "K-2")) == ["TAG_ALREADY_BOUND"]
    assert registrar.refuse(issue(A)) == ["CONTAINER_HAS_LIVE_TAG", "TAG_ALREADY_BOUND"]
    assert registrar.refuse(issue(A, replaces=True)) == ["TAG_ALREADY_BOUND"]
    registrar.accept(freeze(A))
    assert registrar.refuse(issue(B)) == ["CONTAINER_HAS_LIVE_TAG"]
    registrar.accept(retire(A))
    assert registrar.refuse(issue(A)) == ["TAG_ALREADY_BOUND"]
    assert registrar.refuse(issue(A, "K-2")) == ["TAG_ALREADY_BOUND"]
    registrar.accept(issue(B))


def test_frozen_tag_may_be_replaced_and_is_dead_then(registrar: Registrar) -> None:
    registrar.accept(issue(A))
    registrar.accept(freeze(A))
    registrar.accept(issue(B, replaces=True))
    assert registrar.refuse(unfreeze(A)) == ["TAG_RETIRED"]
    assert registrar.refuse(issue(A, replaces=True)) == ["TAG_ALREADY_BOUND"]


def test_illegal_steps_of_a_tags_life_are_refused(registrar: Registrar) -> None:
    registrar.accept(issue(A))
    assert registrar.refuse(unfreeze(A)) == ["TAG_NOT_FROZEN"]
    registrar.accept(freeze(A))
    assert registrar.refuse(freeze(A)) == ["TAG_ALREADY_FROZEN"]
    registrar.accept(retire(A))
    for request in (freeze(A), unfreeze(A), retire(A)):
        assert registrar.refuse(request) == ["TAG_RETIRED"]


@pytest.mark.parametrize("identity", [b"\0" * 6 + b"\1", b"\1" * 8, b"\1" * 12, b"\1" * 16])
def test_every_width_of_identity_is_bound(registrar: Registrar, identity: bytes) -> None:
    registrar.accept(issue(identity))
    assert registrar.get(identity=identity).label == "K-1"


def test_identities_that_share_a_beginning_are_different(registrar: Registrar) -> None:
    registrar.accept(container("K-2"))
    registrar.accept(issue(b"\1" * 7))
    registrar.accept(issue(b"\1" * 8, "K-2"))


@pytest.mark.parametrize(
    ("loaded", "version"),
    [
        ({(REALM, 1), (REALM, 4), (REALM + 1, 9)}, 4),
        ({(REALM, 0)}, 0),
        ({(REALM + 1, 9)}, None),
        ((), None),
    ],
)
def test_newest_loaded_version_of_this_realm_is_taken(
    registrar: Registrar, loaded: Collection[tuple[int, int]], version: int | None
) -> None:
    handlers = {one.request: one for one in tag_handlers(lambda: frozenset(loaded))}
    decision = decide(registrar, issue(A), handlers)
    if version is None:
        assert [why.item for why in decision.reasons] == [f"{REALM}-?"]
    else:
        assert decision.events[0].tag_issued.key_version == version


def test_lookups_by_tag_and_by_box_agree(registrar: Registrar) -> None:
    """TAG-03: lookup by tag and by box agree; an unknown tag is "not registered"."""
    registrar.accept(issue(A))
    registrar.accept(issue(B, replaces=True))
    by_label = registrar.get(label="K-1")
    assert (by_label.found, by_label.institution_code, by_label.vault_code) == (True, "I-1", "V-1")
    assert by_label.kind == container().kind
    assert by_label == registrar.get(identity=A) == registrar.get(identity=B)
    assert by_label == registrar.get(container_id=by_label.container_id)


@pytest.mark.parametrize(
    ("by", "name", "item"),
    [
        ({"label": "K-9"}, "CONTAINER_NOT_REGISTERED", "K-9"),
        ({"container_id": b"\xee" * 16}, "CONTAINER_NOT_REGISTERED", "ee" * 16),
        ({"identity": C}, "TAG_NOT_REGISTERED", "C3" * 12),
    ],
)
def test_what_is_not_registered_is_said(
    registrar: Registrar, by: dict[str, Any], name: str, item: str
) -> None:
    response = registrar.get(**by)
    assert not response.found
    (why,) = response.refused.reasons
    assert (why.name, why.item, why.requirement) == (name, item, "TAG-03")


def test_history_keeps_the_newest(registrar: Registrar, monkeypatch: pytest.MonkeyPatch) -> None:
    registrar.accept(issue(A))
    for _ in range(3):
        registrar.accept(freeze(A))
        registrar.accept(unfreeze(A))
    monkeypatch.setattr(queries, "HISTORY_MAX", 3)
    assert kinds(registrar.get(label="K-1")) == ["tag_unfrozen", "tag_frozen", "tag_unfrozen"]


# -- deciding, answering, repeating


def test_deciding_changes_nothing(registrar: Registrar) -> None:
    registrar.accept(issue(A))
    before = [list(registrar.ledger.raw_rows(table.number)) for table in TABLES]
    for request in (issue(B, replaces=True), freeze(A), container("K-2"), portal("gate-9")):
        message = request.SerializeToString(deterministic=True)
        assert decide(registrar, request).accepted
        assert request.SerializeToString(deterministic=True) == message
    assert [list(registrar.ledger.raw_rows(table.number)) for table in TABLES] == before


def test_answer_is_a_pure_function_of_the_entry(registrar: Registrar) -> None:
    """What the journal holds gives the same answer as what was decided."""
    for request in (issue(A), issue(A), issue(B, replaces=True), retire(A), freeze(B), vault()):
        answered = registrar.run(request)
        entry = registrar.ledger.entry(answered.committed.entry_index)
        answer = HANDLERS[type(request)].answer
        assert answer is not None
        again = answer(
            EntryHeader.FromString(entry.header),
            Events.FromString(entry.events),
            Outcome(entry_index=answered.committed.entry_index),
        )
        assert again == answered.response


def test_same_command_again_gives_the_same_entry(registrar: Registrar) -> None:
    once = command(issue(A), epoch=5, sequence=1)
    first, second = registrar.writer.commit([once, once])
    assert not isinstance(first, Exception)
    assert not isinstance(second, Exception)
    assert (first.entry_index, second.repeated) == (second.entry_index, True)
    other = command(issue(B), epoch=5, sequence=1)
    (third,) = registrar.writer.commit([other])
    assert not isinstance(third, Exception)
    answer = HANDLERS[IssueTagRequest].answer
    assert answer is not None
    # Its entry holds an alarm and no tag, and the answer invents none.
    assert answer(third.header, third.events, Outcome()) == registry_pb2.IssueTagResponse(
        outcome=Outcome()
    )


def test_same_bytes_to_another_rpc_are_another_command(registrar: Registrar) -> None:
    """Freeze and retire have the same form: the one's answer must never pass for the other's."""
    identity = b"\x21" * 12
    tag = registrar.accept(issue(identity))
    box = registrar.get(label="K-1")
    asked = [
        command(form(identity=identity, note="lost"), epoch=9, sequence=1)
        for form in (FreezeTagRequest, RetireTagRequest)
    ]
    assert asked[0].request_digest == asked[1].request_digest
    frozen, other, again = (
        one for one in registrar.writer.commit([*asked, asked[1]]) if isinstance(one, Committed)
    )
    assert frozen.accepted
    assert (other.accepted, again) == (False, other._replace(repeated=True))
    (alarmed,) = other.events.events
    assert alarmed.alarm_raised.tag_id == tag.tag_id
    assert alarmed.alarm_raised.container_id == box.container_id
    assert (
        alarmed.alarm_raised.institution_id
        == row(registrar, CONTAINERS, box.container_id).institution_id
    )
