"""Stored reads judged again: every verdict, passage and alarm as it was, or the first difference named."""

from __future__ import annotations

import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import LedgerCorrupt, SettingsError
from core.portal import session as session_module
from core.portal.columns import COLUMNS
from core.portal.retention import Pruner
from core.readlog import layout
from core.readlog.layout import Block, Counter
from core.readlog.replay import Report, Wanted, replay_reads
from core.readlog.verify import verify_segments
from core.settings import PortalSettings, ReadLogSettings
from jinku.type.v1.tag_pb2 import Direction, TagScheme
from ledgers import REALM, command
from portals import (
    INNER,
    MASTER,
    OUTER,
    SECOND,
    Read,
    Site,
    Stream,
    counter_identity,
    crossing,
    eventually,
    found_site,
    tam1_identity,
)
from registrar import container, freeze, issue, retire, unfreeze
from soak import how_many

COUNTERS = TagScheme.TAG_SCHEME_COUNTER_CMAC
NONE = TagScheme.TAG_SCHEME_NONE
BOX = tam1_identity(0)
DAY = 86_400.0
RETENTION = ReadLogSettings(segment_batches_max=8, prune_interval_seconds=3600, retention_days=30)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found_site(tmp_path)
    site = Site(tmp_path, PortalSettings(alarm_repeat_seconds=2), RETENTION).open()
    try:
        yield site
    finally:
        site.close()
    assert site.failures == []
    assert site.incidents == []


def replay(
    site: Site, *portals: str, from_ns: int = 0, masters: list[tuple[int, int]] | None = None
) -> Report:
    """Of what is durable now; nothing may be on its way."""
    site.read_log.flush()
    loaded = [(REALM, 1)] if masters is None else masters
    return replay_reads(
        site.ledger, site.read_log, site.keys,
        [(realm, version, bytearray(MASTER)) for realm, version in loaded],
        site.parts.principal, Wanted(portals, from_ns),
    )  # fmt: skip


def run(site: Site, request: Any) -> None:
    assert site.sequencer.submit(command(request)).result().accepted


def count_to(stream: Stream, counter: int, tag: int = 0) -> Any:
    """One read of a counter tag."""
    stream.site.pass_time(0.05)
    read = Read(counter_identity(tag), OUTER, 0, counter=counter)
    return stream.send_durable([read], scheme=COUNTERS)


def calm(site: Site) -> None:
    """Every tag has gone and been decided, all streams have ended: nothing is needed for a restart."""
    site.pass_time(3)
    eventually(lambda: not any(len(door.tracker) for door in site.desk._doors.values()))
    site.stop_desk()
    site.read_log.flush()


def verdicts(site: Site) -> list[int]:
    """Of all portals' batches, portal by portal."""
    return [
        verdict
        for portal_id, position in site.read_log.positions()
        for _, block in site.read_log.batches(portal_id, position.epoch)
        for verdict in block.verdicts.tolist()
    ]


