"""Streams that end, race and come back at the worst instant: nothing lost, doubled, or waited for
in vain."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from core.errors import LedgerStopped, QueueFull
from core.portal import door as door_module
from core.portal import session as session_module
from core.portal.desk import HelloFault, HelloRefused
from core.portal.session import End, SessionEnded
from jinku.v1.portal_pb2 import Hello
from portals import (
    INNER,
    OUTER,
    SECONDS_MAX,
    Ear,
    Read,
    Site,
    Stream,
    crossing,
    eventually,
    site_in,
    tam1_identity,
)
from soak import how_many

BOX = tam1_identity(0)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path) as opened:
        yield opened


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def join(thread: threading.Thread) -> None:
    thread.join(SECONDS_MAX)
    assert not thread.is_alive(), "it hangs"


@pytest.mark.parametrize("end", [End.SUPERSEDED, End.ABANDONED, End.FINISHED])
def test_end_while_a_batch_is_judged(site: Site, monkeypatch: Any, end: End) -> None:
    stream = site.stream()
    judging, go_on = threading.Event(), threading.Event()
    verify = door_module.verify_batch

    def slow(*given: Any) -> Any:
        judging.set()
        assert go_on.wait(SECONDS_MAX)
        return verify(*given)

    with monkeypatch.context() as slowed:
        # As large batches are: beside the loop.
        slowed.setattr(session_module, "JUDGED_HERE_MAX", 0)
        slowed.setattr(door_module, "verify_batch", slow)
        receiving = in_thread(lambda: stream.session.receive(stream.batch([Read(BOX, OUTER, 0)])))
        assert judging.wait(SECONDS_MAX)
        if end is End.FINISHED:
            stream.session.finish(wait_quiet=False)
        ending = in_thread(lambda: end is End.FINISHED or stream.session.stop(end))
        eventually(lambda: stream.session.end is end)
        # As long as the session's thread needs to see it.
        time.sleep(0.5)
        go_on.set()
        join(receiving)
        join(ending)
    assert stream.session.wait_told() is end
    newer = site.stream()
    assert newer.next_sequence == 2
    newer.send_durable([Read(BOX, OUTER, 1)])
    assert site.reads_kept() == {1: 1, 2: 1}


def test_orderly_end_after_the_line_broke_waits_for_nothing(site: Site) -> None:
    stream = site.stream()
    stream.send_durable(crossing(BOX)[:10])
    # The reader sees the end of requests at the moment at which the call is given up.
    stream.session.call(lambda: stream.session.inner._close(End.FINISHED, wait_quiet=False))
    stream.session.finish(wait_quiet=True)
    join(in_thread(lambda: stream.session.stop(End.ABANDONED)))
    assert site.events("passage_recorded") == []


def test_opening_that_nobody_waits_for_ends_nobody_s_stream(site: Site) -> None:
    stream = site.stream()
    hello = Hello(portal_epoch=1, antennas=[INNER], frequencies_khz=[920_625])
    ear = Ear(site.loop)
    with pytest.raises(HelloRefused) as refused:
        site.loop.run(site.desk.open(site.portal_id(), hello, ear, lambda: False))
    assert refused.value.fault is HelloFault.GONE
    stream.send_durable([Read(BOX, OUTER, 0)])
    assert ear.heard == []


def test_new_epoch_while_the_sequencer_is_full(tmp_path: Path, monkeypatch: Any) -> None:
    with site_in(tmp_path, alarms_per_interval_max=1) as site:
        stream = site.stream()
        stream.send_durable([Read(tam1_identity(50 + at), OUTER, 0) for at in range(5)])
        stream.ear.wait("alarm")
        submit, refusals = site.sequencer.submit, iter(range(5))

        def refuse(given: Any) -> Any:
            if next(refusals, None) is not None:
                raise QueueFull("full")
            return submit(given)

        monkeypatch.setattr(site.sequencer, "submit", refuse)
        assert site.stream(epoch=2).next_sequence == 1
        assert [one.suppressed_count for one in site.events("alarm_raised")] == [0, 4]


def test_nothing_is_told_after_the_ledger_failed(site: Site) -> None:
    stream = site.stream()
    stream.send_durable([Read(BOX, 77, 0)])
    site.desk.fail(LedgerStopped("the outcome of a commit is unknown"))
    assert stream.session.wait_told() is End.FAILED
    with pytest.raises(SessionEnded):
        stream.session.receive(stream.batch([Read(BOX, OUTER, 0)]))
    with pytest.raises(HelloRefused):
        site.stream()


def test_very_many_commands_hold_the_portal_up_and_not_its_acknowledgements(
    site: Site, monkeypatch: Any
) -> None:
    monkeypatch.setattr(session_module, "COMMANDS_WAITING_MAX", 0)
    open_ = threading.Event()
    submit = site.sequencer.submit

    def refuse(given: Any) -> Any:
        if not open_.is_set():
            raise QueueFull("full")
        return submit(given)

    monkeypatch.setattr(site.sequencer, "submit", refuse)
    stream = site.stream()
    most = site.settings.batches_in_flight_max

    def send() -> None:
        for at in range(most + 3):
            stream.send([Read(tam1_identity(60 + at), OUTER, 0)])

    sending = in_thread(send)
    stream.ear.wait_durable(most)
    time.sleep(0.1)
    assert max(stream.ear.acknowledged()) == most
    open_.set()
    join(sending)
    stream.ear.wait_durable(most + 3)
    assert len(stream.ear.wait("alarm", most + 3)) == most + 3


def hold_commits(site: Site) -> Callable[[], None]:
    """Nothing becomes durable until the result is called."""
    go_on, commit = threading.Event(), site.read_log._commit

    def wait(writes: Any) -> None:
        assert go_on.wait(SECONDS_MAX)
        commit(writes)

    site.read_log._commit = wait  # type: ignore[method-assign]
    return go_on.set


def test_acknowledgements_stay_small(tmp_path: Path) -> None:
    with site_in(tmp_path, batches_in_flight_max=64) as site:
        stream = site.stream()
        batches = []
        for at in range(20):
            batches.append(stream.batch([Read(BOX, OUTER, 0)] * 7000, evidence=bytes(16 * 7000)))
            batches[-1].sequence = at + 1
        release = hold_commits(site)
        for batch in batches:
            stream.session.receive(batch)
        release()
        stream.ear.wait_durable(20)
        sizes = [len(one.SerializeToString()) for one in stream.ear.of("acknowledgement")]
        assert max(sizes) < 120_000
        assert sorted(stream.ear.acknowledged()) == list(range(1, 21))


# -- ten at once ---------------------------------------------------------------------------------


class Racer:
    """Opens streams of one portal again and again, sends, breaks off; notes what was acknowledged."""

    def __init__(
        self, site: Site, seed: int, over: threading.Event, acknowledged: Counter[int]
    ) -> None:
        self.site = site
        self.chance = random.Random(seed)
        self.over = over
        self.acknowledged = acknowledged

    def run(self) -> None:
        while not self.over.is_set():
            try:
                stream = self.site.stream()
            except HelloRefused:
                return
            with suppress(SessionEnded):
                self.send(stream)
            self.leave(stream)
            for sequence, one in list(stream.ear.acknowledged().items()):
                if not one.duplicate:
                    self.acknowledged[sequence] += one.counts.genuine + one.counts.unknown_tag

    def send(self, stream: Stream) -> None:
        for _ in range(self.chance.randrange(30)):
            reads = [
                Read(
                    tam1_identity(self.chance.randrange(6)), self.chance.choice([INNER, OUTER]), at
                )
                for at in range(self.chance.randrange(1, 20))
            ]
            batch = stream.batch(reads)
            stream.session.receive(batch)
            if self.chance.random() < 0.2:
                stream.session.receive(batch)
            stream.next_sequence += 1
            stream.ear.deaf = self.chance.random() < 0.05

    def leave(self, stream: Stream) -> None:
        way = self.chance.random()
        if way < 0.4:
            stream.session.stop(End.ABANDONED)
        elif way < 0.7:
            stream.session.finish(wait_quiet=False)
        stream.ear.listen()


def race(site: Site, seed: int, seconds: float) -> None:
    counters = [Counter[int]() for _ in range(10)]
    over, began = threading.Event(), time.monotonic()
    threads = [
        in_thread(Racer(site, 100 * seed + at, over, counter).run)
        for at, counter in enumerate(counters)
    ]
    # So long, and on a slow machine until there was a race at all.
    while (passed := time.monotonic() - began) < seconds or (
        passed < 6 * SECONDS_MAX and len(site.reads_kept()) <= 10
    ):
        site.pass_time(0.01)
        time.sleep(0.01)
    over.set()
    # Also ends whoever waits for a stream that does not read.
    join(in_thread(site.stop_desk))
    for thread in threads:
        join(thread)
    kept = site.reads_kept()
    assert list(kept) == list(range(1, len(kept) + 1))
    assert len(kept) > 10
    for acknowledged in counters:
        assert {sequence: kept[sequence] for sequence in acknowledged} == dict(acknowledged)
    passages = Counter((one.tag_id, one.first_read_ns) for one in site.events("passage_recorded"))
    assert max(passages.values(), default=1) == 1


def test_ten_streams_race_for_one_portal(site: Site) -> None:
    race(site, 1, 3)


def test_ten_streams_race_with_all_work_beside_the_loop(site: Site, monkeypatch: Any) -> None:
    for name in ("JUDGED_HERE_MAX", "SETTLED_HERE_MAX", "SETTLED_MEANWHILE_MAX"):
        monkeypatch.setattr(session_module, name, 0)
    race(site, 12, 3)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 2 + how_many(10)))
def test_ten_streams_race_for_long(site: Site, seed: int) -> None:
    race(site, seed, 20)
