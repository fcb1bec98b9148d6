"""Logs that are wrong in one thing each: the suite must notice every one of them."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.errors import HeadMoved
from core.ledger.port import Batch, Entry, Head
from logs import local

# Tests are no packages, so that one imports no other.
suite = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("test_log_port.py"))))


class Mutant:
    """A log that passes everything on."""

    def __init__(self, log: Any) -> None:
        self.log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


class TakesAnyHead(Mutant):
    def append_if(self, _: Head, decide: Callable[[Batch], Any]) -> Any:
        while True:
            try:
                return self.log.append_if(self.log.head, decide)
            except HeadMoved:
                continue


class LooksAtTheSizeAlone(Mutant):
    def append_if(self, expected: Head, decide: Callable[[Batch], Any]) -> Any:
        if expected.size != self.log.head.size:
            raise HeadMoved("elsewhere")
        return self.log.append_if(self.log.head, decide)


class KeepsHalfABatch(Mutant):
    def append_if(self, expected: Head, decide: Callable[[Batch], Any]) -> Any:
        failed: list[Exception] = []

        def swallow(batch: Batch) -> Any:
            try:
                return decide(batch)
            except Exception as error:
                failed.append(error)

        result = self.log.append_if(expected, swallow)
        if failed:
            raise failed[0]
        return result


class SkipsAnEntry(Mutant):
    def read_from(self, index: int) -> Iterator[tuple[int, Entry]]:
        return (one for one in self.log.read_from(index) if one[0] != 2)


class AlwaysReadsFromTheBeginning(Mutant):
    def read_from(self, _: int) -> Iterator[tuple[int, Entry]]:
        found: Iterator[tuple[int, Entry]] = self.log.read_from(0)
        return found


class AnswersWithAnOldHead(Mutant):
    @property
    def head(self) -> Head:
        size = max(0, self.log.size - 1)
        return Head(size, self.log.root(size))


class TakesMoreThanItSays(Mutant):
    @property
    def limits(self) -> Any:
        return replace(self.log.limits, entries_max=7, entry_bytes_max=2000)


class ForgetsTheTables(Mutant):
    def append_if(self, expected: Head, decide: Callable[[Batch], Any]) -> Any:
        class Forgetful(Mutant):
            @property
            def tables(self) -> Any:
                return Mutant(self.log.tables)

        def with_rows_lost(batch: Batch) -> Any:
            forgetful = Forgetful(batch)
            tables = forgetful.tables
            tables.put = lambda *_: None
            Forgetful.tables = tables  # type: ignore[assignment]
            return decide(forgetful)  # type: ignore[arg-type]

        return self.log.append_if(expected, with_rows_lost)


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (TakesAnyHead, suite.test_of_many_racers_one_wins),
        (KeepsHalfABatch, suite.test_what_fails_half_way_leaves_nothing),
        (SkipsAnEntry, suite.test_entries_stand_where_they_were_put),
        (SkipsAnEntry, suite.test_reading_from_anywhere),
        (AlwaysReadsFromTheBeginning, suite.test_reading_from_anywhere),
        (AnswersWithAnOldHead, suite.test_entries_stand_where_they_were_put),
        (TakesMoreThanItSays, suite.test_as_many_entries_as_the_log_takes_and_one_more),
        (ForgetsTheTables, suite.test_entries_and_tables_move_together),
    ],
)
def test_a_wrong_log_is_noticed(
    mutant: type[Mutant], check: Callable[[Any], None], tmp_path: Path
) -> None:
    with (
        local(tmp_path) as log,
        pytest.raises((AssertionError, pytest.fail.Exception, HeadMoved)),
    ):
        check(mutant(log))


@pytest.mark.parametrize("mutant", [TakesAnyHead, LooksAtTheSizeAlone])
def test_a_log_that_takes_another_root_is_noticed(mutant: type[Mutant], tmp_path: Path) -> None:
    with local(tmp_path) as log, pytest.raises(pytest.fail.Exception):
        suite.test_a_stale_head_is_refused_unasked(
            mutant(log), lambda head: Head(head.size, bytes(32))
        )


@pytest.mark.parametrize("part", ["header", "events"])
def test_a_log_that_takes_larger_entries_than_it_says_is_noticed(part: str, tmp_path: Path) -> None:
    class Larger(Mutant):
        @property
        def limits(self) -> Any:
            return replace(self.log.limits, entry_bytes_max=2000, header_bytes_max=500)

    with local(tmp_path) as log, pytest.raises(pytest.fail.Exception):
        suite.test_an_entry_as_large_as_the_log_takes_and_one_byte_more(Larger(log), part)


def test_the_log_itself_passes(tmp_path: Path) -> None:
    """So that the mutants fail for what is wrong in them."""
    with local(tmp_path) as log:
        suite.test_entries_stand_where_they_were_put(Mutant(log))
