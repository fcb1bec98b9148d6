"""The tag index: numbers, growth, memory, and what it refuses."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from native.tagindex import ACTIVE, FROZEN, RETIRED, UNKNOWN, Tag, TagIndex


def column(count: int, value: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.full(count, value, np.uint8)


def random_identities(count: int, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(width).integers(0, 256, (count, width), np.uint8)


def test_put_get_and_update() -> None:
    index = TagIndex()
    assert index.put(b"1234567", 2, ACTIVE, 0) == 0
    assert index.put(b"12345678", 3, ACTIVE, 255) == 1
    assert index.set_counter(b"12345678", 9)
    assert index.put(b"12345678", 2, RETIRED, 4) == 1
    assert index.get(b"12345678") == Tag(b"12345678", 1, 2, RETIRED, 4, 9)
    assert index.get(b"87654321") is None
    assert index.set_state(b"1234567", FROZEN)
    assert not index.set_state(b"7654321", FROZEN)
    assert index.get(b"1234567") == Tag(b"1234567", 0, 2, FROZEN, 0, 0)
    assert len(index) == 2


def test_identities_of_different_length_are_different_tags() -> None:
    index = TagIndex()
    identities = [b"abcdefg".ljust(width, b"\0") for width in (7, 8, 12, 16)]
    assert [index.put(identity, 1, ACTIVE, 0) for identity in identities] == [0, 1, 2, 3]
    for number, identity in enumerate(identities):
        assert index.identity_of(number) == identity
        assert index.find_many(np.frombuffer(identity, np.uint8).reshape(1, -1)) == [number]


def test_counters_go_forward_only() -> None:
    index = TagIndex()
    index.put(b"1234567", 3, ACTIVE, 0)
    assert index.set_counter(b"1234567", 5)
    assert not index.set_counter(b"1234567", 5)
    assert not index.set_counter(b"1234567", 4)
    assert not index.set_counter(b"7654321", 6)
    assert index.set_counter(b"1234567", 0xFFFFFFFF)
    tag = index.get(b"1234567")
    assert tag is not None
    assert tag.counter == 0xFFFFFFFF


def test_counters_are_restored_by_number() -> None:
    index = TagIndex()
    index.put_many(random_identities(3, 12), column(3, 3), column(3, 1), column(3, 0))
    numbers, counters = np.array([2, 0, 2], np.uint32), np.array([7, 5, 6], np.uint32)
    assert index.advance_counters(numbers, counters) == 2
    stored = [index.get(index.identity_of(number)) for number in range(3)]
    assert [tag.counter for tag in stored if tag] == [5, 0, 7]
    with pytest.raises(IndexError, match="no tag has number 3"):
        index.advance_counters(np.array([3], np.uint32), np.array([7], np.uint32))
    with pytest.raises(IndexError):
        index.identity_of(3)


@pytest.mark.parametrize("capacity", [1, 2, 3, 1000, 1024, 60_001])
@pytest.mark.parametrize("width", [7, 8, 12, 16])
def test_any_capacity_grows(capacity: int, width: int) -> None:
    count = 20_000
    index = TagIndex(capacity)
    identities = random_identities(count, width)
    states = np.arange(count, dtype=np.uint8) % 3 + 1
    numbers = index.put_many(identities, column(count, 2), states, column(count, 7))
    assert (numbers == np.arange(count)).all()
    assert (index.find_many(identities) == numbers).all()
    assert (index.find_many(identities ^ 255) == UNKNOWN).all()
    assert (index.put_many(identities, column(count, 2), states, column(count, 7)) == numbers).all()
    assert index.identity_of(count - 1) == identities[-1].tobytes()
    assert len(index) == count


def test_a_copy_by_number_makes_the_same_index() -> None:
    index = TagIndex()
    for width in (7, 8, 12, 16):
        rows = random_identities(700, width)
        states = np.arange(700, dtype=np.uint8) % 3 + 1
        index.put_many(rows, column(700, width), states, column(700, 255 - width))
    index.set_counter(index.identity_of(5), 9)
    parts = [index.copy(first, 999) for first in range(0, 2800, 999)]
    assert [len(part[0]) for part in parts] == [999, 999, 802]
    identities, lengths, schemes, states, keys = map(np.concatenate, zip(*parts, strict=True))
    for number in range(2800):
        tag = index.get(identities[number, : lengths[number]].tobytes())
        assert tag is not None
        assert tag[1:5] == (number, schemes[number], states[number], keys[number])
        assert not identities[number, lengths[number] :].any()
    assert [part.shape for part in index.copy(2800, 5)] == [(0, 16), *[(0,)] * 4]
    assert len(index.copy(2799, 2**32 - 1)[0]) == 1
    with pytest.raises(ValueError, match="^first: expected"):
        index.copy(-1, 1)
    with pytest.raises(ValueError, match="^count: expected"):
        index.copy(0, 2**32)


def test_never_more_than_64_bytes_per_tag() -> None:
    index = TagIndex()
    identities = random_identities(300_000, 12)
    for start in range(0, len(identities), 500):
        rows = identities[start : start + 500]
        index.put_many(rows, column(500, 2), column(500, 1), column(500, 0))
        assert len(index) < 10_000 or index.bytes_per_tag <= 64
    assert len(index) == 300_000


def test_two_seeds_find_the_same() -> None:
    identities = random_identities(5000, 8)
    for seed in (None, 0, 1, 2**64 - 1):
        index = TagIndex(seed=seed)
        index.put_many(identities, column(5000, 2), column(5000, 1), column(5000, 0))
        assert (index.find_many(identities) == np.arange(5000)).all()


@pytest.mark.parametrize("identity", [b"", b"123456", b"123456789", b"x" * 17, "1234567", None])
def test_identity_that_does_not_fit(identity: bytes) -> None:
    index = TagIndex()
    for call in (
        lambda: index.put(identity, 1, 1, 0),
        lambda: index.get(identity),
        lambda: index.set_state(identity, 1),
        lambda: index.set_counter(identity, 1),
    ):
        with pytest.raises(ValueError, match="^identity: expected bytes of 7, 8, 12 or 16"):
            call()


@pytest.mark.parametrize(
    ("scheme", "state", "key", "named"),
    [
        (0, 1, 0, "scheme"),
        (256, 1, 0, "scheme"),
        (1, 0, 0, "state"),
        (1, 4, 0, "state"),
        (1, 1, 256, "key"),
    ],
)
def test_values_that_do_not_fit(scheme: int, state: int, key: int, named: str) -> None:
    index = TagIndex()
    with pytest.raises(ValueError, match=f"^{named}: expected"):
        index.put(b"1234567", scheme, state, key)
    if max(scheme, state, key) < 256 and named != "key":
        with pytest.raises(ValueError, match=f"^{named}s: expected"):
            index.put_many(
                random_identities(2, 7), column(2, scheme), column(2, state), column(2, key)
            )
    assert len(index) == 0


def test_columns_that_do_not_fit() -> None:
    index = TagIndex()
    with pytest.raises(
        ValueError, match="^identities: expected rows of 7, 8, 12 or 16 bytes, got 9"
    ):
        index.find_many(random_identities(2, 9))
    with pytest.raises(ValueError, match="^states: expected"):
        index.put_many(random_identities(2, 7), column(2, 1), column(3, 1), column(2, 1))
    with pytest.raises(ValueError, match="^counters: expected"):
        index.advance_counters(np.zeros(2, np.uint32), np.zeros(2, np.int32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^capacity: expected"):
        TagIndex(0)
    with pytest.raises(ValueError, match="^seed: expected"):
        TagIndex(seed=2**64)


def test_nothing_to_do() -> None:
    index = TagIndex()
    assert index.find_many(np.empty((0, 12), np.uint8)).shape == (0,)
    assert index.put_many(
        random_identities(0, 12), column(0, 1), column(0, 1), column(0, 1)
    ).shape == (0,)
    assert repr(index) == "<TagIndex of 0 tags>"


def test_tags_put_together_and_what_they_are_as_of() -> None:
    index = TagIndex(1)
    assert index.mark == 0
    index.put_all([(b"1234567", 2, ACTIVE, 0), (b"123456789012", 3, FROZEN, 1)], 41)
    index.put_all([(b"123456789012", 3, ACTIVE, 1), (b"1234567890123456", 4, RETIRED, 2)], 42)
    assert index.mark == 42
    assert index.get(b"1234567") == Tag(b"1234567", 0, 2, ACTIVE, 0, 0)
    assert index.get(b"123456789012") == Tag(b"123456789012", 1, 3, ACTIVE, 1, 0)
    assert index.get(b"1234567890123456") == Tag(b"1234567890123456", 2, 4, RETIRED, 2, 0)
    index.put_all([], 50)
    assert (index.mark, len(index)) == (50, 3)
    for wrong in ((b"12345", 2, ACTIVE, 0), (b"1234567", 0, ACTIVE, 0), (b"1234567", 2, 4, 0)):
        with pytest.raises(ValueError, match="expected"):
            index.put_all([wrong], 51)
    assert index.mark == 50


def test_counters_in_bulk() -> None:
    index = TagIndex()
    for number in range(5):
        index.put(b"tag%04d" % number, 3, ACTIVE, 0)
        index.set_counter(b"tag%04d" % number, 10 * number)
    assert index.counters(0, 99).tolist() == [0, 10, 20, 30, 40]
    assert index.counters(3, 1).tolist() == [30]
    assert index.counters(5, 1).tolist() == []
    index.start_turns(77)
    assert index.turns == 77


@pytest.mark.soak
def test_five_million_tags_registered_while_they_are_looked_up() -> None:
    """The table grows some twenty times; what was there is found all the time, under its number."""
    count, part = 5_000_000, 20_000
    identities = np.random.default_rng(1).integers(0, 256, (count, 12), np.uint8)
    index, chance = TagIndex(), np.random.default_rng(2)
    sure, wrong, looked_up = [0], list[int](), [0, 0]

    def look_up(which: int) -> None:
        while sure[0] < count:
            known = sure[0]
            chosen = np.random.default_rng(looked_up[which]).integers(0, max(known, 1), 4096)
            found = index.find_many(np.ascontiguousarray(identities[chosen]))
            wrong.extend(chosen[(found != chosen) & (chosen < known)].tolist())
            looked_up[which] += 1

    threads = [threading.Thread(target=look_up, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for start in range(0, count, part):
        rows = identities[start : start + part]
        states = chance.integers(1, 4, part).astype(np.uint8)
        numbers = index.put_many(rows, column(part, 2), states, column(part, 1))
        assert (numbers == np.arange(start, start + part)).all()
        sure[0] = start + part
    for thread in threads:
        thread.join()
    assert wrong == []
    assert min(looked_up) > 100
    assert len(index) == count
    assert index.bytes_per_tag <= 64


def test_others_go_on_while_one_tag_makes_the_index_grow() -> None:
    """Seen by what is mapped: two tables, of which one goes when all tags are moved."""
    count = 300_000
    index = TagIndex(count)
    ones = column(count, 1)
    identities = np.zeros((count, 12), np.uint8)
    identities.view("<u4")[:, 0] = np.arange(1, count + 1)
    index.put_many(identities, ones, ones, ones)
    before, seen, ended = index.bytes_per_tag, set[float](), threading.Event()

    def look() -> None:
        while not ended.is_set():
            seen.add(index.bytes_per_tag)
            assert index.identity_of(count - 1) == identities[-1].tobytes()

    looking = threading.Thread(target=look)
    looking.start()
    index.put(b"1234567", 1, ACTIVE, 0)
    ended.set()
    looking.join()
    after = index.bytes_per_tag
    assert before < after < 64
    assert max(seen) > before + after - 1
    assert (index.find_many(identities) == np.arange(count)).all()