class Traffic:
    """All that can happen to a read, at portals that share tags, while the registry changes."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.chance = random.Random(seed)
        self.counters = [0, 0]
        self.frozen = [False, False]

    def send(self, streams: list[Stream], batches: int) -> None:
        for _ in range(batches):
            self.site.pass_time(self.chance.choice([0.05, 0.4, 2.5]))
            tag = self.chance.randrange(2)
            works = [self.count, self.count, self.cross, self.stray, self.freeze]
            self.chance.choice(works)(self.chance.choice(streams), tag)

    def count(self, stream: Stream, tag: int) -> None:
        """Counters that go on, that stand and that come again; and a tag nobody knows."""
        self.counters[tag] += self.chance.choice([0, 1, 1, 2])
        now = self.counters[tag]
        before = self.chance.choice([now, max(0, now - 1)])
        reads = [
            Read(counter_identity(tag), INNER, 0, counter=before),
            Read(counter_identity(tag), OUTER, 9, counter=now),
            Read(counter_identity(7), OUTER, 20, counter=1),
        ]
        stream.send_durable(reads, scheme=COUNTERS)

    def cross(self, stream: Stream, tag: int) -> None:
        inwards = self.chance.random() < 0.5
        stream.send_durable(crossing(tam1_identity(tag), inwards=inwards))
        self.site.pass_time(1)

    def stray(self, stream: Stream, tag: int) -> None:
        reads = [Read(tam1_identity(tag), 200, 0), Read(b"\xee" * 12, INNER, 5)]
        stream.send_durable(reads)

    def freeze(self, stream: Stream, tag: int) -> None:
        identity = counter_identity(tag)
        run(self.site, unfreeze(identity) if self.frozen[tag] else freeze(identity))
        self.frozen[tag] = not self.frozen[tag]


# ── the same again ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", [1, 2])
def test_every_verdict_passage_and_alarm_is_made_again(site: Site, seed: int) -> None:
    traffic = Traffic(site, seed)
    names = ("gate-1", "gate-2", "gate-far")
    for epoch in (1, 2):
        traffic.send([site.stream(name, epoch) for name in names], 40)
        site.pass_time(3)
        site.restart()
        traffic.send([site.stream(name, epoch) for name in names], 20)
    site.stop_desk()
    report = replay(site)
    assert {1, 2, 4, 5, 7} <= set(verdicts(site))
    assert report.reads > report.batches > 80
    assert len(report.portals) == 3
    passages = site.events("passage_recorded")
    assert report.passages == len(passages) > 5
    # An undecided passage is an alarm by itself.
    undecided = sum(one.direction == Direction.DIRECTION_UNDETERMINED for one in passages)
    assert report.alarms == len(site.events("alarm_raised")) - undecided > 20
    only = replay(site, "gate-2")
    assert 0 < only.batches < report.batches
    assert len(only.portals) == 1


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 100 + how_many(60)))
def test_made_again_whatever_a_crash_took_away(tmp_path: Path, seed: int) -> None:
    """Between lives the files are taken as they are, with whatever was on its way."""
    chance = random.Random(seed)
    found_site(tmp_path / "0")
    settings = PortalSettings(alarm_repeat_seconds=2, alarms_per_interval_max=8)
    site = Site(tmp_path / "0", settings, RETENTION).open()
    traffic = Traffic(site, seed)
    for life in range(1, 6):
        epoch = chance.choice([life, life - 1 or 1, 1 + life // 2])
        names = chance.sample(["gate-1", "gate-2", "gate-far"], chance.randrange(1, 4))
        traffic.send([site.stream(name, max(epoch, 1 + life)) for name in names], 25)
        after = tmp_path / str(life)
        shutil.copytree(site.directory, after, ignore=shutil.ignore_patterns("owner.lock"))
        elapsed_ns, now_ns = site.elapsed_ns, site.now_ns
        site.close()
        site = Site(after, settings, RETENTION, now_ns=now_ns, elapsed_ns=elapsed_ns).open()
        traffic.site = site
        site.pass_time(chance.choice([0.1, 1, 5, 70]))
        if chance.random() < 0.5:
            traffic.send([site.stream(name, max(epoch, 1 + life)) for name in names], 10)
        if chance.random() < 0.3:
            site.restart()
    site.stop_desk()
    report = replay(site)
    assert report.batches > 50
    with site.ledger.read() as state:
        verify_segments(state, site.read_log)
    site.close()
    assert site.failures == site.incidents == []


def test_frozen_between_two_batches(site: Site) -> None:
    stream, other = site.stream(), site.stream("gate-2")
    assert count_to(stream, 5).counts.genuine == 1
    assert count_to(other, 5).counts.replayed == 1
    run(site, freeze(counter_identity(0)))
    assert count_to(other, 6).counts.not_active == 1
    assert count_to(stream, 6).counts.replayed == 1
    run(site, unfreeze(counter_identity(0)))
    assert count_to(stream, 7).counts.genuine == 1
    run(site, container("C-9"))
    new = b"\x09" * 8
    reads = [Read(new, OUTER, 0, counter=1)]
    site.pass_time(1)
    assert stream.send_durable(reads, scheme=COUNTERS).counts.unknown_tag == 1
    run(site, issue(new, "C-9", scheme="TAG_SCHEME_COUNTER_CMAC"))
    site.pass_time(1)
    assert stream.send_durable(reads, scheme=COUNTERS).counts.genuine == 1
    run(site, retire(new))
    site.pass_time(1)
    assert stream.send_durable([Read(new, OUTER, 0, counter=2)], scheme=COUNTERS).counts.not_active
    site.stop_desk()
    report = replay(site)
    assert (report.batches, report.reads) == (8, 8)


def test_challenges_that_live_are_spooled_or_are_none(site: Site) -> None:
    stream = site.stream()
    live, spool = stream.challenge(), stream.challenge(2)
    other = site.stream("gate-2").challenge()
    for challenge in (live, spool, other):
        site.pass_time(1)
        stream.send_durable([Read(BOX, OUTER, 0)], challenge=challenge)
    site.pass_time(60)
    stream.send_durable([Read(BOX, OUTER, 0)], challenge=live)
    stream.send_durable([Read(BOX, OUTER, 0)], challenge=spool, challenge_id=b"x" * 9)
    states = [block.challenge_state for _, block in site.read_log.batches(site.portal_id(), 1)]
    assert len(set(states)) >= 4
    site.stop_desk()
    assert replay(site).batches == 5


def test_settings_of_then_count_and_not_those_of_now(site: Site) -> None:
    stream = site.stream()
    challenge = stream.challenge()
    site.pass_time(20)
    stream.send_durable(crossing(BOX), challenge=challenge)
    site.pass_time(60)
    stream.send_durable([Read(BOX, 200, 0)], scheme=NONE)
    site.close()
    site.settings = PortalSettings(live_challenge_seconds=5, quiet_ms=500, alarm_repeat_seconds=60)
    site.open()
    stream = site.stream()
    challenge = stream.challenge()
    site.pass_time(20)
    stream.send_durable([Read(BOX, OUTER, 0)], challenge=challenge)
    site.stop_desk()
    report = replay(site)
    assert (report.batches, report.passages) == (3, 1)
    assert verdicts(site)[-1] == 4


def test_master_that_came_later_or_is_gone(site: Site) -> None:
    stream = site.stream()
    run(site, container("C-8"))
    site.close()
    # As of a service that knows another version, too, and registers a tag under it.
    site.masters = [(REALM, 1), (REALM, 2)]
    site.open()
    new = b"\x08" * 8
    run(site, issue(new, "C-8", scheme="TAG_SCHEME_COUNTER_CMAC", key_version=2))
    stream = site.stream()
    both = [Read(new, OUTER, 0, counter=3), Read(counter_identity(0), OUTER, 0, counter=3)]
    for site_masters, expected in (
        ([(REALM, 1), (REALM, 2)], [1, 1]), ([(REALM, 1)], [2, 1]), ([(REALM, 1), (REALM, 2)], [1, 4]),
    ):  # fmt: skip
        site.close()
        site.masters = site_masters
        site.open()
        stream = site.stream()
        for read in both:
            site.pass_time(1)
            read.counter += len(site_masters) == 1
            stream.send_durable([read], scheme=COUNTERS)
        assert verdicts(site)[-2:] == expected
    site.stop_desk()
    report = replay(site, masters=[(REALM, 1), (REALM, 2)])
    assert (report.batches, sum(report.reads_without_master.values())) == (6, 0)
    report = replay(site)
    assert report.batches == 6
    assert report.reads_without_master == {(REALM, 2): 2}
    assert "master 7-2" in "\n".join(report.lines())


def test_crossings_cut_by_silence_restarts_and_a_new_epoch(site: Site) -> None:
    stream = site.stream()

    def walk(reads: list[Read]) -> None:
        stream.send_durable(reads, challenge=stream.ear.wait("challenge", 2)[0])

    half = crossing(BOX)
    walk(half[:10])
    # Nothing comes for longer than a tag may be quiet: time alone ends the track.
    site.pass_time(2.5)
    eventually(lambda: len(site.events("passage_recorded")) == 1)
    # The portal's clock had stood: the rest follows closely for it.
    stream.send_durable(
        [replace(read, time_us=read.time_us - 500_000) for read in half[10:]],
        base_time_ns=site.now_ns - int(1.7 * SECOND), challenge=stream.ear.wait("challenge", 2)[0],
    )  # fmt: skip
    site.pass_time(0.3)
    walk(crossing(tam1_identity(1))[:10])
    site.restart()
    stream = site.stream()
    site.pass_time(0.3)
    walk(crossing(tam1_identity(1))[10:])
    walk([Read(tam1_identity(2), OUTER, 0, rssi_cdbm=-7000)])
    stream = site.stream(epoch=2)
    site.pass_time(3)
    walk(crossing(tam1_identity(1), inwards=False))
    site.stop_desk()
    site.restart()
    report = replay(site)
    assert report.batches == 6
    assert report.passages == len(site.events("passage_recorded")) >= 3


def test_counters_raced_by_many_streams_while_tags_are_frozen(site: Site, monkeypatch: Any) -> None:
    """Large batches are judged beside small ones, in two threads and the loop's; the registrar freezes,
    unfreezes and registers meanwhile. What was judged is what is judged again, one by one."""
    monkeypatch.setattr(session_module, "JUDGED_HERE_MAX", 64)
    names = ["gate-1", "gate-2", "gate-far"]
    streams = [site.stream(name) for name in names]
    done = threading.Event()

    def ride(stream: Stream, seed: int) -> None:
        chance = random.Random(seed)
        for at in range(25):
            count = chance.choice([1, 30, 300])
            reads = [
                Read(
                    counter_identity(chance.randrange(3)),
                    OUTER,
                    0,
                    counter=at * 3 + chance.randrange(6),
                )
                for _ in range(count)
            ]
            stream.send_durable(reads, scheme=COUNTERS)

    def register() -> None:
        at = 0
        while not done.is_set():
            at += 1
            run(site, freeze(counter_identity(0)))
            if at == 5:
                run(site, container("C-2"))
                run(site, issue(counter_identity(2), "C-2", scheme="TAG_SCHEME_COUNTER_CMAC"))
            run(site, unfreeze(counter_identity(0)))

    threads = [
        threading.Thread(target=ride, args=(stream, seed)) for seed, stream in enumerate(streams)
    ]
    registering = threading.Thread(target=register)
    registering.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    registering.join()
    site.stop_desk()
    report = replay(site)
    assert report.batches == 75
    assert {1, 2, 4, 5} <= set(verdicts(site))
    assert site.read_log.turns == 75
    with site.ledger.read() as state:
        assert verify_segments(state, site.read_log).counters == 3


# ── retention ───────────────────────────────────────────────────────────────────────────────────


def test_counters_are_kept_for_batches_that_are_deleted(site: Site) -> None:
    """What the first batch that is kept found is what it finds now, though nobody has the reads."""
    first, second = site.stream(), site.stream("gate-2")
    for counter in range(1, 20):
        count_to(first, counter)
        count_to(second, counter + 100, tag=1)
    site.pass_time(31 * DAY)
    eventually(lambda: len(site.events("read_segment_sealed")) == 6)
    # Again what was read before, of each, and something new.
    for stream, tag in ((first, 1), (second, 0)):
        assert count_to(stream, 19 + 100 * tag, tag).counts.replayed == 1
        assert count_to(stream, 20 + 100 * tag, tag).counts.genuine == 1
    before = replay_stopped(site)
    assert (before.batches, before.segments_pruned) == (42, 0)
    assert Pruner(site.parts).prune() == 6
    (kept,) = site.events("counters_kept")
    assert (kept.turn, kept.tags) == (38, 2)
    after = replay_stopped(site)
    assert (after.batches, after.segments_pruned, after.reads_pruned) == (4, 6, 38)
    assert after.reads_before_counters == 0
    with site.ledger.read() as state:
        assert verify_segments(state, site.read_log).counters == 2


def replay_stopped(site: Site) -> Report:
    site.stop_desk()
    return replay(site)


def test_run_with_counters_waits_for_batches_of_other_portals(site: Site) -> None:
    """A portal's run goes only when nobody's verdicts rest on it; one without counters goes alone."""
    first, second, third = site.stream(), site.stream("gate-2"), site.stream("gate-far")
    # A run that is open for as long as one may be, with a batch before those of the other portal.
    count_to(second, 1)
    for counter in range(2, 10):
        count_to(first, counter)
    for _ in range(8):
        site.pass_time(0.05)
        third.send_durable([Read(BOX, 200, 0)], scheme=NONE)
    site.pass_time(3000)
    for counter in range(10, 17):
        count_to(second, counter)
    calm(site)
    assert len(site.events("read_segment_sealed")) == 3
    site.pass_time(30 * DAY - 1000)
    # Of the second portal the last batch is not over its time.
    assert Pruner(site.parts).prune() == 1
    assert site.reads_kept("gate-far") == {}
    assert len(site.reads_kept("gate-1")) == 8
    assert site.events("counters_kept") == []
    assert replay(site).batches == 16
    site.pass_time(2000)
    assert Pruner(site.parts).prune() == 2
    assert [one.turn for one in site.events("counters_kept")] == [16]
    assert replay(site).batches == 0


def test_counters_that_were_journalled_and_not_written(site: Site, monkeypatch: Any) -> None:
    """As if killed in between: what is there is sound, and the next start writes what was said."""
    stream = site.stream()
    for counter in range(1, 17):
        count_to(stream, counter)
    calm(site)
    site.pass_time(31 * DAY)
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr("core.portal.retention._CHANGED_MAX", 1)
            patch.setattr(site.read_log, "keep_counters", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                Pruner(site.parts).prune()
        with site.ledger.read() as state:
            assert verify_segments(state, site.read_log).counters == 1
        assert replay(site).batches == 16
    assert [one.turn for one in site.events("counters_kept")] == [1]
    assert Pruner(site.parts).prune() == 2
    assert [one.turn for one in site.events("counters_kept")] == [1, 16]
    assert site.read_log.kept_turn == 16
    assert replay(site).segments_pruned == 2


def test_needed_reads_outlive_the_counters_they_rest_on(site: Site) -> None:
    stream, other = site.stream(), site.stream("gate-2")
    count_to(other, 1)
    site.pass_time(3)
    eventually(lambda: not any(len(door.tracker) for door in site.desk._doors.values()))
    # A tag stands at the gate when its stream ends: its reads stay until its passage is decided.
    stream.send_durable([Read(counter_identity(0), INNER, 0, counter=2)], scheme=COUNTERS)
    stream.send_durable(crossing(BOX))
    site.stop_desk()
    site.pass_time(31 * DAY)
    site.restart()
    eventually(lambda: len(site.events("read_segment_sealed")) == 2)
    assert Pruner(site.parts).prune() == 1
    other = site.stream("gate-2")
    count_to(other, 3)
    report = replay_stopped(site)
    assert report.batches == 3
    assert report.reads_before_counters == 1
    assert "before the counters that are kept" in "\n".join(report.lines()).replace("from ", "")


# ── by policy ───────────────────────────────────────────────────────────────────────────────────


def rules(**settings: Any) -> ReadLogSettings:
    return RETENTION.model_validate(RETENTION.model_dump() | settings)


@pytest.mark.parametrize(
    ("general", "of_vault", "pruned"),
    [
        (30, None, {31: ["gate-1", "gate-far"]}),
        (30, 60, {31: ["gate-1"], 61: ["gate-far"]}),
        (90, 60, {61: [], 91: ["gate-1", "gate-far"]}),
        (None, 60, {59: [], 61: ["gate-far"], 3000: []}),
        (None, None, {3000: []}),
    ],
)
def test_each_vault_keeps_reads_by_its_own_rule(
    site: Site, general: int | None, of_vault: int | None, pruned: dict[int, list[str]]
) -> None:
    for name in ("gate-1", "gate-far"):
        stream = site.stream(name)
        for _ in range(8):
            site.pass_time(0.01)
            stream.send_durable([Read(BOX, 200, 0)], scheme=NONE)
    site.stop_desk()
    vaults = [{"code": "V-2", "retention_days": of_vault, "retention_article": "B3 §1"}]
    settings = rules(retention_days=general, vaults=vaults if of_vault else [])
    site.parts = replace(site.parts, retention=settings)
    days = 0
    for day, names in pruned.items():
        site.pass_time((day - days) * DAY)
        days = day
        before = {name for name in ("gate-1", "gate-far") if site.reads_kept(name)}
        assert Pruner(site.parts).prune() == len(names)
        after = {name for name in ("gate-1", "gate-far") if site.reads_kept(name)}
        assert before - after == set(names)
    for event in site.events("read_segment_pruned"):
        far = event.portal_id == site.portal_id("gate-far")
        own = bool(far and of_vault and of_vault > (general or 0))
        assert event.retention_days == (of_vault if own else general)
        assert event.retention_article == ("B3 §1" if own else "readlog.retention_days")


def test_rule_for_a_vault_that_is_not_there_lets_nothing_go(site: Site) -> None:
    stream = site.stream()
    for _ in range(8):
        site.pass_time(0.01)
        stream.send_durable([Read(BOX, 200, 0)], scheme=NONE)
    site.stop_desk()
    site.pass_time(99 * DAY)
    vaults = [{"code": "V-l", "retention_days": 90, "retention_article": "B3"}]
    site.parts = replace(site.parts, retention=rules(vaults=vaults))
    with pytest.raises(SettingsError, match=r"readlog\.vaults: no vault is registered as 'V-l'"):
        Pruner(site.parts).prune()
    assert len(site.reads_kept()) == 8


# ── what must be found ──────────────────────────────────────────────────────────────────────────


def put(site: Site, table: int, key: bytes, value: bytes) -> None:
    """Write a row as who has the read log's key could."""
    log = site.read_log
    with log._env.begin(write=True) as txn:
        txn.put(key, log._sealer.seal(table, key, value), db=log._tables[table])


