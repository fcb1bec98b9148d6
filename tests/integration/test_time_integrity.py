"""A device's clock is a claim: held against ours within a bound, and recorded beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events
from lines import HELLO, Line, batch, register
from running import Running, running_service

SECOND = 1_000_000_000
AHEAD_SECONDS, BACK_SECONDS = 3, 2


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    bounds = {
        "PORTAL__TIME_AHEAD_MS_MAX": str(AHEAD_SECONDS * 1000),
        "PORTAL__TIME_BACK_MS_MAX": str(BACK_SECONDS * 1000),
    }
    with running_service(tmp_path, **bounds) as service:
        register(service)
        yield service


@pytest.mark.req("APP-11")
def test_skewed_clock_is_refused_and_both_times_are_kept(running: Running) -> None:
    line = Line(running.portal("gate-1"), HELLO.SerializeToString())
    now_ns = line.read("welcome").service_time_ns
    line.send(batch(1, now_ns + (AHEAD_SECONDS + 60) * SECOND))
    (ahead,) = line.read("rejected").refused.reasons
    assert ahead.name == "BATCH_TIME_AHEAD"
    assert ahead.text_zh
    # Within the bound: taken, and the alarm that follows holds the portal's time and ours.
    read_at_ns = now_ns + (AHEAD_SECONDS - 1) * SECOND
    line.send(batch(1, read_at_ns))
    assert line.read("acknowledgement").through_sequence == 1
    alarm = line.read("alarm")
    header = EntryHeader.FromString(alarm.receipt.header)
    (event,) = Events.FromString(alarm.receipt.events).events
    assert read_at_ns <= event.alarm_raised.seen_at_ns < read_at_ns + SECOND
    assert now_ns <= header.decided_at_ns < read_at_ns
    line.send(batch(2, read_at_ns - (BACK_SECONDS + 1) * SECOND))
    (back,) = line.read("rejected").refused.reasons
    assert back.name == "BATCH_TIME_BACKWARDS"
    line.send(batch(2, read_at_ns - (BACK_SECONDS - 1) * SECOND))
    assert line.read("acknowledgement").through_sequence == 2
