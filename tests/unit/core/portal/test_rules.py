"""Challenges, passages, alarms and the replay's bookkeeping, each on its own."""

from __future__ import annotations

import hmac
import struct
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from core.kernels import UNKNOWN_NUMBER
from core.portal import passages
from core.portal.alarms import HELD_MAX, REMEMBERED_MAX, AlarmBook, Batch, Held, Separator
from core.portal.challenges import ChallengeBook
from core.portal.columns import Columns
from core.portal.tracker import Outstanding, leave_out_decided
from core.settings import PortalSettings
from jinku.type.v1.tag_pb2 import Direction
from jinku.v1.portal_pb2 import ChallengePurpose, ChallengeState
from native.tracks import TRACK

BOOK = ChallengeBook.of(bytes(32), 30, 24)
PORTAL = bytes(range(16))
LIVE = ChallengePurpose.CHALLENGE_PURPOSE_LIVE
SPOOL = ChallengePurpose.CHALLENGE_PURPOSE_SPOOL
SECOND = 1_000_000_000


# -- challenges ----------------------------------------------------------------------------------


def test_challenge_is_what_the_decision_record_says() -> None:
    issued = BOOK.issue(PORTAL, LIVE, 1234)
    assert issued.challenge_id == struct.pack(">BQ", 1, 1234)
    message = b"jinku challenge v1" + PORTAL + issued.challenge_id
    assert issued.challenge == hmac.digest(bytes(32), message, "sha256")[:10]


@pytest.mark.parametrize(("purpose", "lifetime"), [(LIVE, 30), (SPOOL, 86_400)])
def test_challenge_lives_its_time(purpose: ChallengePurpose, lifetime: int) -> None:
    issued = BOOK.issue(PORTAL, purpose, SECOND)
    end_ns = SECOND * (lifetime + 1)
    assert issued.expires_at_ns == end_ns
    for now_ns in (SECOND, end_ns - 1):
        state, challenge = BOOK.judge(PORTAL, issued.challenge_id, now_ns)
        assert state == int(purpose) + 1
        assert challenge == issued.challenge
    for now_ns, expected in (
        (end_ns, ChallengeState.CHALLENGE_STATE_EXPIRED),
        (SECOND - 1, ChallengeState.CHALLENGE_STATE_FOREIGN),
    ):
        assert BOOK.judge(PORTAL, issued.challenge_id, now_ns) == (expected, None)


@given(st.binary(max_size=16), st.integers(0, 2**63))
def test_any_bytes_are_judged(challenge_id: bytes, now_ns: int) -> None:
    state, challenge = BOOK.judge(PORTAL, challenge_id, now_ns)
    assert (challenge is None) == (state >= ChallengeState.CHALLENGE_STATE_EXPIRED)


# -- passages ------------------------------------------------------------------------------------


def track(**fields: Any) -> np.ndarray[Any, Any]:
    """One finished track; times in ms after the first read."""
    row = np.zeros(1, TRACK)
    defaults = {
        "last_ns": 1000, "mean_inner_ns": 250, "mean_outer_ns": 750, "reads_inner": 10,
        "reads_outer": 10, "first_side": 1, "last_side": 2, "peak_inner_cdbm": -4500,
        "peak_outer_cdbm": -4500,
    }  # fmt: skip
    for name, value in (defaults | fields).items():
        row[name] = value * 1_000_000 if name.endswith("_ns") else value
    return row


@pytest.mark.parametrize(
    ("fields", "direction"),
    [
        ({}, "OUT"),
        ({"first_side": 2, "last_side": 1, "mean_inner_ns": 800, "mean_outer_ns": 200}, "IN"),
        # The sides' order and their means disagree; the means are together; the walk is a jump.
        ({"mean_inner_ns": 800, "mean_outer_ns": 200}, "UNDETERMINED"),
        ({"mean_inner_ns": 480, "mean_outer_ns": 520}, "UNDETERMINED"),
        ({"last_ns": 50, "mean_inner_ns": 10, "mean_outer_ns": 40}, "UNDETERMINED"),
        ({"last_side": 1, "reads_outer": 3}, "TURNED_BACK"),
        ({"last_side": 1, "reads_outer": 30}, "UNDETERMINED"),
        ({"reads_outer": 0, "last_side": 1}, "UNDETERMINED"),
        ({"reads_outer": 0, "last_side": 1, "reads_inner": 4}, "STRAY"),
        ({"reads_outer": 0, "last_side": 1, "peak_inner_cdbm": -7000}, "STRAY"),
        ({"reads_outer": 0, "reads_inner": 0, "first_side": 0, "last_side": 0}, "STRAY"),
    ],
)
def test_direction(fields: dict[str, int], direction: str) -> None:
    decided = passages.decide(track(**fields))
    assert Direction.Name(int(decided.direction[0])) == f"DIRECTION_{direction}"  # type: ignore[arg-type]
    assert (decided.confidence_permille[0] == 0) == (direction == "UNDETERMINED")
    assert decided.confidence_permille[0] <= 990