def forge(
    site: Site, sequence: int, change: Callable[[Block], Block], name: str = "gate-1"
) -> None:
    """Another block in the place of one."""
    portal_id = site.portal_id(name)
    block = site.read_log.block(portal_id, 1, sequence)
    assert block is not None
    key = layout.block_key(portal_id, 1, sequence, 0)
    put(site, layout.BLOCKS, key, layout.pack_block(change(block)))


def with_basis(**changed: Any) -> Callable[[Block], Block]:
    def change(block: Block) -> Block:
        return replace(block, basis=replace(block.basis, **changed))

    return change


def with_verdict(row: int, verdict: int) -> Callable[[Block], Block]:
    def change(block: Block) -> Block:
        verdicts = block.verdicts.copy()
        verdicts[row] = verdict
        return replace(block, verdicts=verdicts)

    return change


def with_column(name: str, row: int, value: int) -> Callable[[Block], Block]:
    def change(block: Block) -> Block:
        column = getattr(block.columns, name).copy()
        column[row] = value
        return replace(block, columns=replace(block.columns, **{name: column}))

    return change


@pytest.fixture
def told(site: Site) -> Site:
    """Ten batches at a gate, the first eight of them a sealed run, and three at another: counters that
    both read, a freeze after the fifth, a crossing and a read that must not pass at the end."""
    stream, other = site.stream(), site.stream("gate-2")
    for counter in range(1, 5):
        count_to(stream, 2 * counter)
    count_to(other, 8)
    count_to(other, 9)
    count_to(stream, 10)
    run(site, freeze(counter_identity(0)))
    for counter in (9, 11, 12):
        count_to(stream, counter)
    count_to(other, 12)
    site.pass_time(3)
    stream.send_durable(crossing(BOX))
    site.pass_time(3)
    stream.send_durable([Read(b"\xee" * 12, OUTER, 0)])
    calm(site)
    assert len(site.events("read_segment_sealed")) == 1
    report = replay(site)
    assert (report.batches, report.passages, report.alarms) == (13, 2, 4)
    return site


