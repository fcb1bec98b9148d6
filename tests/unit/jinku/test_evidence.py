"""The parts of an evidence package: what an entry names, the box's life, the texts, the whole tree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from core.personal.format import commit
from jinku import words
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Event, Events
from jinku.evidence.account import TEXT_VERSION, Account
from jinku.evidence.content import Content, Opened, Selection
from jinku.evidence.entries import Entry, EvidenceInvalid, concerns, find_ids, is_id_field
from jinku.evidence.life import Life
from jinku.evidence.scan import Frontier
from jinku.notes import hash_leaf
from jinku.type.v1 import personal_pb2, place_pb2
from jinku.type.v1.place_pb2 import Custody
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.verdicts import Fault
from signed_tree import sign, tree_hash

WITH, TRANSIT = 1, 2
# Bytes in events that are no ids: identities, digests, commitments, what a client or portal drew.
NO_IDS = {
    "commitment", "data", "digest", "identity", "key_check", "request_digest",
    "suppressed_digest", "tag",
}  # fmt: skip


def id_of(entry: int, ordinal: int = 0) -> bytes:
    return (1).to_bytes(4) + entry.to_bytes(8) + ordinal.to_bytes(4)


BANK, VAULT, GATE, BOX, TAG, SECOND, ALARM = (
    id_of(1), id_of(2), id_of(3), id_of(4), id_of(5), id_of(8), id_of(7),
)  # fmt: skip
AT_BANK = Custody(holder_id=BANK, place=WITH)
ON_THE_WAY = Custody(holder_id=BANK, place=TRANSIT)


def entry(index: int, *events: Event, **fields: Any) -> Entry:
    said = {"realm": 1, "index": index, "salt": bytes(16), "device_id": id_of(0),
            "principal": "spiffe://bank.example/1/service/desk", "command": "jinku.v1.Request",
            "policy_version": "founding-1", "outcome": 1, "made_ids": [id_of(index)],
            "decided_at_ns": 1_700_000_000_000_000_000 + index, **fields}  # fmt: skip
    header = EntryHeader(**said)
    return Entry(header.SerializeToString(), Events(events=events).SerializeToString())


FOUNDED = entry(
    0,
    Event(realm_founded={"realm": 1, "trust_domain": "bank.example",
                         "services": [{"service_id": id_of(0), "name": "desk"}]}),
)  # fmt: skip
AROUND = [
    FOUNDED,
    entry(1, Event(institution_registered={"institution_id": BANK, "code": "I", "name": "总行", "kind": 1})),
    entry(2, Event(vault_registered={"vault_id": VAULT, "institution_id": BANK, "code": "V",
                                     "name": "金库", "kind": 1, "time_zone": "Asia/Shanghai"})),
    entry(3, Event(portal_registered={"portal_id": GATE, "institution_id": BANK,
                                      "vault_id": VAULT, "name": "gate-1"})),
]  # fmt: skip
REGISTERED = entry(
    4,
    Event(container_registered={"container_id": BOX, "institution_id": BANK, "vault_id": VAULT,
                                "label": "K-1", "kind": 2, "custody": AT_BANK}),
)  # fmt: skip
ISSUED = entry(
    5,
    Event(tag_issued={"tag_id": TAG, "container_id": BOX, "institution_id": BANK,
                      "identity": b"\x33" * 12, "scheme": 2}),
)  # fmt: skip
PASSED = entry(
    6,
    Event(passage_recorded={"portal_id": GATE, "tag_id": TAG, "container_id": BOX, "direction": 2,
                            "confidence_permille": 900, "reads_inner": 3, "reads_outer": 4,
                            "first_read_ns": 1_700_000_000_000_000_000}),
    Event(custody_moved={"container_id": BOX, "before": AT_BANK, "after": ON_THE_WAY}),
    device_id=GATE,
)  # fmt: skip
ALARMED = entry(
    7,
    Event(alarm_raised={"alarm_id": ALARM, "portal_id": GATE, "tag_id": TAG, "container_id": BOX,
                        "institution_id": BANK, "reasons": [ReasonRecord(code=402)]}),
)  # fmt: skip
REPLACED = entry(
    8,
    Event(tag_retired={"tag_id": TAG}),
    Event(tag_issued={"tag_id": SECOND, "container_id": BOX, "institution_id": BANK,
                      "identity": b"\x34" * 12, "scheme": 3, "replaces_tag_id": TAG}),
)  # fmt: skip
FROZEN = entry(9, Event(tag_frozen={"tag_id": SECOND, "note": "报失\n第 1 条记录"}))
REFUSED = entry(
    10, outcome=2, reasons=[ReasonRecord(code=305, item_id=SECOND, item="34")], made_ids=[]
)  # fmt: skip
REFUSED_AGAIN = entry(
    12, outcome=2, made_ids=[],
    reasons=[ReasonRecord(code=301, item_id=id_of(30), item="35", container_id=BOX)],
)  # fmt: skip
UNFROZEN = entry(11, Event(tag_unfrozen={"tag_id": SECOND}))
STORY = [REGISTERED, ISSUED, PASSED, ALARMED, REPLACED, FROZEN, REFUSED, UNFROZEN]


def content_of(*entries: Entry, selection: Selection = Selection.EVENTS_AND_REFUSALS) -> Content:
    return Content(
        container_id=BOX, selection=selection, persons=(), note=sign(12, bytes(32)),
        entries=entries, proofs={},
    )  # fmt: skip


def bytes_fields(descriptor: Descriptor, seen: set[str]) -> Iterator[str]:
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_BYTES:
            yield field.name
        elif field.message_type is not None and field.message_type.full_name not in seen:
            seen.add(field.message_type.full_name)
            yield from bytes_fields(field.message_type, seen)


def test_every_id_in_an_event_is_recognised() -> None:
    """A new bytes field is an id by its name, or stands in the list above."""
    names = set(bytes_fields(Events.DESCRIPTOR, set()))
    assert {name for name in names if not is_id_field(name)} == NO_IDS


def test_ids_are_found_wherever_they_stand() -> None:
    assert set(find_ids(PASSED.events)) == {GATE, TAG, BOX, BANK}
    assert PASSED.context == {GATE, TAG, BOX, BANK}
    assert ISSUED.context == {TAG, BOX, BANK, id_of(0)}
    assert list(find_ids(REFUSED.events)) == []


def test_the_right_entries_are_selected() -> None:
    everything = (*AROUND, *STORY)
    content = content_of(*everything)
    content.check()
    assert list(content.subject) == STORY
    by_events = content_of(*everything, selection=Selection.EVENTS)
    assert list(by_events.subject) == [one for one in STORY if one is not REFUSED]
    with pytest.raises(EvidenceInvalid, match="entry 10: .*nothing to do with it"):
        by_events.check()


def test_a_refusal_is_about_the_box_whose_item_is_another() -> None:
    assert concerns(REFUSED_AGAIN, {BOX}, with_refusals=True)
    assert concerns(REFUSED_AGAIN, {id_of(30)}, with_refusals=True)
    assert not concerns(REFUSED_AGAIN, {SECOND}, with_refusals=True)
    assert not concerns(REFUSED_AGAIN, {BOX}, with_refusals=False)


@pytest.mark.parametrize("index", range(4))
def test_what_it_rests_on_must_be_there(index: int) -> None:
    entries = [one for one in (*AROUND, *STORY) if one.index != index]
    with pytest.raises(EvidenceInvalid, match=f"entry {index}: .*missing"):
        content_of(*entries).check()


def test_an_id_is_of_the_entry_that_made_it() -> None:
    made_otherwise = entry(2, Event(vault_registered={"vault_id": VAULT}), made_ids=[])
    entries = [made_otherwise if one.index == 2 else one for one in (*AROUND, *STORY)]
    with pytest.raises(EvidenceInvalid, match="malformed"):
        content_of(*entries).check()


def test_a_box_that_is_not_registered_here() -> None:
    with pytest.raises(EvidenceInvalid, match="registration of"):
        content_of(*AROUND).check()


# -- the box's life


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ([ISSUED], "not registered yet"),
        ([REGISTERED, REGISTERED], "a second time"),
        ([REGISTERED, PASSED], "a tag that the box never had"),
        ([REGISTERED, ISSUED, PASSED, PASSED], "does not hold it"),
        ([REGISTERED, ISSUED, ISSUED], "has one"),
        ([REGISTERED, FROZEN], "UNSPECIFIED"),
        ([REGISTERED, ISSUED, REPLACED, UNFROZEN], "ACTIVE"),
        ([REGISTERED, ISSUED, REPLACED, FROZEN, FROZEN], "FROZEN"),
        ([REGISTERED, ISSUED, REPLACED, entry(12, Event(tag_frozen={"tag_id": TAG}))], "RETIRED"),
        ([REGISTERED, entry(8, *REPLACED.events.events[1:])], "not retired"),
    ],
)
def test_entries_that_do_not_follow(entries: list[Entry], what: str) -> None:
    life = Life(BOX)
    for one in entries[:-1]:
        life.follow(one)
    with pytest.raises(EvidenceInvalid) as refused:
        life.follow(entries[-1])
    assert refused.value.fault is Fault.GAP
    assert what in str(refused.value)


def test_what_became_of_it() -> None:
    life = Life(BOX)
    for one in STORY:
        life.follow(one)
    assert life.custody == ON_THE_WAY
    assert life.tags == {TAG: 3, SECOND: 1}
    assert (life.live, life.alarms, life.passages) == (SECOND, 1, 1)


# -- texts

# SHA-256 of what was told below, by TEXT_VERSION. Packages made in a version keep its words: who
# changes one gives the texts a new version, and writes it here.
TOLD = {
    1: "8423901d8c58d3362b8eba533dc742b05ade898d28530d6995b1558855c54697",
    2: "0cf8fcbafeb56622cb75fe80f5034b4219e409985d631f528b126b0642fbd5d9",
    3: "0c7c8a4b6c998b57747a9a6746a65e66e3de9937fb8abe3d4ee568dff648580f",
}


def test_texts_change_with_their_version() -> None:
    texts = Account(content_of(*AROUND, *STORY)).texts()
    told = "".join(texts[name] for name in sorted(texts))
    assert hashlib.sha256(told.encode()).hexdigest() == TOLD[TEXT_VERSION], told


def test_both_languages_say_as_much() -> None:
    texts = Account(content_of(*AROUND, *STORY)).texts()
    zh, en = texts["account.zh.txt"].splitlines(), texts["account.en.txt"].splitlines()
    assert len(zh) == len(en)
    assert not [line for line in en[: en.index("What this package proves")] if "条" in line[:3]]


def test_a_note_with_a_line_break_in_it_stays_one_line() -> None:
    zh = Account(content_of(*AROUND, *STORY)).texts()["account.zh.txt"]
    assert "冻结: 报失\\n第 1 条记录\n" in zh


def test_every_number_has_words() -> None:
    reasons = {number for number in ReasonCode.values() if number and not 500 <= number < 600}
    assert words.TITLES.keys() == reasons
    enums = [
        place_pb2.InstitutionKind, place_pb2.VaultKind, place_pb2.ContainerKind,
        personal_pb2.PersonalField, personal_pb2.ReadPurpose,
    ]  # fmt: skip
    named = {name for enum in enums for name, number in enum.items() if number}
    assert words.KINDS.keys() == named
    assert words.words_of(place_pb2.ContainerKind, 2) == ("款箱", "cash box")
    assert words.words_of(place_pb2.ContainerKind, 99) == ("99", "99")


# -- proofs


def test_the_root_of_all_entries() -> None:
    frontier, leaves = Frontier(), [bytes([number]) for number in range(70)]
    assert frontier.root() == hashlib.sha256(b"").digest()
    for size, leaf in enumerate(leaves, 1):
        frontier.add(hash_leaf(leaf))
        assert frontier.root() == tree_hash(leaves[:size])


def test_a_commitment_is_the_services() -> None:
    opened = Opened(BOX, 2, 7, "卓文君", bytes(range(32)))
    assert opened.commitment == commit(opened.opening, BOX, 2, "卓文君".encode())
