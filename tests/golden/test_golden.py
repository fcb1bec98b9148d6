"""The golden journal replayed by today's code: every root, table, receipt and answer as recorded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto

import golden
from core.fsck import fsck
from core.ledger.ledger import Ledger
from core.ledger.note import open_note
from core.personal.verify import verify_personal
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events
from jinku.receipts import verify
from jinku.v1.common_pb2 import Receipt
from persons import Persons

EXPECTED = golden.read(golden.EXPECTED)
STAGES = [golden.Stage(**stage) for stage in EXPECTED["stages"]]
COMMITS = golden.read_commits()
EXTEND = "run tests/golden/extend.py"


@pytest.fixture(scope="module")
def replayed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Ledger, dict[int, object]]]:
    """The whole journal in a new ledger, and its tables' digests at the end of each stage."""
    directory = tmp_path_factory.mktemp("golden")
    golden.place_keys(directory)
    ledger = golden.open_ledger(directory)
    sizes = {stage.size for stage in STAGES}
    digests: dict[int, object] = {}
    for size in golden.replay(ledger, COMMITS):
        if size in sizes:
            digests[size] = (ledger.checkpoint().note, golden.digest_tables(ledger))
    golden.put_beside(ledger)
    yield ledger, digests
    ledger.close()


def test_roots_and_tables(replayed: tuple[Ledger, dict[int, object]]) -> None:
    _, digests = replayed
    for stage in STAGES:
        note, tables = digests[stage.size]  # type: ignore[misc]
        assert note == stage.checkpoint, stage.name
        made = {number: digest for number, digest in tables.items() if number in stage.tables}
        assert made == stage.tables, f"{stage.name}: after a deliberate change, {EXTEND} --tables"


def test_receipts_and_answers(replayed: tuple[Ledger, dict[int, object]]) -> None:
    ledger, _ = replayed
    assert len(EXPECTED["entries"]) == ledger.size
    for index, expected in enumerate(EXPECTED["entries"]):
        described = golden.describe(ledger, index)
        assert described["receipt"] == expected["receipt"], index
        assert described == expected, f"{index}: after fields were added, {EXTEND} --answers"
        receipt = Receipt.FromString(ledger.receipt(index).SerializeToString())
        assert verify(receipt, ledger.verifier_key).header.index == index


def test_it_is_sound_with_what_lies_beside_it(
    replayed: tuple[Ledger, dict[int, object]], tmp_path: Path
) -> None:
    ledger, _ = replayed
    report = fsck(ledger)
    assert (report.entries, report.checkpoints) == (ledger.size, len(COMMITS))
    open_note(STAGES[-1].checkpoint, ledger.verifier_key)
    directory = shutil.copytree(ledger.path.parent, tmp_path / "copy")
    persons = Persons(directory)
    try:
        found = verify_personal(persons.ledger, persons.keys)
        assert min(found.subjects, found.values, found.erased) > 0
    finally:
        persons.close()


def test_every_command_is_in_it() -> None:
    assert golden.missing_commands(COMMITS) == [], f"add a scenario and {EXTEND}"


def test_every_event_and_field_is_in_it() -> None:
    assert golden.missing_fields(COMMITS) == [], f"add a scenario and {EXTEND}"


# ── that it would say so ────────────────────────────────────────────────────────────────────────


def test_a_new_field_is_missed() -> None:
    """As a field of a message that no entry has."""
    descriptor = DescriptorProto.DESCRIPTOR
    assert golden.fields_of(descriptor, set()) - set(golden.fields_in(DescriptorProto(name="x")))
    without = [entries for entries in COMMITS if not any(map(is_custody, entries))]
    assert "jinku.event.v1.CustodyMoved.container_id" in golden.missing_fields(without)
    first = COMMITS[:1]
    assert "jinku.v1.IssueTagRequest" in golden.missing_commands(first)


def is_custody(entry: golden.Entry) -> bool:
    return any(event.HasField("custody_moved") for event in Events.FromString(entry.events).events)


@pytest.mark.parametrize("number", [0, 7, len(COMMITS) - 1])
def test_one_bit_in_an_entry_is_noticed(tmp_path: Path, number: int) -> None:
    commits = [list(entries) for entries in COMMITS]
    entry = commits[number][0]
    header = EntryHeader.FromString(entry.header)
    header.salt = bytes([header.salt[0] ^ 1]) + header.salt[1:]
    commits[number][0] = golden.Entry(header.SerializeToString(deterministic=True), entry.events)
    golden.place_keys(tmp_path)
    ledger = golden.open_ledger(tmp_path)
    list(golden.replay(ledger, commits))
    assert ledger.checkpoint().note != STAGES[-1].checkpoint
    ledger.close()