FORGERIES: dict[str, tuple[int, Callable[[Block], Block], str]] = {
    "verdict": (
        3, with_verdict(0, 4),
        "gate-1, epoch 1, batch 3, row 0: is stored as REPLAYED, and its reads make it GENUINE",
    ),
    "verdict of what is not sealed": (
        9, with_verdict(7, 5),
        "gate-1, epoch 1, batch 9, row 7: is stored as NOT_ACTIVE, and its reads make it GENUINE",
    ),
    "no verdict at all": (
        3, with_verdict(0, 0), "batch 3, row 0: is stored as UNSPECIFIED, and its reads make it GENUINE",
    ),
    "read that is no decision": (
        4, with_column("rssi_cdbm", 0, -1), "batches 1 to 8: are not those the journal sealed",
    ),
    "antenna of a crossing": (
        9, with_column("antenna", 19, OUTER),
        "batch 9: entry [0-9]+ says direction 1, and its reads make it 3",
    ),
    "proof of a crossing": (
        9, with_column("evidence", 3, 7),
        "batch 9, row 3: is stored as GENUINE, and its reads make it BAD_EVIDENCE",
    ),
    "frozen tag read as if before": (
        7, with_basis(journal_size=10), "batch 7: was judged before the batch that it follows",
    ),
    "tags of a time to come": (9, with_basis(journal_size=10**6), "batch 9: saw the tags of 1000000"),
    "another turn": (9, with_basis(turn=3), "batch 9: was judged before the batch that it follows"),
    "terms that are not there": (9, with_basis(terms=bytes(32)), "batch 9: names terms that are not"),
    "challenge that was none": (
        10, lambda block: replace(block, challenge_state=4),
        "batch 10: its challenge is stored as [A-Z]+ and is LIVE",
    ),
    "time at which it lived": (
        9, lambda block: replace(block, received_ns=block.received_ns + 60 * SECOND),
        "batch 10: was judged before|challenge is stored as LIVE and is EXPIRED",
    ),
}  # fmt: skip


