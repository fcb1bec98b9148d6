"""The set of marks: duplicates, growth, what it takes and what it refuses."""

from __future__ import annotations

import random
import time

import pytest

from native.markset import MarkSet

ZERO = bytes(8)
# All of one home slot, so that they stand in each other's way; around the end of the table too.
CROWDED = [value.to_bytes(8, "little") for value in [*range(1, 30), *range(2**64 - 30, 2**64)]]


def test_a_mark_is_there_as_often_as_it_was_added() -> None:
    marks = MarkSet()
    for mark in (ZERO, b"12345678"):
        assert mark not in marks
        marks.add(mark * 3)
        for left in (2, 1, 0):
            assert mark in marks
            assert marks.remove(mark) == 0
            assert (mark in marks, len(marks)) == (left > 0, left)
        assert marks.remove(mark) == 1


def test_a_row_is_known_by_its_first_bytes() -> None:
    marks = MarkSet()
    marks.add(b"12345678")
    assert b"12345678 and what follows" in marks
    assert b"12345679 and what follows" not in marks


def test_what_is_missing_is_told() -> None:
    marks = MarkSet()
    marks.add(b"".join(CROWDED))
    assert marks.first_missing(b"".join(CROWDED)) is None
    assert marks.first_missing(b"") is None
    assert marks.first_missing(CROWDED[3] + b"12345678" + CROWDED[4]) == 1
    assert marks.remove(CROWDED[3] + b"12345678" + CROWDED[3]) == 2
    assert len(marks) == len(CROWDED) - 1


def test_marks_in_each_others_way_are_found_whichever_goes_first() -> None:
    chance = random.Random(1)
    for _ in range(300):
        marks = MarkSet()
        left = chance.sample(CROWDED, len(CROWDED))
        marks.add(b"".join(left))
        while left:
            assert marks.remove(left.pop()) == 0
            assert marks.first_missing(b"".join(left)) is None
            assert len(marks) == len(left)


def test_a_dump_makes_the_same_set() -> None:
    marks = MarkSet()
    content = random.Random(2).randbytes(8 * 5000) + ZERO * 2
    marks.add(content + content[:80])
    other = MarkSet(len(marks))
    other.add(marks.dump())
    assert len(other) == 5012
    assert other.remove(content + content[:80]) == 0
    assert len(other) == 0
    assert MarkSet().dump() == b""


def test_memory_for_each_mark_is_bounded_however_it_grew() -> None:
    """The file of operations says 16 bytes a row at most."""
    chance, marks = random.Random(3), MarkSet()
    while len(marks) < 300_000:
        marks.add(chance.randbytes(8 * chance.randrange(1, 2000)))
        assert len(marks) < 2000 or marks.memory_bytes <= 16 * len(marks)


def test_a_million_marks_are_put_in_quickly() -> None:
    """As a start does; twenty times slower would still be within what a start may take."""
    content = random.Random(4).randbytes(8_000_000)
    marks = MarkSet(1_000_000)
    began = time.thread_time()
    marks.add(content)
    assert time.thread_time() - began < 1.0
    assert marks.memory_bytes < 12_000_000


@pytest.mark.parametrize(
    "wrong", [b"1234567", bytearray(8), memoryview(bytes(8)), None, 5, "12345678"]
)
def test_what_is_no_mark_is_refused(wrong: object) -> None:
    marks = MarkSet()
    for call in (marks.add, marks.remove, marks.first_missing, marks.__contains__):
        with pytest.raises(ValueError, match="expected bytes"):
            call(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [-1, 2**41, 1.5, None])
def test_a_capacity_is_a_number_within_bounds(wrong: object) -> None:
    with pytest.raises(ValueError, match="capacity"):
        MarkSet(wrong)  # type: ignore[arg-type]
