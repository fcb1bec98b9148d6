"""Rows wait until a commit ends: it sees them as written, and leaves all of them or none."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.decisions import Beside, Context, Decision, Handler
from core.errors import DecideFailed
from core.ledger.changes import Changes
from core.ledger.ledger import Ledger
from core.ledger.seal import Sealer
from core.ledger.tables import INSTITUTIONS, SEGMENTS, SUPPRESSED, TABLES, State, WritableState
from core.sequencer import Committed, Writer
from core.store.v1.rows_pb2 import InstitutionRow, SegmentRow, SuppressedRow
from jinku.event.v1.event_pb2 import Event, InstitutionRegistered
from jinku.v1.registry_pb2 import RegisterInstitutionRequest
from ledgers import HANDLERS, command, found, reopen

KEY_SIZE = 2


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found(tmp_path)
    opened = reopen(tmp_path)
    yield opened
    opened.close()


def stored(ledger: Ledger) -> list[list[tuple[bytes, bytes]]]:
    return [list(ledger.raw_rows(number)) for number in [t.number for t in TABLES] + [40, 41, 42]]


def check_reads(state: State, model: dict[bytes, int]) -> None:
    """Every way to read gives what a plain dictionary says."""
    keys = [bytes([a, b]) for a in range(4) for b in range(4)]
    for key in keys:
        row = state.get(SEGMENTS, key)
        assert (None if row is None else row.reads) == model.get(key)
    for prefix in (b"", b"\x00", b"\x01", b"\x03", b"\x02\x01", b"\x09"):
        expected = sorted((k, v) for k, v in model.items() if k.startswith(prefix))
        for start in (b"", b"\x01\x02", b"\x03", b"\x03\x03\x00"):
            scanned = [(key, row.reads) for key, row in state.scan(SEGMENTS, prefix, start)]
            assert scanned == [one for one in expected if one[0] >= start]
        if prefix:
            last = state.last(SEGMENTS, prefix, KEY_SIZE)
            assert (last and (last[0], last[1].reads)) == (expected[-1] if expected else None)


def test_a_commit_sees_what_waits_as_if_it_were_written(ledger: Ledger) -> None:
    chance = random.Random(5)
    model: dict[bytes, int] = {}
    for _ in range(30):
        with ledger.writing() as writing:
            check_reads(writing.state, model)
            for _ in range(chance.randrange(8)):
                key = bytes([chance.randrange(4), chance.randrange(4)])
                if chance.random() < 0.4:
                    writing.tables.delete(SEGMENTS, key)
                    model.pop(key, None)
                else:
                    model[key] = chance.randrange(1 << 32)
                    writing.tables.put(SEGMENTS, key, SegmentRow(reads=model[key]))
                for state in (writing.state, writing.tables):
                    check_reads(state, model)
        with ledger.read() as state:
            check_reads(state, model)


def test_the_last_row_is_found_before_many_that_were_removed(ledger: Ledger) -> None:
    with ledger.writing() as writing:
        for number in range(9):
            writing.tables.put(SEGMENTS, bytes([1, number]), SegmentRow(reads=number))
    with ledger.writing() as writing:
        for number in range(2, 9):
            writing.tables.delete(SEGMENTS, bytes([1, number]))
        found = writing.state.last(SEGMENTS, b"\x01", KEY_SIZE)
        assert found is not None
        assert found[1].reads == 1
        for number in range(2):
            writing.tables.delete(SEGMENTS, bytes([1, number]))
        assert writing.state.last(SEGMENTS, b"\x01", KEY_SIZE) is None


def test_a_row_that_was_got_is_a_copy(ledger: Ledger) -> None:
    row = InstitutionRow(code="A")
    with ledger.writing() as writing:
        writing.tables.put(INSTITUTIONS, bytes(16), row)
        row.code = "B"
        got = writing.tables.get(INSTITUTIONS, bytes(16))
        assert got is not None
        got.code = "C"
        again = writing.state.get(INSTITUTIONS, bytes(16))
        assert again == InstitutionRow(code="A")
    with ledger.read() as state:
        assert state.get(INSTITUTIONS, bytes(16)) == InstitutionRow(code="A")


def test_a_row_that_changes_often_is_sealed_once_and_tables_are_in_order(ledger: Ledger) -> None:
    sealed = []

    class Counting(Sealer):
        def seal_many(self, number, rows):  # type: ignore[no-untyped-def]
            sealed.append((number, list(rows)))
            return super().seal_many(number, rows)

    changes = Changes()
    sealer = Counting(bytes(range(64)), bytes(32), 1)
    with ledger.writing() as writing:
        tables = WritableState(writing._txn, {}, sealer, changes)
        for code in "ABC":
            tables.put(INSTITUTIONS, b"\x02" * 16, InstitutionRow(code=code))
        tables.put(INSTITUTIONS, b"\x01" * 16, InstitutionRow(code="D"))
        tables.delete(INSTITUTIONS, b"\x00" * 16)
        tables.put(SEGMENTS, b"\x00" * 32, SegmentRow(reads=1))
        tables.delete(SEGMENTS, b"\x00" * 32)
    first, second = changes.sealed(sealer)
    assert (first.number, second.number) == (INSTITUTIONS.number, SEGMENTS.number)
    assert first.keys == [b"\x00" * 16, b"\x01" * 16, b"\x02" * 16]
    assert first.removed == [b"\x00" * 16]
    assert (second.keys, second.rows, second.removed) == ([b"\x00" * 32], [], [b"\x00" * 32])
    rows = [(b"\x01" * 16, InstitutionRow(code="D")), (b"\x02" * 16, InstitutionRow(code="C"))]
    plain = [(key, row.SerializeToString()) for key, row in rows]
    assert sealed == [(INSTITUTIONS.number, plain), (SEGMENTS.number, [])]
    assert first.rows == [(key, sealer.seal(3, key, row)) for key, row in plain]


def test_what_raises_leaves_nothing(ledger: Ledger) -> None:
    with ledger.writing() as writing:
        writing.tables.put(INSTITUTIONS, bytes(16), InstitutionRow(code="A"))
    before = stored(ledger)
    with pytest.raises(RuntimeError, match="half way"), ledger.writing() as writing:
        writing.tables.put(INSTITUTIONS, bytes(16), InstitutionRow(code="B"))
        writing.tables.put_beside(SUPPRESSED, bytes(17), SuppressedRow(count=1))
        writing.tables.delete(INSTITUTIONS, bytes(16))
        raise RuntimeError("half way")
    assert stored(ledger) == before
    with ledger.writing() as writing:
        assert writing.state.get(INSTITUTIONS, bytes(16)) == InstitutionRow(code="A")


def test_rows_beside_are_durable_without_an_entry(tmp_path: Path, ledger: Ledger) -> None:
    head = ledger.head
    with ledger.writing() as writing:
        writing.tables.put_beside(SUPPRESSED, bytes(17), SuppressedRow(count=1))
        assert [row.count for _, row in writing.state.scan(SUPPRESSED)] == [1]
    assert ledger.head == head
    ledger.close()
    again = reopen(tmp_path)
    with again.read() as state:
        assert [row.count for _, row in state.scan(SUPPRESSED)] == [1]
    again.close()


def test_a_command_that_is_not_taken_leaves_no_row_of_its_own(ledger: Ledger) -> None:
    """Too large an entry, a procedure that raises: the commands around it are as without it."""

    def decide(request: RegisterInstitutionRequest, _: State, context: Context) -> Decision:
        if request.code == "raises":
            raise RuntimeError("broken")
        made = context.new_id()
        large = "x" * (70_000 if request.code == "large" else 1)
        event = InstitutionRegistered(institution_id=made, code=request.code, name=large)
        beside = Beside(SUPPRESSED, made + b"\x00", SuppressedRow(count=1))
        return Decision(events=[Event(institution_registered=event)], beside=[beside])

    handlers = {**HANDLERS, RegisterInstitutionRequest: Handler(RegisterInstitutionRequest, decide)}
    asked = [
        command(RegisterInstitutionRequest(code=code)) for code in ("A", "large", "raises", "B")
    ]
    results = Writer(ledger, handlers).commit(asked)
    assert [type(result) for result in results] == [
        Committed,
        DecideFailed,
        DecideFailed,
        Committed,
    ]
    with ledger.read() as state:
        assert [row.code for _, row in state.scan(INSTITUTIONS)] == ["A", "B"]
        assert len(list(state.scan(SUPPRESSED))) == 2
    # The number that was not used is the next one's.
    indexes = [result.entry_index for result in results if isinstance(result, Committed)]
    assert indexes == [1, 2]
    retried = Writer(ledger, handlers).commit(
        [replace(asked[1], request=RegisterInstitutionRequest(code="C"))]
    )
    assert [type(result) for result in retried] == [Committed]