def test_batch_sealed_anew_under_the_right_key_is_named(told: Site) -> None:
    found = {}
    for name, (sequence, change, _) in FORGERIES.items():
        before = told.read_log.block(told.portal_id(), 1, sequence)
        assert before is not None
        forge(told, sequence, change)
        with pytest.raises(LedgerCorrupt) as raised:
            replay(told)
        found[name] = str(raised.value)
        forge(told, sequence, lambda _, before=before: before)
    wrong = {name: said for name, said in found.items() if not re.search(FORGERIES[name][2], said)}
    assert wrong == {}
    assert replay(told).batches == 13


def test_batches_that_changed_places_are_named(told: Site) -> None:
    blocks = {at: told.read_log.block(told.portal_id(), 1, at) for at in (2, 3)}
    for at, other in ((2, 3), (3, 2)):
        forge(told, at, lambda _, other=other: blocks[other])
    with pytest.raises(
        LedgerCorrupt, match=r"gate-1, epoch 1, batch 2: was judged in turn 2, and no"
    ):
        replay(told)


def test_batch_of_another_portal_that_changed_its_turn_is_named(told: Site) -> None:
    """As if it had come before the one whose counter it repeats: then it would have been the first."""
    forge(told, 1, with_basis(turn=3), "gate-2")
    forge(told, 4, with_basis(turn=4))
    with pytest.raises(
        LedgerCorrupt, match="gate-2, epoch 1, batch 1, row 0: is stored as REPLAYED"
    ):
        replay(told)