@given(st.integers(0, 40), st.integers(-9000, -3000), st.integers(0, 40), st.integers(-9000, -3000))
def test_part_of_a_stray_is_a_stray(reads: int, peak: int, fewer: int, weaker: int) -> None:
    """A replay may see only the end of a stray: it must not become anything else."""
    one_sided = {"reads_outer": 0, "last_side": 1}
    whole = track(reads_inner=reads, peak_inner_cdbm=peak, **one_sided)
    if passages.decide(whole).direction[0] == Direction.DIRECTION_STRAY:
        part = track(reads_inner=min(reads, fewer), peak_inner_cdbm=min(peak, weaker), **one_sided)
        assert passages.decide(part).direction[0] == Direction.DIRECTION_STRAY


def test_nothing_to_decide() -> None:
    assert len(passages.decide(np.zeros(0, TRACK)).direction) == 0


# -- alarms --------------------------------------------------------------------------------------


def columns(identity: np.ndarray[Any, Any]) -> Columns:
    count = len(identity)
    u8, u2 = np.zeros(count, np.uint8), np.zeros(count, "<i2")
    return Columns(
        1, b"", 7, identity, np.zeros((count, 0), np.uint8), u8, u8, u2,
        np.zeros(0, "<u2"), np.zeros(0, "<i2"), np.arange(count, dtype="<u4"),
    )  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 7)), min_size=1, max_size=40))
def test_identities_are_told_apart(reads: list[tuple[int, int]]) -> None:
    """Tags 0 to 2 are registered; of the others every read says unknown."""
    identity = np.array([[tag] * 7 for tag, _ in reads], np.uint8)
    verdicts, numbers, expected = [], [], {}
    for tag, verdict in reads:
        verdict = verdict if tag < 3 and verdict != 2 else 2
        verdict = 1 if tag < 3 and verdict == 2 else verdict
        verdicts.append(verdict)
        numbers.append(tag if tag < 3 else UNKNOWN_NUMBER)
        if verdict not in {1, 7}:
            expected.setdefault(bytes([tag] * 7), set()).add(verdict)
    batch = Separator().separate(
        columns(identity), np.array(verdicts, np.uint8), np.array(numbers, np.uint32)
    )
    assert {held.identity: set(held.causes) for held in batch.held} == expected
    assert batch.further == 0


def test_one_batch_is_bounded() -> None:
    identity = np.random.default_rng(1).integers(0, 256, (5000, 12), np.uint8)
    verdicts, numbers = np.full(5000, 2, np.uint8), np.full(5000, UNKNOWN_NUMBER, np.uint32)
    batch = Separator().separate(columns(identity), verdicts, numbers)
    assert (len(batch.held), batch.further) == (HELD_MAX, 5000 - HELD_MAX)
    assert len(batch.further_digest) == 32


def held(number: int, *, registered: bool = False) -> Held:
    return Held(number.to_bytes(7, "big"), (2,), 1 if registered else UNKNOWN_NUMBER, 5)


def test_memory_and_alarms_are_bounded() -> None:
    book = AlarmBook(PortalSettings(alarms_per_interval_max=4))
    raised = 0
    for number in range(3 * REMEMBERED_MAX):
        raised += len(book.sift(Batch([held(number)]), 1 + number, SECOND * 100)[1])
    assert raised == 2
    assert book.suppressed.count == 3 * REMEMBERED_MAX - 2
    assert book.suppressed.from_sequence == 3
    assert all(len(last) <= REMEMBERED_MAX for last in book._last)
    # Noise leaves room for registered tags.
    assert book.sift(Batch([held(1, registered=True)]), 9, SECOND * 100)[1]
    assert not book.summary_due(SECOND * 159)
    assert book.summary_due(SECOND * 160)


# -- replay --------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), max_size=30))
def test_outstanding_knows_the_first(releases: list[int]) -> None:
    outstanding, left = Outstanding(), {}
    for sequence in range(1, 10):
        outstanding.add(sequence, sequence % 3)
        left[sequence] = sequence % 3
    for sequence in releases:
        if left[sequence]:
            outstanding.release(sequence)
            left[sequence] -= 1
        assert outstanding.first(99) == min((s for s, count in left.items() if count), default=99)


def test_decided_reads_are_left_out() -> None:
    read = columns(np.zeros((4, 7), np.uint8))
    numbers, verdicts = np.array([0, 0, 1, 0], np.uint32), np.array([1, 1, 1, 2], np.uint8)
    # Reads are 0, 1, 2 and 3 µs after 7 ns.
    kept = leave_out_decided(read, verdicts, numbers, {0: 7})
    assert kept.tolist() == [0, 1, 1, 2]
    assert leave_out_decided(read, verdicts, numbers, {}) is verdicts
    assert leave_out_decided(read, verdicts, numbers, {0: 9999, 1: 2006}).tolist() == [0, 0, 1, 2]
