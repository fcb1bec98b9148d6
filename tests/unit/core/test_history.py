"""Histories lie in eras; whoever reads one does not see where they end."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.ledger.ledger import Ledger
from core.ledger.tables import ERA_ENTRIES, HISTORY_KEY_SIZE, history_key, split_history_key
from core.mechanisms.history import Where, newest_places, places, remember
from ledgers import REALM, found, reopen

ONE, OTHER = b"\x01" * 16, b"\xfe" * 16
# Around the ends of eras, with eras between in which nothing happened.
INDICES = [
    0, 1, ERA_ENTRIES - 1, ERA_ENTRIES, ERA_ENTRIES + 1,
    4 * ERA_ENTRIES - 1, 4 * ERA_ENTRIES, 300 * ERA_ENTRIES + 7,
]  # fmt: skip
EXPECTED = [(index, ordinal) for index in INDICES for ordinal in (0, 3)]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found(tmp_path)
    made = reopen(tmp_path)
    with made.writing() as writing:
        for index, ordinal in EXPECTED:
            remember(writing.tables, Where(REALM, index, ordinal), b"", ONE, b"")
            remember(writing.tables, Where(REALM, index + 1, ordinal), b"", OTHER)
        # Also while they wait for the commit.
        assert list(places(writing.state, ONE)) == EXPECTED
    return made


def test_a_history_goes_on_over_the_ends_of_eras(ledger: Ledger) -> None:
    with ledger.read() as state:
        assert list(places(state, ONE)) == EXPECTED
        assert list(places(state, OTHER)) == [(index + 1, at) for index, at in EXPECTED]
        assert list(places(state, b"\x02" * 16)) == []
        for start in [*INDICES, 2 * ERA_ENTRIES, 301 * ERA_ENTRIES]:
            assert list(places(state, ONE, start)) == [one for one in EXPECTED if one[0] >= start]


@pytest.mark.parametrize("count", [1, 2, 3, 7, len(EXPECTED), 1000])
def test_the_newest_are_the_last_ones(ledger: Ledger, count: int) -> None:
    with ledger.read() as state:
        assert newest_places(state, ONE, count) == EXPECTED[-count:]


def test_nothing_has_happened_yet(tmp_path: Path) -> None:
    found(tmp_path)
    with reopen(tmp_path).read() as state:
        assert list(places(state, ONE)) == []
        assert newest_places(state, ONE, 10) == []


def test_keys_lie_in_order_of_eras_then_subjects() -> None:
    keys = [
        history_key(ONE, 5, 1), history_key(ONE, 6, 0), history_key(OTHER, 0, 0),
        history_key(ONE, ERA_ENTRIES, 0),
    ]  # fmt: skip
    assert keys == sorted(keys)
    assert {len(key) for key in keys} == {HISTORY_KEY_SIZE}
    assert split_history_key(keys[0]) == (5, 1)