NO_READ = "gate-1, epoch 1, batch 10: entry [0-9]+ is an alarm that no read makes"


def test_alarm_about_another_tag_than_the_read_ones_is_named(told: Site) -> None:
    """The stored read is made another tag's, and its verdict fits."""

    def change(block: Block) -> Block:
        identity = np.frombuffer(b"\xdd" * 12, np.uint8).reshape(1, -1)
        return replace(block, columns=replace(block.columns, identity=identity))

    forge(told, 10, change)
    with pytest.raises(LedgerCorrupt, match=NO_READ):
        replay(told)


@pytest.mark.parametrize("later_ns", [-1000, 1000])
def test_alarm_of_another_moment_than_its_read_is_named(told: Site, later_ns: int) -> None:
    def change(block: Block) -> Block:
        columns = replace(block.columns, base_time_ns=block.columns.base_time_ns + later_ns)
        return replace(block, columns=columns)

    forge(told, 10, change)
    with pytest.raises(LedgerCorrupt, match=NO_READ):
        replay(told)


def with_another_read(identity: bytes) -> Callable[[Block], Block]:
    """One more read beside a batch's last one, of another tag, and judged like that."""

    def change(block: Block) -> Block:
        columns = block.columns
        more = {name: getattr(columns, name) for name in COLUMNS}
        more = {name: np.concatenate([column, column[-1:]]) for name, column in more.items()}
        more["identity"][-1] = np.frombuffer(identity, np.uint8)
        verdicts = np.concatenate([block.verdicts, block.verdicts[-1:]])
        return replace(block, columns=replace(columns, **more), verdicts=verdicts)

    return change


