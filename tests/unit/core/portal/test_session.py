"""One portal's stream on a real ledger and read log, without a transport."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import LedgerStopped, QueueFull
from core.portal.desk import HelloFault, HelloRefused
from core.portal.received import take_apart
from core.portal.session import End, SessionEnded
from jinku.type.v1.place_pb2 import CustodyPlace
from jinku.type.v1.tag_pb2 import Direction, GateDecision, TagScheme
from jinku.v1.portal_pb2 import ChallengeState, ReadBatch, StreamRequest
from jinku.v1.portal_pb2 import Read as Row
from ledgers import command
from portals import (
    INNER,
    OUTER,
    START_NS,
    Read,
    Site,
    counter_identity,
    crossing,
    eventually,
    evidence_of,
    site_in,
    tam1_identity,
)
from registrar import freeze

BOX = tam1_identity(0)
COUNTER = TagScheme.TAG_SCHEME_COUNTER_CMAC


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path) as opened:
        yield opened


# -- verdicts and gate ---------------------------------------------------------------------------


def test_genuine_tag_is_released_once(site: Site) -> None:
    stream = site.stream()
    acknowledged = stream.send_durable([Read(BOX, OUTER, 0), Read(BOX, OUTER, 10)])
    assert acknowledged.counts.genuine == 2
    assert acknowledged.challenge_state == ChallengeState.CHALLENGE_STATE_LIVE
    (presented,) = stream.ear.wait("presentation")
    assert presented.decision == GateDecision.GATE_DECISION_RELEASE
    assert [tag.container_label for tag in presented.tags] == ["K-0"]
    stream.send_durable([Read(BOX, OUTER, 20)])
    assert len(stream.ear.of("presentation")) == 1


@pytest.mark.parametrize(
    ("fields", "name", "verdict"),
    [
        ({"identity": tam1_identity(99)}, "TAG_UNKNOWN", 2),
        ({"evidence": b"\x01" * 16}, "TAG_EVIDENCE_FORGED", 3),
        ({"evidence": bytes(16)}, "TAG_NO_EVIDENCE", 6),
    ],
)
def test_false_tag_is_held_and_alarmed(
    site: Site, fields: dict[str, Any], name: str, verdict: int
) -> None:
    stream = site.stream()
    acknowledged = stream.send_durable([Read(BOX, OUTER, 0)], **fields)
    assert acknowledged.exception_row == bytes(4)
    assert acknowledged.exception_verdict == bytes([verdict])
    (presented,) = stream.ear.wait("presentation")
    assert presented.decision == GateDecision.GATE_DECISION_HOLD
    assert [reason.name for reason in presented.tags[0].reasons] == [name]
    (alarm,) = stream.ear.wait("alarm")
    assert [reason.name for reason in alarm.reasons] == [name]
    assert alarm.receipt.checkpoint
    assert alarm.sequence == 1
    (event,) = site.events("alarm_raised")
    assert event.alarm_id == alarm.alarm_id
    assert bool(event.tag_id) == (name != "TAG_UNKNOWN")
    assert event.institution_id
    # The same again within the repeat time is no new alarm.
    stream.send_durable([Read(BOX, OUTER, 5)], **fields)
    site.pass_time(31)
    stream.send_durable([Read(BOX, OUTER, 5)], **fields | {"challenge": stream.challenge()})
    stream.ear.wait("alarm", 2)
    assert len(site.events("alarm_raised")) == 2


def test_frozen_tag_is_held(site: Site) -> None:
    site.sequencer.submit(command(freeze(BOX))).result()
    stream = site.stream()
    assert stream.send_durable([Read(BOX, OUTER, 0)]).counts.not_active == 1
    (presented,) = stream.ear.wait("presentation")
    assert [reason.name for reason in presented.tags[0].reasons] == ["TAG_FROZEN"]
    (alarm,) = stream.ear.wait("alarm")
    assert alarm.container_label == "K-0"


def test_live_challenge_expires_and_is_renewed(site: Site) -> None:
    stream = site.stream()
    first = stream.challenge()
    site.pass_time(16)
    eventually(lambda: len(stream.ear.of("challenge")) == 3)
    assert stream.challenge() != first
    site.pass_time(15)
    acknowledged = stream.send_durable([Read(BOX, OUTER, 0)], challenge=first)
    assert acknowledged.challenge_state == ChallengeState.CHALLENGE_STATE_EXPIRED
    assert acknowledged.counts.replayed == 1
    (alarm,) = stream.ear.wait("alarm")
    assert [reason.name for reason in alarm.reasons] == ["TAG_EVIDENCE_REPLAYED"]


def test_expiry_does_not_follow_a_clock_that_goes_back(site: Site) -> None:
    stream = site.stream()
    first = stream.challenge()
    site.pass_time(31)
    stream.send_durable([Read(BOX, OUTER, 0)])
    site.now_ns -= 31_000_000_000
    site.restart()
    stream = site.stream()
    acknowledged = stream.send_durable(
        [Read(BOX, OUTER, 0)], challenge=first, base_time_ns=site.now_ns + 31_000_000_000
    )
    assert acknowledged.challenge_state == ChallengeState.CHALLENGE_STATE_EXPIRED


def test_challenges_expire_although_the_clock_was_set_back(site: Site) -> None:
    site.stream().send_durable([Read(BOX, OUTER, 0)])
    site.now_ns -= 7_200_000_000_000
    site.restart()
    stream = site.stream()
    first = stream.challenge()
    # At half the pace, until the clock has caught up.
    site.pass_time(60)
    acknowledged = stream.send_durable(
        [Read(BOX, OUTER, 0)], challenge=first, base_time_ns=START_NS
    )
    assert acknowledged.challenge_state == ChallengeState.CHALLENGE_STATE_EXPIRED


def test_broken_line_decides_nothing(site: Site) -> None:
    stream = site.stream()
    stream.send_durable(crossing(BOX)[:10])
    stream.session.finish(wait_quiet=True)
    stream.session.stop(End.ABANDONED)
    site.pass_time(60)
    stream = site.stream()
    stream.send_durable(crossing(BOX)[10:], base_time_ns=START_NS)
    site.pass_time(3)
    (passage,) = stream.ear.wait("passage")
    assert passage.direction == Direction.DIRECTION_IN


def test_foreign_challenge(site: Site) -> None:
    stream, other = site.stream(), site.stream("gate-2")
    foreign = other.challenge()
    # Of the right form, but it derives another challenge here.
    assert stream.send_durable([Read(BOX, OUTER, 0)], challenge=foreign).counts.replayed == 1
    for wrong in (b"x", b"\x03" + foreign.challenge_id[1:], b"\x01" + b"\x7f" * 8):
        foreign.challenge_id = wrong
        acknowledged = stream.send_durable([Read(BOX, OUTER, 0)], challenge=foreign)
        assert acknowledged.challenge_state == ChallengeState.CHALLENGE_STATE_FOREIGN
        assert acknowledged.counts.replayed == 1


def test_spooled_reads_never_open_a_gate(site: Site) -> None:
    stream = site.stream()
    acknowledged = stream.send_durable([Read(BOX, OUTER, 0)], challenge=stream.challenge(2))
    assert acknowledged.counts.genuine == 1
    assert acknowledged.challenge_state == ChallengeState.CHALLENGE_STATE_SPOOL
    assert stream.ear.of("presentation") == []
    # Still there when the line is back: now it may pass.
    stream.send_durable([Read(BOX, OUTER, 500_000)])
    (presented,) = stream.ear.wait("presentation")
    assert presented.decision == GateDecision.GATE_DECISION_RELEASE


def test_counter_replays_are_found_across_a_restart(site: Site) -> None:
    tag = counter_identity(0)
    stream = site.stream()
    assert stream.send_durable([Read(tag, OUTER, 0, counter=5)], scheme=COUNTER).counts.genuine == 1
    assert (
        stream.send_durable([Read(tag, OUTER, 0, counter=5)], scheme=COUNTER).counts.replayed == 1
    )
    site.restart()
    stream = site.stream()
    assert (
        stream.send_durable([Read(tag, OUTER, 0, counter=5)], scheme=COUNTER).counts.replayed == 1
    )
    assert stream.send_durable([Read(tag, OUTER, 0, counter=6)], scheme=COUNTER).counts.genuine == 1


def test_old_counter_reads_open_no_gate(site: Site) -> None:
    stream = site.stream()
    old = site.now_ns - 3_600_000_000_000
    read = Read(counter_identity(0), OUTER, 0, counter=1)
    assert stream.send_durable([read], scheme=COUNTER, base_time_ns=old).counts.genuine == 1
    assert stream.ear.of("presentation") == []


def test_rows_are_the_same_as_columns(site: Site) -> None:
    stream = site.stream()
    challenge = stream.challenge()
    reads = [Read(BOX, OUTER, 0), Read(tam1_identity(1), 77, 3)]
    rows = [
        Row(
            identity=read.identity, antenna=read.antenna, rssi_cdbm=read.rssi_cdbm,
            time_us=read.time_us, evidence=evidence_of(read, 2, challenge),
        )
        for read in reads
    ]  # fmt: skip
    batch = ReadBatch(
        sequence=1, base_time_ns=site.now_ns, scheme=2, challenge_id=challenge.challenge_id,
        rows=rows,
    )  # fmt: skip
    stream.session.receive(batch)
    stream.ear.wait_durable(1)
    counts = stream.ear.acknowledged()[1].counts
    assert (counts.genuine, counts.malformed) == (1, 1)
    # As columns it is the very same batch.
    stream.session.receive(stream.batch(reads))
    eventually(lambda: len(stream.ear.of("acknowledgement")) == 2)
    assert stream.ear.of("acknowledgement")[1].batches[0].duplicate


# -- what is not taken ---------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"antenna": b""}, "BATCH_COLUMNS_DISAGREE"),
    ({"antenna": b"\x01\x02\x01"}, "BATCH_EVIDENCE_WIDTH"),
    ({"identity": b"x" * 26}, "BATCH_IDENTITY_WIDTH"),
    ({"identity": b"x" * 25}, "BATCH_IDENTITY_WIDTH"),
    ({"evidence": b"x" * 31}, "BATCH_EVIDENCE_WIDTH"),
    ({"evidence": b""}, "BATCH_EVIDENCE_WIDTH"),
    ({"rssi_cdbm": b"x" * 3}, "BATCH_COLUMNS_DISAGREE"),
    ({"channel": b"x"}, "BATCH_COLUMNS_DISAGREE"),
    ({"phase": b"x" * 2}, "BATCH_COLUMNS_DISAGREE"),
    ({"doppler_chz": b"x" * 5}, "BATCH_COLUMNS_DISAGREE"),
    ({"time_us": b"x" * 7}, "BATCH_COLUMNS_DISAGREE"),
    ({"scheme": 0, "evidence": b""}, "BATCH_SCHEME_UNKNOWN"),
    ({"scheme": 55}, "BATCH_SCHEME_UNKNOWN"),
    ({"challenge_id": b""}, "BATCH_CHALLENGE_MISSING"),
    ({"challenge_id": b"x" * 17}, "BATCH_MALFORMED"),
    ({"rows": [Row(identity=BOX)]}, "BATCH_ROWS_AND_COLUMNS"),
    ({"sequence": 0}, "BATCH_SEQUENCE_JUMPED"),
    ({"sequence": 2}, "BATCH_SEQUENCE_JUMPED"),
    ({"sequence": 2**64 - 1}, "BATCH_SEQUENCE_JUMPED"),
    ({"base_time_ns": 0}, "BATCH_MALFORMED"),
    ({"base_time_ns": -5}, "BATCH_MALFORMED"),
    ({"base_time_ns": 2**63 - 1}, "BATCH_TIME_AHEAD"),
    ({"time_us": np.array([0, 2**32 - 1], "<u4").tobytes()}, "BATCH_TIME_AHEAD"),
]


@pytest.mark.parametrize("apart", [False, True], ids=["parsed", "taken-apart"])
@pytest.mark.parametrize(("fields", "name"), BAD, ids=[f"{n}-{list(f)}" for f, n in BAD])
def test_bad_batch_is_rejected_and_the_next_is_taken(
    site: Site, fields: dict[str, Any], name: str, *, apart: bool
) -> None:
    stream = site.stream()

    def receive(batch: ReadBatch) -> None:
        if apart:
            stream.session.receive_bytes(StreamRequest(batch=batch).SerializeToString())
        else:
            stream.session.receive(batch)

    good = stream.batch([Read(BOX, OUTER, 0), Read(BOX, OUTER, 1)])
    bad = ReadBatch()
    bad.CopyFrom(good)
    for field in fields:
        bad.ClearField(field)  # type: ignore[arg-type]
    bad.MergeFrom(ReadBatch(**fields))
    receive(bad)
    assert stream.ear.rejected() == [name]
    (rejected,) = stream.ear.of("rejected")
    assert rejected.expected_sequence == 1
    assert rejected.refused.reasons[0].item
    receive(good)
    stream.ear.wait_durable(1)
    assert site.reads_kept() == {1: 2}


def test_empty_and_oversized_batches(tmp_path: Path) -> None:
    with site_in(tmp_path, batch_reads_max=2) as site:
        stream = site.stream()
        stream.session.receive(stream.batch([]))
        stream.session.receive(stream.batch([Read(BOX, OUTER, at) for at in range(3)]))
        rows = [Row(identity=BOX, evidence=b"x" * 16)] * 3
        bare = stream.batch([])
        bare.rows.extend(rows)
        stream.session.receive(bare)
        assert stream.ear.rejected() == ["BATCH_EMPTY", "BATCH_TOO_LARGE", "BATCH_TOO_LARGE"]
        stream.send_durable([Read(BOX, OUTER, 0)])


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (Row(identity=BOX[:8]), "BATCH_IDENTITY_WIDTH"),
        (Row(identity=BOX, evidence=b"x" * 12), "BATCH_EVIDENCE_WIDTH"),
        (Row(identity=BOX, antenna=256), "BATCH_MALFORMED"),
        (Row(identity=BOX, channel=999), "BATCH_MALFORMED"),
        (Row(identity=BOX, rssi_cdbm=-40_000), "BATCH_MALFORMED"),
        (Row(identity=BOX, phase=65_536), "BATCH_MALFORMED"),
        (Row(identity=b"x"), "BATCH_MALFORMED"),
    ],
)
def test_bad_rows(site: Site, row: Row, name: str) -> None:
    stream = site.stream()
    batch = stream.batch([])
    batch.rows.extend([Row(identity=BOX), row])
    stream.session.receive(batch)
    assert stream.ear.rejected() == [name]
    assert "rows[1]" in stream.ear.of("rejected")[0].refused.reasons[0].item


def test_unknown_fields_are_rejected(site: Site) -> None:
    stream = site.stream()
    body = stream.batch([Read(BOX, OUTER, 0)]).SerializeToString()
    stream.session.receive(ReadBatch.FromString(body + b"\xf8\x07\x01"), len(body) + 3)
    assert stream.ear.rejected() == ["BATCH_UNKNOWN_FIELDS"]
    whole = ReadBatch.FromString(body + b"\xf8\x07\x01")
    received = StreamRequest(batch=whole).SerializeToString()
    assert take_apart(received) is not None
    stream.session.receive_bytes(received)
    assert stream.ear.rejected() == ["BATCH_UNKNOWN_FIELDS"] * 2


def test_times_within_the_bounds_only(site: Site) -> None:
    stream = site.stream()
    ahead, back = 2_000_000_000, 1_000_000_000
    stream.send_durable([Read(BOX, OUTER, 0)], base_time_ns=site.now_ns + ahead)
    latest = site.now_ns + ahead
    stream.session.receive(stream.batch([Read(BOX, OUTER, 1)], base_time_ns=latest))
    stream.session.receive(stream.batch([Read(BOX, OUTER, 0)], base_time_ns=latest - back - 1))
    assert stream.ear.rejected() == ["BATCH_TIME_AHEAD", "BATCH_TIME_BACKWARDS"]
    stream.send_durable([Read(BOX, OUTER, 0)], base_time_ns=latest - back)
    # The bound goes back only with a new epoch.
    stream = site.stream(epoch=2)
    assert stream.next_sequence == 1
    stream.send_durable([Read(BOX, OUTER, 0)], base_time_ns=site.now_ns - 3_600_000_000_000)


def test_the_same_batch_again(site: Site) -> None:
    stream = site.stream()
    batch = stream.batch([Read(BOX, OUTER, 0), Read(tam1_identity(50), OUTER, 0)])
    stream.session.receive(batch)
    stream.session.receive(batch)
    stream.ear.wait("acknowledgement", 2)
    # Both follow the commit, from two threads: either may be told first.
    told = [one.batches[0] for one in stream.ear.of("acknowledgement")]
    first, second = sorted(told, key=lambda batch: batch.duplicate)
    assert second.duplicate
    assert not first.duplicate
    second.duplicate = False
    assert first == second
    assert site.reads_kept() == {1: 2}
    other = ReadBatch()
    other.CopyFrom(batch)
    other.antenna = bytes([OUTER, INNER])
    stream.session.receive(other)
    assert stream.ear.rejected() == ["BATCH_SEQUENCE_REUSED"]


# -- streams -------------------------------------------------------------------------------------


def test_hello_is_checked(site: Site) -> None:
    faults = []
    site.stream(epoch=5)
    hellos = ({"epoch": 4}, {"epoch": 0}, {"epoch": 2**63}, {"epoch": 5, "antennas": [1, 9]})
    for hello in hellos:
        with pytest.raises(HelloRefused) as refused:
            site.stream(**hello)  # type: ignore[arg-type]
        faults.append(refused.value.fault)
    assert faults == [
        HelloFault.EPOCH_OLDER, HelloFault.EPOCH_MISSING, HelloFault.EPOCH_AHEAD,
        HelloFault.ANTENNA_NOT_REGISTERED,
    ]  # fmt: skip
    site.restart()
    with pytest.raises(HelloRefused):
        site.stream(epoch=4)


def test_newer_stream_supersedes(site: Site) -> None:
    older = site.stream()
    for _ in range(5):
        older.send([Read(BOX, OUTER, 0)])
    newer = site.stream()
    assert older.session.inner.told is End.SUPERSEDED
    assert newer.next_sequence == 6
    with pytest.raises(SessionEnded):
        older.session.receive(older.batch([Read(BOX, OUTER, 0)]))
    newer.send_durable([Read(BOX, OUTER, 0)])
    assert site.reads_kept() == dict.fromkeys(range(1, 7), 1)


def test_client_that_does_not_read_is_held_up(site: Site) -> None:
    stream = site.stream()
    batch = stream.batch([Read(BOX, OUTER, 0)])
    stream.ear.deaf = True

    def flood() -> None:
        with pytest.raises(SessionEnded):
            while True:
                stream.session.receive(batch)
                batch.sequence += 1

    portal = threading.Thread(target=flood)
    portal.start()
    most = site.settings.batches_in_flight_max
    eventually(lambda: len(site.reads_kept()) == most)
    site.stream()
    portal.join()
    assert len(site.reads_kept()) == most


def test_presented_again_on_a_new_stream(site: Site) -> None:
    site.stream().send_durable([Read(BOX, OUTER, 0)])
    stream = site.stream()
    stream.send_durable([Read(BOX, OUTER, 1)])
    (presented,) = stream.ear.wait("presentation")
    assert presented.sequence == 2


# -- passages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("inwards", [True, False])
def test_crossing_moves_custody(site: Site, inwards: bool) -> None:
    stream = site.stream()
    stream.send_durable(crossing(BOX, inwards=inwards))
    site.pass_time(3)
    (passage,) = stream.ear.wait("passage")
    assert passage.direction == (Direction.DIRECTION_IN if inwards else Direction.DIRECTION_OUT)
    assert (passage.reads_inner, passage.reads_outer) == (10, 10)
    assert passage.confidence_permille > 700
    assert passage.receipt.checkpoint
    (moved,) = site.events("custody_moved")
    assert moved.before != moved.after
    if inwards:
        assert moved.after.place == CustodyPlace.CUSTODY_PLACE_WITH_HOLDER
    else:
        assert moved.after.holder_id == moved.before.holder_id
        assert moved.after.place == CustodyPlace.CUSTODY_PLACE_IN_TRANSIT


def test_undetermined_is_said_and_alarmed(site: Site) -> None:
    stream = site.stream()
    stream.send_durable([Read(BOX, OUTER, at * 10_000) for at in range(10)])
    site.pass_time(2)
    (passage,) = stream.ear.wait("passage")
    assert passage.direction == Direction.DIRECTION_UNDETERMINED
    (alarm,) = stream.ear.wait("alarm")
    assert [reason.name for reason in alarm.reasons] == ["PASSAGE_UNDETERMINED"]
    assert site.events("custody_moved") == []


def test_stray_is_told_and_not_journalled(site: Site) -> None:
    stream = site.stream()
    size = site.ledger.size
    stream.send_durable([Read(BOX, OUTER, 0)])
    site.pass_time(2)
    (passage,) = stream.ear.wait("passage")
    assert passage.direction == Direction.DIRECTION_STRAY
    assert not passage.HasField("receipt")
    assert site.ledger.size == size


def test_two_passages_within_one_batch(site: Site) -> None:
    stream = site.stream()
    reads = crossing(BOX) + crossing(BOX, inwards=False, start_us=10_000_000)
    stream.send_durable(reads, base_time_ns=site.now_ns - 20_000_000_000)
    site.pass_time(2)
    first, second = stream.ear.wait("passage", 2)
    assert [first.direction, second.direction] == [
        Direction.DIRECTION_IN, Direction.DIRECTION_OUT,
    ]  # fmt: skip
    assert len(site.events("passage_recorded")) == 2


def test_passage_is_decided_once_across_a_restart(site: Site) -> None:
    reads = crossing(BOX)
    stream = site.stream()
    stream.send_durable(reads[:10])
    site.restart()
    assert site.replayed == 1
    stream = site.stream()
    stream.send_durable(reads[10:], base_time_ns=site.now_ns)
    site.pass_time(3)
    (passage,) = stream.ear.wait("passage")
    assert passage.direction == Direction.DIRECTION_IN
    for _ in range(2):
        site.restart()
        stream = site.stream()
        site.pass_time(3)
        stream.send_durable([Read(tam1_identity(1), OUTER, 0)])
    assert len(site.events("passage_recorded")) == 1


def test_new_epoch_decides_what_was_open(site: Site) -> None:
    stream = site.stream(epoch=1)
    stream.send_durable(crossing(BOX))
    stream = site.stream(epoch=2)
    assert len(site.events("passage_recorded")) == 1
    stream.send_durable(crossing(BOX, inwards=False), base_time_ns=site.now_ns - 10_000_000_000)
    site.pass_time(3)
    stream.ear.wait("passage")
    assert len(site.events("passage_recorded")) == 2


def test_orderly_end_decides_what_is_quiet(site: Site) -> None:
    stream = site.stream()
    stream.send_durable(crossing(BOX))
    stream.session.finish(wait_quiet=True)
    site.pass_time(3)
    assert stream.session.wait_told() is End.FINISHED
    assert len(stream.ear.of("passage")) == 1


def test_box_of_another_vault_is_held(site: Site) -> None:
    far = site.stream("gate-far")
    far.send_durable(crossing(BOX))
    site.pass_time(3)
    far.ear.wait("passage")
    stream = site.stream()
    stream.send_durable([Read(BOX, OUTER, 0)])
    (presented,) = stream.ear.wait("presentation")
    assert [one.name for one in presented.tags[0].reasons] == ["CONTAINER_OF_ANOTHER_PLACE"]


# -- floods --------------------------------------------------------------------------------------


def test_alarm_flood_is_bounded_and_summed_up(tmp_path: Path) -> None:
    with site_in(tmp_path, alarms_per_interval_max=8) as site:
        stream = site.stream()
        rng = np.random.default_rng(1)
        for _ in range(5):
            count = 2000
            identity = rng.integers(0, 256, (count, 12), np.uint8).tobytes()
            flood = stream.batch([Read(BOX, OUTER, 0)] * count, identity=identity)
            stream.session.receive(flood)
            stream.next_sequence += 1
        stream.send_durable([Read(BOX, OUTER, 0)], evidence=b"\x01" * 16)
        # Half of the alarms are kept for registered tags.
        alarms = stream.ear.wait("alarm", 5)
        assert len(alarms) == 5
        assert alarms[-1].container_label == "K-0"
        assert len(site.events("alarm_raised")) == 5
        site.pass_time(61)
        summary = stream.ear.wait("alarm", 6)[5]
        assert summary.suppressed_count == 5 * 2000 - 4
        assert [reason.name for reason in summary.reasons] == ["ALARMS_SUPPRESSED"]
        site.restart()
        assert len(site.events("alarm_raised")) == 6


def test_suppressed_alarms_survive_a_restart(tmp_path: Path) -> None:
    with site_in(tmp_path, alarms_per_interval_max=2) as site:
        stream = site.stream()
        identities = [tam1_identity(1000 + number) for number in range(20)]
        stream.send_durable([Read(identity, OUTER, 0) for identity in identities])
        stream.ear.wait("alarm")
        stream.send_durable([Read(BOX, OUTER, 0)])
        site.restart()
        raised = site.events("alarm_raised")
        assert [alarm.suppressed_count for alarm in raised] == [0, 19]


def test_suppressed_alarms_are_counted_once_across_a_crash(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def refuse(_: Any) -> Any:
        raise QueueFull("full")

    crashed = tmp_path / "crashed"
    with site_in(tmp_path / "site", alarms_per_interval_max=2) as site:
        stream = site.stream()
        with monkeypatch.context() as full:
            full.setattr(site.sequencer, "submit", refuse)
            identities = [tam1_identity(1000 + number) for number in range(20)]
            stream.send_durable([Read(identity, OUTER, 0) for identity in identities])
            eventually(lambda: site.desk._doors[site.portal_id()].alarms.suppressed.count == 19)
            stream.send_durable([Read(BOX, OUTER, 0)])
            shutil.copytree(site.directory, crashed)
    again = Site(crashed, site.settings).open()
    try:
        assert [one.suppressed_count for one in again.events("alarm_raised")] == [0, 19]
    finally:
        again.close()


def test_nothing_readable_on_disk(site: Site) -> None:
    stream = site.stream()
    stream.send_durable([*crossing(BOX), Read(tam1_identity(77), OUTER, 0)])
    stream.send_durable([Read(counter_identity(1), OUTER, 0, counter=1)], scheme=COUNTER)
    site.read_log.flush()
    stored = (site.directory / "readlog" / "data.mdb").read_bytes()
    for natural in (BOX, tam1_identity(77), counter_identity(1), b"gate-1", b"K-0"):
        assert natural not in stored


# -- errors of ours ------------------------------------------------------------------------------


def test_failed_stream_stands_on_what_is_durable(site: Site, monkeypatch: Any) -> None:
    stream = site.stream()
    reads = crossing(BOX)
    stream.send_durable(reads[:10])
    stream.ear.wait("presentation")
    with monkeypatch.context() as broken:
        broken.setattr("core.portal.answers.presentations", None)
        stream.send([Read(tam1_identity(1), OUTER, 0)])
        assert stream.session.wait_told() is End.FAILED
    assert len(site.incidents) == 1
    site.incidents.clear()
    stream = site.stream()
    assert stream.next_sequence == 3
    stream.send_durable(reads[10:])
    site.pass_time(3)
    passages = {passage.container_label: passage for passage in stream.ear.wait("passage", 2)}
    assert passages["K-0"].direction == Direction.DIRECTION_IN
    assert passages["K-0"].reads_outer == 10


def test_nothing_is_acknowledged_after_a_failed_commit(site: Site, monkeypatch: Any) -> None:
    stream = site.stream()
    stream.send_durable([Read(BOX, OUTER, 0)])

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(site.read_log, "_commit", fail)
    stream.send([Read(BOX, OUTER, 1)])
    assert stream.session.wait_told() is End.FAILED
    assert list(stream.ear.acknowledged()) == [1]
    assert len(site.failures) == 1
    with pytest.raises(SessionEnded):
        stream.session.receive(stream.batch([Read(BOX, OUTER, 2)]))
    with pytest.raises(LedgerStopped):
        site.stream()
    site.failures.clear()
    site.incidents.clear()


def test_full_sequencer_delays_and_loses_nothing(site: Site, monkeypatch: Any) -> None:
    submit, refusals = site.sequencer.submit, iter(range(20))

    def refuse(given: Any) -> Any:
        if next(refusals, None) is not None:
            raise QueueFull("full")
        return submit(given)

    monkeypatch.setattr(site.sequencer, "submit", refuse)
    stream = site.stream()
    stream.send_durable([*crossing(BOX), Read(tam1_identity(66), OUTER, 0)])
    site.pass_time(3)
    stream.ear.wait("passage")
    assert len(stream.ear.wait("alarm")) == 1


def test_command_that_fails_is_made_again_at_the_next_start(site: Site, monkeypatch: Any) -> None:
    stream = site.stream()
    with monkeypatch.context() as broken:
        broken.setattr("core.procedures.portal._passage", None)
        stream.send_durable(crossing(BOX))
        site.pass_time(3)
        eventually(lambda: len(site.incidents) == 1)
        # The stream goes on.
        stream.send_durable([Read(tam1_identity(1), OUTER, 0)])
    site.incidents.clear()
    assert site.events("passage_recorded") == []
    site.restart()
    site.stream()
    site.pass_time(3)
    eventually(lambda: len(site.events("passage_recorded")) == 1)
