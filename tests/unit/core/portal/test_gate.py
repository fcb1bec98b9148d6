"""What a gate is told: nothing that is frozen, forged, replayed, stale or unseen is ever released."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.portal.session import End
from jinku.type.v1.tag_pb2 import GateDecision, TagScheme
from ledgers import command
from portals import (
    INNER,
    OUTER,
    SECOND,
    Read,
    Site,
    Stream,
    counter_identity,
    eventually,
    site_in,
    tam1_identity,
)
from registrar import freeze, retire, unfreeze

BOX, OTHER = tam1_identity(0), tam1_identity(1)
ACTIVE = counter_identity(0)
NONE, COUNTER = TagScheme.TAG_SCHEME_NONE, TagScheme.TAG_SCHEME_COUNTER_CMAC
FORGED = {"evidence": b"\x01" * 16}
HOLD, RELEASE = GateDecision.GATE_DECISION_HOLD, GateDecision.GATE_DECISION_RELEASE


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path) as opened:
        yield opened


def decide(site: Site, request: Any) -> None:
    site.sequencer.submit(command(request)).result()


def told(stream: Stream, count: int) -> list[tuple[bytes, int]]:
    """Identity and decision of every tag presented so far, once `count` presentations came."""
    presented = stream.ear.wait("presentation", count)
    return [(tag.identity, tag.decision) for one in presented for tag in one.tags]


def settle(site: Site, stream: Stream) -> None:
    """All that was sent is judged, durable and told."""
    stream.send_durable([Read(BOX, 77, 0)])
    eventually(lambda: not stream.session.inner._door.unsettled)


def test_tag_frozen_in_the_field_is_held_at_its_next_read(site: Site) -> None:
    stream = site.stream()
    stream.send_durable([Read(BOX, OUTER, 0)])
    assert told(stream, 1) == [(BOX, RELEASE)]
    decide(site, freeze(BOX))
    stream.send_durable([Read(BOX, OUTER, 1)])
    assert told(stream, 2)[1:] == [(BOX, HOLD)]
    (alarm,) = stream.ear.wait("alarm")
    assert [one.name for one in alarm.reasons] == ["TAG_FROZEN"]


def test_hold_is_told_again_after_a_release(site: Site) -> None:
    stream = site.stream()
    decide(site, freeze(BOX))
    stream.send_durable([Read(BOX, OUTER, 0)])
    decide(site, unfreeze(BOX))
    stream.send_durable([Read(BOX, OUTER, 1)])
    assert told(stream, 2) == [(BOX, HOLD), (BOX, RELEASE)]
    decide(site, freeze(BOX))
    # Within the repeat time: no second alarm, but the gate must not stand on the release.
    stream.send_durable([Read(BOX, OUTER, 2)])
    assert told(stream, 3)[2:] == [(BOX, HOLD)]
    assert [one.name for one in stream.ear.of("presentation")[2].tags[0].reasons] == ["TAG_FROZEN"]
    settle(site, stream)
    assert len(stream.ear.of("alarm")) == 1
    stream.send_durable([Read(BOX, OUTER, 3)])
    settle(site, stream)
    assert len(stream.ear.of("presentation")) == 3


def test_hold_is_told_on_a_new_stream(site: Site) -> None:
    site.stream().send_durable([Read(BOX, OUTER, 0)], **FORGED)
    stream = site.stream()
    stream.send_durable([Read(BOX, OUTER, 1)], **FORGED)
    assert told(stream, 1) == [(BOX, HOLD)]


def test_copy_beside_the_genuine_tag_holds_both(site: Site) -> None:
    stream = site.stream()
    batch = stream.batch([Read(BOX, OUTER, 0), Read(OTHER, OUTER, 0), Read(BOX, OUTER, 1)])
    batch.evidence = batch.evidence[:32] + b"\x01" * 16
    stream.session.receive(batch)
    assert sorted(told(stream, 1)) == [(BOX, HOLD), (OTHER, RELEASE)]
    assert stream.ear.of("presentation")[0].decision == HOLD


def test_retired_tag_is_held(site: Site) -> None:
    decide(site, retire(BOX))
    stream = site.stream()
    stream.send_durable([Read(BOX, OUTER, 0)])
    (presented,) = stream.ear.wait("presentation")
    assert presented.decision == HOLD
    assert [one.name for one in presented.tags[0].reasons] == ["TAG_DEAD"]


@pytest.mark.parametrize(
    ("identity", "scheme"),
    [(BOX, NONE), (BOX, COUNTER), (ACTIVE, NONE), (ACTIVE, TagScheme.TAG_SCHEME_TAM1)],
)
def test_no_scheme_but_its_own_releases_a_tag(site: Site, identity: bytes, scheme: int) -> None:
    stream = site.stream()
    read = Read(identity, OUTER, 0, counter=9)
    assert stream.send_durable([read], scheme=scheme).counts.genuine == 0
    assert told(stream, 1) == [(identity, HOLD)]


def test_answer_heard_at_one_portal_is_replayed_at_another(site: Site) -> None:
    one, two = site.stream(), site.stream("gate-2")
    heard = one.batch([Read(BOX, OUTER, 0)])
    one.session.receive(heard)
    assert told(one, 1) == [(BOX, RELEASE)]
    # Under the challenge it answers, and under the other portal's own.
    for challenge in (one.challenge(), two.challenge()):
        stolen = two.batch([Read(BOX, OUTER, 0)], challenge=challenge, evidence=heard.evidence)
        two.session.receive(stolen)
        two.next_sequence += 1
    eventually(lambda: len(two.ear.acknowledged()) == 2)
    assert {ack.counts.replayed for ack in two.ear.acknowledged().values()} == {1}
    assert told(two, 1) == [(BOX, HOLD)]
    # Read by both at once, each with its own answer, it is genuine at both.
    site.pass_time(3)
    assert two.send_durable([Read(BOX, OUTER, 0)]).counts.genuine == 1


def test_old_counter_read_hidden_among_new_ones_opens_no_gate(site: Site) -> None:
    stream = site.stream()
    old, late = site.now_ns - 600 * SECOND, 599_000_000
    reads = [Read(ACTIVE, OUTER, 0, counter=1), Read(counter_identity(1), OUTER, late, counter=1)]
    counts = stream.send_durable(reads, scheme=COUNTER, base_time_ns=old).counts
    assert counts.genuine == 2
    settle(site, stream)
    assert stream.ear.of("presentation") == []


def test_tag_that_came_back_in_spooled_reads_is_presented_when_live(site: Site) -> None:
    stream = site.stream()
    spool = {"challenge": stream.challenge(2)}
    base = site.now_ns - 10 * SECOND
    stream.send_durable([Read(BOX, OUTER, 0)], base_time_ns=base, **spool)
    stream.send_durable([Read(BOX, OUTER, 9_900_000)], base_time_ns=base, **spool)
    assert stream.ear.of("presentation") == []
    stream.send_durable([Read(BOX, OUTER, 0)])
    assert told(stream, 1) == [(BOX, RELEASE)]


def test_nothing_is_released_before_it_is_durable(site: Site, monkeypatch: Any) -> None:
    stream = site.stream()
    commit, told_before = site.read_log._commit, []

    def watch(writes: Any) -> None:
        told_before.append(len(stream.ear.of("presentation")))
        commit(writes)

    monkeypatch.setattr(site.read_log, "_commit", watch)
    stream.send_durable([Read(BOX, OUTER, 0)])
    stream.ear.wait("presentation")
    assert told_before[0] == 0


def test_tag_that_cannot_be_followed_is_held_and_alarmed(tmp_path: Path) -> None:
    with site_in(tmp_path, tracks_max=16) as site:
        decide_many(site, 20)
        stream = site.stream()
        reads = [Read(tam1_identity(100 + number), OUTER, 0) for number in range(20)]
        assert stream.send_durable(reads).counts.genuine == 20
        presented = dict(told(stream, 1))
        assert list(presented.values()).count(RELEASE) == 16
        assert list(presented.values()).count(HOLD) == 4
        alarms = stream.ear.wait("alarm", 4)
        assert {one.name for alarm in alarms for one in alarm.reasons} == {"PASSAGE_UNDETERMINED"}
        assert site.untracked == 4
        stream.session.stop(End.ABANDONED)


def decide_many(site: Site, count: int) -> None:
    from registrar import container, issue

    for number in range(100, 100 + count):
        decide(site, container(f"M-{number}"))
        decide(site, issue(tam1_identity(number), f"M-{number}"))


def test_antenna_of_no_use_releases_nothing(site: Site) -> None:
    stream = site.stream(antennas=[INNER])
    assert stream.send_durable([Read(BOX, OUTER, 0)]).counts.malformed == 1
    settle(site, stream)
    assert stream.ear.of("presentation") == []