def test_read_that_must_not_pass_and_was_not_alarmed_is_named(told: Site) -> None:
    """Every alarm of the journal has its read, and one read has neither an alarm nor was it counted."""
    forge(told, 10, with_another_read(b"\xdd" * 12))
    with pytest.raises(LedgerCorrupt, match="epoch 1: 1 alarms of .* not journalled, and 0 were c"):
        replay(told)


def test_reads_whose_alarms_were_counted_need_none_each(tmp_path: Path) -> None:
    found_site(tmp_path)
    site = Site(tmp_path, PortalSettings(alarms_per_interval_max=2), RETENTION).open()
    try:
        stream = site.stream()
        stream.send_durable([Read(BOX, 200, 0)], scheme=NONE)
        # What comes soon after the first batch may repeat what came before it.
        site.pass_time(40)
        stream.send_durable([Read(bytes([number]) * 12, OUTER, number) for number in range(1, 5)])
        assert replay_stopped(site).alarms == 1
        site.restart()
        site.stream()
        site.pass_time(120)
        eventually(lambda: len(site.events("alarm_raised")) == 2)
        assert [one.suppressed_count for one in site.events("alarm_raised")] == [0, 3]
        assert replay_stopped(site).alarms == 1
        forge(site, 2, with_another_read(b"\xdd" * 12))
        with pytest.raises(
            LedgerCorrupt, match="4 alarms of .* not journalled, and 3 were counted"
        ):
            replay(site)
    finally:
        site.close()
    assert site.failures == site.incidents == []


