"""What every implementation of `LogPort` must do. An engine that passes here can take the ledger's
place behind the sequencer.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from core.errors import HeadMoved, LimitExceeded
from core.ledger.port import Batch, Entry, Head, LogPort
from core.ledger.tables import INSTITUTIONS
from core.store.v1.rows_pb2 import InstitutionRow
from jinku.notes import hash_leaf, hash_node
from logs import IMPLEMENTATIONS, add, append, entries_of, killed_while_appending, make_entry

RACERS = 32


@pytest.fixture(params=IMPLEMENTATIONS)
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def log(engine: str, tmp_path: Path) -> Iterator[LogPort]:
    with IMPLEMENTATIONS[engine](tmp_path) as opened:
        yield opened


def root_of(entries: list[Entry]) -> bytes:
    """RFC 6962 section 2.1, written down once more."""
    if len(entries) == 1:
        return hash_leaf(entries[0].leaf)
    split = 1 << (len(entries) - 1).bit_length() - 1
    return hash_node(root_of(entries[:split]), root_of(entries[split:]))


def test_an_empty_log_says_so(log: LogPort) -> None:
    assert log.head.size == 0
    assert entries_of(log) == []


def test_entries_stand_where_they_were_put(log: LogPort) -> None:
    appended: list[Entry] = []
    for count in (1, 3, 1, 64, 2):
        appended += append(log, count)
        assert log.head == Head(len(appended), root_of(appended))
    assert entries_of(log) == appended


def test_an_empty_batch_writes_nothing(log: LogPort) -> None:
    append(log, 2)
    before = log.head
    assert log.append_if(before, lambda batch: batch.next_index) == 2
    assert log.head == before


def test_what_is_decided_is_given_back(log: LogPort) -> None:
    assert log.append_if(log.head, lambda batch: (add(batch, 1), "answer")[1]) == "answer"


def test_of_many_racers_one_wins(log: LogPort) -> None:
    append(log, 3)
    expected, start = log.head, threading.Barrier(RACERS)

    def race(racer: int) -> list[Entry] | None:
        start.wait()
        try:
            return append(log, 1 + racer % 4, expected)
        except HeadMoved:
            return None

    with ThreadPoolExecutor(RACERS) as pool:
        won = [entries for entries in pool.map(race, range(RACERS)) if entries is not None]
    assert len(won) == 1
    assert entries_of(log, 3) == won[0]


def test_racers_who_ask_again_all_get_their_place(log: LogPort) -> None:
    def run(_: int) -> list[Entry]:
        appended: list[Entry] = []
        while len(appended) < 10:
            try:
                appended += append(log, 2)
            except HeadMoved:
                continue
        return appended

    with ThreadPoolExecutor(8) as pool:
        appended = [entry for entries in pool.map(run, range(8)) for entry in entries]
    stored = entries_of(log)
    assert sorted(stored) == sorted(appended)
    assert log.head == Head(len(stored), root_of(stored))


@pytest.mark.parametrize(
    "stale",
    [
        lambda head: Head(head.size - 1, head.root_hash),
        lambda head: Head(head.size + 1, head.root_hash),
        lambda head: Head(head.size, bytes(32)),
        lambda head: Head(0, bytes(32)),
    ],
)
def test_a_stale_head_is_refused_unasked(log: LogPort, stale: object) -> None:
    """Another root at the same size too: then the log is not the one that was decided on."""
    append(log, 5)
    head, asked = log.head, []
    with pytest.raises(HeadMoved):
        log.append_if(stale(head), asked.append)  # type: ignore[operator]
    assert asked == []
    assert log.head == head
    append(log)


def test_what_fails_half_way_leaves_nothing(log: LogPort) -> None:
    appended = append(log, 2)
    head, row = log.head, InstitutionRow(code="1")

    def fail(batch: Batch) -> None:
        add(batch, 3)
        batch.tables.put(INSTITUTIONS, bytes(16), row)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        log.append_if(head, fail)
    assert log.head == head
    assert entries_of(log) == appended
    assert log.append_if(head, lambda batch: batch.state.get(INSTITUTIONS, bytes(16))) is None
    appended += append(log, 2)
    assert entries_of(log) == appended


def test_entries_and_tables_move_together(log: LogPort) -> None:
    def decide(batch: Batch) -> None:
        for code in "AB":
            before = batch.state.get(INSTITUTIONS, bytes(16))
            assert (before.code if before else "") == ("" if code == "A" else "A")
            batch.tables.put(INSTITUTIONS, bytes(16), InstitutionRow(code=code))
            add(batch, 1)

    log.append_if(log.head, decide)
    row = log.append_if(log.head, lambda batch: batch.state.get(INSTITUTIONS, bytes(16)))
    assert row == InstitutionRow(code="B")


def test_a_batch_knows_its_own_entries_and_those_before(log: LogPort) -> None:
    before = append(log, 3)

    def decide(batch: Batch) -> list[Entry]:
        mine = add(batch, 2)
        assert batch.next_index == 5
        assert [batch.entry(index) for index in range(5)] == before + mine
        for index in (-1, 5):
            with pytest.raises(IndexError):
                batch.entry(index)
        return mine

    mine = log.append_if(log.head, decide)
    assert entries_of(log) == before + mine


def test_as_many_entries_as_the_log_takes_and_one_more(log: LogPort) -> None:
    most = log.limits.entries_max
    with pytest.raises(LimitExceeded, match=str(most)):
        append(log, most + 1)
    assert log.head.size == 0
    appended = append(log, most)
    assert log.head == Head(most, root_of(appended))


@pytest.mark.parametrize("part", ["header", "events"])
def test_an_entry_as_large_as_the_log_takes_and_one_byte_more(log: LogPort, part: str) -> None:
    def sized(index: int, more: int) -> Entry:
        bare = make_entry(index, principal="x" * 200 if part == "header" else "")
        if part == "events":
            room = log.limits.entry_bytes_max - len(bare.header)
            return Entry(bare.header, bytes(room + more))
        room = log.limits.header_bytes_max - len(bare.header)
        return make_entry(index, principal="x" * (200 + room + more))

    append(log)
    assert log.limits.fault(sized(1, 0)) == ""
    log.append_if(log.head, lambda batch: batch.append(sized(1, 0)))
    head = log.head
    with pytest.raises(LimitExceeded, match="entry 2"):
        log.append_if(head, lambda batch: batch.append(sized(2, 1)))
    assert log.head == head
    append(log)


def test_reading_from_anywhere(log: LogPort) -> None:
    appended = [entry for count in (1, 7, 2) for entry in append(log, count)]
    for index in range(len(appended) + 3):
        assert entries_of(log, index) == appended[index:]


def test_what_was_appended_is_there_after_reopening(engine: str, tmp_path: Path) -> None:
    appended: list[Entry] = []
    for _ in range(3):
        with IMPLEMENTATIONS[engine](tmp_path) as log:
            assert entries_of(log) == appended
            appended += append(log, 5)
            head = log.head
        with IMPLEMENTATIONS[engine](tmp_path) as log:
            assert log.head == head == Head(len(appended), root_of(appended))


def test_after_an_unknown_outcome_the_head_tells_it(engine: str, tmp_path: Path) -> None:
    """Killed while it appends: the batch whose outcome nobody was told is there whole, or not."""
    chance = random.Random(3)
    for _ in range(4):
        known, under_way = killed_while_appending(engine, tmp_path, 4 + chance.randrange(60))
        with IMPLEMENTATIONS[engine](tmp_path) as log:
            stored = entries_of(log)
            assert log.head == Head(len(stored), root_of(stored))
            assert log.head.size in {known.size, known.size + under_way}
            assert root_of(stored[: known.size]) == known.root_hash
            append(log)


def test_readers_see_a_log_that_only_grows(log: LogPort) -> None:
    done, seen = threading.Event(), []

    def read() -> None:
        heads = [log.head]
        while not done.is_set():
            head = log.head
            found = entries_of(log, max(0, head.size - 50))
            assert len(found) >= min(50, head.size)
            heads.append(head)
        seen.append(heads)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for count in (1, 2, 3, 10) * 8:
        append(log, count)
    done.set()
    for reader in readers:
        reader.join()
    stored = entries_of(log)
    assert len(seen) == 4
    for heads in seen:
        assert all(before.size <= after.size for before, after in pairwise(heads))
        for head in {one for one in heads if one.size}:
            assert root_of(stored[: head.size]) == head.root_hash


def test_a_reader_that_pauses_holds_up_nobody(log: LogPort) -> None:
    appended = append(log, 3)
    reader = log.read_from(0)
    assert next(reader) == (0, appended[0])
    for _ in range(200):
        appended += append(log, 2)
    rest = [entry for _, entry in reader]
    # At least what was there when it began, and no gap.
    assert appended[1:3] == rest[:2]
    assert rest == appended[1 : 1 + len(rest)]
