"""The journal's time: never back, never still, and jumps are told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fsck import fsck
from core.journal_clock import JUMP_NS_MIN, JournalClock, Jump
from core.ledger.ledger import Ledger
from core.refusals import Quota
from core.sequencer import Sequencer, Writer
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import AlarmRaised, Events
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.v1.registry_pb2 import RegisterInstitutionRequest
from ledgers import HANDLERS, command, found, reopen

SECOND = 1_000_000_000
HOUR, YEAR = 3600 * SECOND, 365 * 86_400 * SECOND
START = 1_800_000_000 * SECOND


class Clocks:
    """The system's clock, which somebody sets, and the one that nobody can."""

    def __init__(self) -> None:
        self.shown_ns, self.steady_ns = START, 5 * SECOND
        self.jumps: list[Jump] = []

    def pass_time(self, passed_ns: int) -> None:
        self.shown_ns += passed_ns
        self.steady_ns += passed_ns

    def journal(self, last_ns: int = 0) -> JournalClock:
        return JournalClock(
            last_ns, lambda: self.shown_ns, lambda: self.steady_ns, self.jumps.append
        )


def test_it_is_the_systems_clock() -> None:
    clocks = Clocks()
    clock = clocks.journal()
    for _ in range(5):
        assert clock.now_ns() == clocks.shown_ns
        clocks.pass_time(HOUR)
    assert (clocks.jumps, clock.ahead_ns) == ([], 0)


def test_set_back_it_goes_on_at_half_the_pace_until_they_meet() -> None:
    clocks = Clocks()
    clock = clocks.journal()
    clock.now_ns()
    clocks.shown_ns -= HOUR
    assert clock.now_ns() == START
    assert [jump.seconds for jump in clocks.jumps] == [-3600]
    clocks.pass_time(HOUR)
    assert clock.now_ns() == START + HOUR // 2
    assert clock.ahead_ns == HOUR // 2
    clocks.pass_time(HOUR)
    assert clock.now_ns() == START + HOUR == clocks.shown_ns
    clocks.pass_time(HOUR)
    assert clock.now_ns() == clocks.shown_ns
    assert len(clocks.jumps) == 1


def test_a_year_ahead_and_back_is_told_twice_and_time_goes_on() -> None:
    clocks = Clocks()
    clock = clocks.journal()
    clock.now_ns()
    clocks.shown_ns += YEAR
    far = clock.now_ns()
    clocks.shown_ns -= YEAR
    clocks.pass_time(60 * SECOND)
    assert clock.now_ns() == far + 30 * SECOND
    assert [round(jump.seconds / 86_400) for jump in clocks.jumps] == [365, -365]
    assert clock.ahead_ns == YEAR - 30 * SECOND


def test_a_clock_behind_the_journal_is_told_at_the_start() -> None:
    clocks = Clocks()
    clock = clocks.journal(last_ns=START + HOUR)
    assert clock.now_ns() == START + HOUR
    assert [jump.seconds for jump in clocks.jumps] == [-3600]
    # Nobody can say how long the service did not run.
    clocks = Clocks()
    assert clocks.journal(last_ns=START - YEAR).now_ns() == START
    assert clocks.jumps == []


@given(
    st.lists(
        st.tuples(st.integers(0, HOUR), st.integers(-2 * YEAR, YEAR) | st.just(0)), max_size=30
    )
)
def test_whatever_the_clock_does(steps: list[tuple[int, int]]) -> None:
    clocks = Clocks()
    clock = clocks.journal()
    times, told = [clock.now_ns()], 0
    for passed_ns, set_ns in steps:
        clocks.pass_time(passed_ns)
        clocks.shown_ns += set_ns
        times.append(clock.now_ns())
        assert times[-1] >= max(clocks.shown_ns, times[-2] + passed_ns // 2)
        told += abs(set_ns) >= JUMP_NS_MIN
    assert all(before <= after for before, after in pairwise(times))
    assert len(clocks.jumps) == told


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found(tmp_path)
    opened = reopen(tmp_path)
    yield opened
    opened.close()


def institution(code: str) -> RegisterInstitutionRequest:
    return RegisterInstitutionRequest(code=code, name=code, kind=2)


def alarms(ledger: Ledger) -> list[AlarmRaised]:
    events = [
        event for _, entry in ledger.entries() for event in Events.FromString(entry.events).events
    ]
    return [event.alarm_raised for event in events if event.HasField("alarm_raised")]


def test_a_jump_is_an_alarm_in_the_journal(ledger: Ledger) -> None:
    clocks = Clocks()
    clocks.shown_ns = ledger.last_decided_at_ns
    jumps: list[Jump] = []
    sequencer = Sequencer(
        ledger, HANDLERS, clock=lambda: clocks.shown_ns, steady=lambda: clocks.steady_ns,
        on_jump=jumps.append,
    )  # fmt: skip
    sequencer.start()
    sequencer.submit(command(institution("A"))).result(5)
    clocks.shown_ns += YEAR
    sequencer.submit(command(institution("B"))).result(5)
    clocks.shown_ns -= YEAR
    sequencer.submit(command(institution("C"))).result(5)
    sequencer.stop()
    assert [round(jump.seconds / 86_400) for jump in jumps] == [365, -365]
    (alarm,) = alarms(ledger)
    (why,) = alarm.reasons
    assert (why.code, why.item) == (ReasonCode.REASON_CODE_TIME_JUMPED, "+31536000 s")
    assert sequencer.ahead_ns >= YEAR - HOUR
    decided = [EntryHeader.FromString(entry.header).decided_at_ns for _, entry in ledger.entries()]
    assert decided == sorted(decided)
    assert fsck(ledger).entries == ledger.size


def test_a_clock_that_flaps_has_one_entry_an_interval(ledger: Ledger) -> None:
    clocks = Clocks()
    clocks.shown_ns = ledger.last_decided_at_ns
    writer = Writer(
        ledger, HANDLERS, lambda: clocks.shown_ns, steady=lambda: clocks.steady_ns,
        quota=Quota(600, 60 * SECOND),
    )  # fmt: skip
    for at in range(50):
        clocks.shown_ns += (-1) ** at * 20 * SECOND
        writer.tend()
        writer.commit([command(institution(f"{at}"))])
    assert [alarm.suppressed_count for alarm in alarms(ledger)] == [0]
    clocks.pass_time(400 * SECOND)
    writer.tend()
    _, second = alarms(ledger)
    # All but the first, which had its own, and counting those of the last look.
    assert second.suppressed_count >= 40