def test_crossing_that_is_not_in_the_journal_is_named(told: Site) -> None:
    def change(block: Block) -> Block:
        columns = replace(block.columns, base_time_ns=block.columns.base_time_ns + SECOND)
        return replace(block, columns=columns)

    forge(told, 9, change)
    with pytest.raises(LedgerCorrupt, match="batch 9: entry [0-9]+ says first_read_ns"):
        replay(told)


def test_kept_counters_that_were_changed_are_named(told: Site) -> None:
    told.pass_time(31 * DAY)
    told.restart()
    eventually(lambda: len(told.events("read_segment_sealed")) == 3)
    assert Pruner(told.parts).prune() == 3
    assert told.read_log.kept_turn == 11
    assert replay(told).reads_pruned == 32
    identity = counter_identity(0)
    key = told.read_log.blinded(identity)
    put(told, layout.KEPT, key, layout.pack_counter(Counter(identity, 8)))
    with pytest.raises(LedgerCorrupt, match="kept counters: are not those the journal has"):
        replay(told)
    with (
        told.ledger.read() as state,
        pytest.raises(LedgerCorrupt, match="kept counters: are not those the journal has"),
    ):
        verify_segments(state, told.read_log)


def test_newest_counter_that_was_put_back_is_named(told: Site) -> None:
    """An older row in its own place opens; a tag's counter would be taken twice."""
    identity = counter_identity(0)
    key = told.read_log.blinded(identity)
    put(told, layout.COUNTERS, key, layout.pack_counter(Counter(identity, 8)))
    with (
        told.ledger.read() as state,
        pytest.raises(
            LedgerCorrupt, match=f"read log, counter {key.hex()}: is not what the batches"
        ),
    ):
        verify_segments(state, told.read_log)


def test_batch_that_is_missing_with_its_whole_run_is_named(told: Site) -> None:
    portal_id = told.portal_id("gate-2")
    log = told.read_log
    with log._env.begin(write=True) as txn:
        txn.delete(layout.block_key(portal_id, 1, 3, 0), db=log._tables[layout.BLOCKS])
    position = log.position(portal_id)
    assert position is not None
    put(told, layout.POSITIONS, portal_id, layout.pack_position(replace(position, last_sequence=2)))
    with pytest.raises(LedgerCorrupt, match="read log: has no batch of turn"):
        replay(told)
    with (
        told.ledger.read() as state,
        pytest.raises(LedgerCorrupt, match="turn 10 is not there once"),
    ):
        verify_segments(state, log)


def test_portal_that_is_not_registered(told: Site) -> None:
    with pytest.raises(SettingsError, match="--portal: no portal is registered as 'gate-9'"):
        replay(told, "gate-9")


def test_only_from_a_time_on(told: Site) -> None:
    blocks = dict(told.read_log.batches(told.portal_id(), 1))
    report = replay(told, "gate-1", from_ns=blocks[9].received_ns)
    assert report.batches == 2
    assert report.passages + report.passages_cut_off == 1
    assert replay(told, from_ns=blocks[10].received_ns + 1).batches == 0
