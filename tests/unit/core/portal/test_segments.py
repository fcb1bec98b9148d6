"""Runs of batches: sealed in the journal once, verified against it, deleted when their time is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import lmdb
import pytest

from core.errors import LedgerCorrupt, LedgerStopped
from core.fsck import fsck
from core.ledger.tables import SEGMENTS
from core.portal.retention import Pruner
from core.procedures.segments import next_segment
from core.readlog import layout
from core.readlog import log as readlog
from core.readlog.segments import OpenSegment, Segment, Stored
from core.readlog.verify import SegmentsReport, verify_segments
from core.settings import PortalSettings, ReadLogSettings
from jinku.type.v1.tag_pb2 import TagScheme
from ledgers import reopen
from portals import (
    OUTER,
    START_NS,
    Read,
    Site,
    Stream,
    counter_identity,
    crossing,
    eventually,
    found_site,
    tam1_identity,
)

BOX = tam1_identity(0)
DAY = 86_400.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site whose segments hold four batches."""
    found_site(tmp_path)
    retention = ReadLogSettings(
        segment_batches_max=4, prune_interval_seconds=0.1, retention_days=90
    )
    site = Site(tmp_path, PortalSettings(), retention).open()
    try:
        yield site
    finally:
        site.close()
    assert site.failures == []
    assert site.incidents == []


def send(stream: Stream, batches: int, seconds: float = 0.1) -> None:
    """Bare reads: nothing is followed, so nothing has to be kept for a replay."""
    for _ in range(batches):
        stream.site.pass_time(seconds)
        stream.send_durable([Read(BOX, 200, 0)], scheme=TagScheme.TAG_SCHEME_NONE)


def settle(stream: Stream) -> None:
    """End the stream: all that was taken is settled."""
    stream.site.stop_desk()
    stream.site.read_log.flush()


def wait_sealed(stream: Stream) -> None:
    """A batch is acknowledged first; its segment is in the journal soon after."""
    complete = (stream.next_sequence - 1) // 4 * 4
    eventually(lambda: next_of(stream.site) > complete)


def sealed(site: Site) -> list[tuple[int, int, int]]:
    return [
        (one.portal_epoch, one.first_sequence, one.last_sequence)
        for one in site.events("read_segment_sealed")
    ]


def verify(site: Site) -> SegmentsReport:
    with site.ledger.read() as state:
        return verify_segments(state, site.read_log)


def next_of(site: Site, epoch: int = 1) -> int:
    with site.ledger.read() as state:
        return next_segment(state, site.portal_id(), epoch)


# ── runs ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("limits", "batches"),
    [
        ({"segment_batches_max": 3}, 3),
        ({"segment_mib_max": 1}, 4),
        ({"segment_minutes_max": 1}, 7),
    ],
)
def test_run_is_complete_at_the_first_batch_that_fills_it(
    limits: dict[str, int], batches: int
) -> None:
    run = OpenSegment(ReadLogSettings(**limits), 11)
    for number in range(batches):
        received_ns = START_NS + number * 10_000_000_000
        stored = Stored(bytes([number]) * 32, 300_000, 5, received_ns, 60 + number, number == 1)
        segment = run.add(11 + number, stored)
        assert (segment is not None) == (number == batches - 1)
    digest = bytes(32)
    for number in range(batches):
        digest = sha256(digest + (11 + number).to_bytes(8, "big") + bytes([number]) * 32).digest()
    last_ns = START_NS + (batches - 1) * 10_000_000_000
    end_turn = 59 + batches
    assert segment == Segment(
        11, 10 + batches, 5 * batches, digest, START_NS, last_ns, 60, end_turn, 1
    )
    assert run.close() is None
    with pytest.raises(ValueError, match="is the next"):
        run.add(11, stored)


def test_runs_are_sealed_as_they_fill_and_at_the_end_of_an_epoch(site: Site) -> None:
    stream = site.stream()
    send(stream, 10)
    site.stream(epoch=2)
    assert sealed(site) == [(1, 1, 4), (1, 5, 8), (1, 9, 10)]
    assert next_of(site) == 11
    assert next_of(site, 2) == 1
    events = site.events("read_segment_sealed")
    digest = bytes(32)
    for sequence, packed in site.read_log.packed(site.portal_id(), 1):
        if sequence < 5:
            digest = sha256(digest + sequence.to_bytes(8, "big") + sha256(packed).digest()).digest()
    assert events[0].digest == digest
    assert [one.reads for one in events] == [4, 4, 2]
    assert [one.first_received_ns for one in events] == [
        START_NS + tenths * 100_000_000 for tenths in (1, 5, 9)
    ]
    assert events[0].last_received_ns == START_NS + 400_000_000
    report = verify(site)
    assert (report.segments, report.pruned, report.batches) == (3, 0, 10)
    assert fsck(site.ledger).entries == site.ledger.size


@pytest.mark.parametrize("batches", [3, 4, 5, 11])
def test_open_run_is_counted_again_at_a_start(site: Site, batches: int) -> None:
    stream = site.stream()
    send(stream, batches)
    site.restart()
    stream = site.stream()
    send(stream, 12 - batches)
    settle(stream)
    assert sealed(site) == [(1, 1, 4), (1, 5, 8), (1, 9, 12)]
    assert verify(site).batches == 12


def test_what_was_complete_and_not_journalled_is_sealed_at_the_next_start(
    site: Site, monkeypatch: Any
) -> None:
    """As if killed between the batch's commit and the journal's."""
    stream = site.stream()
    with monkeypatch.context() as patch:
        patch.setattr("core.portal.settling.Settler._seal", lambda *_: None)
        send(stream, 9)
        settle(stream)
    assert sealed(site) == []
    site.restart()
    assert sealed(site) == [(1, 1, 4), (1, 5, 8)]
    # The sequencer has the first of them already, when the read log is opened in between.
    site.restart()
    assert len(sealed(site)) == 2


def test_failed_stream_seals_once(site: Site, monkeypatch: Any) -> None:
    stream = site.stream()
    send(stream, 4)
    stream.session.fail(LedgerStopped("a test"))
    again = site.stream()
    assert again.next_sequence == 5
    send(again, 4)
    settle(again)
    assert sealed(site) == [(1, 1, 4), (1, 5, 8)]


# ── verifying ───────────────────────────────────────────────────────────────────────────────────


def tamper(site: Site, change: Callable[[Any, Any, bytes], None]) -> None:
    """Change the file of a closed site, then open it without starting anything."""
    portal_id = site.portal_id()
    site.close()
    path = site.directory / "readlog"
    with lmdb.open(str(path), map_size=1 << 30, max_dbs=8) as env:
        blocks = env.open_db(b"%d" % layout.BLOCKS)
        with env.begin(write=True) as txn:
            change(txn, blocks, portal_id)


def flip(txn: Any, blocks: Any, portal_id: bytes) -> None:
    key = layout.block_key(portal_id, 1, 2, 0)
    value = bytearray(txn.get(key, db=blocks))
    value[40] ^= 1
    txn.put(key, bytes(value), db=blocks)


def remove(txn: Any, blocks: Any, portal_id: bytes) -> None:
    assert txn.delete(layout.block_key(portal_id, 1, 2, 0), db=blocks)


def swap(txn: Any, blocks: Any, portal_id: bytes) -> None:
    keys = [layout.block_key(portal_id, 1, sequence, 0) for sequence in (2, 3)]
    values = [txn.get(key, db=blocks) for key in keys]
    for key, value in zip(keys, reversed(values), strict=True):
        txn.put(key, value, db=blocks)


def remove_open(txn: Any, blocks: Any, portal_id: bytes) -> None:
    assert txn.delete(layout.block_key(portal_id, 1, 10, 0), db=blocks)


def add(txn: Any, blocks: Any, portal_id: bytes) -> None:
    value = txn.get(layout.block_key(portal_id, 1, 1, 0), db=blocks)
    txn.put(layout.block_key(portal_id, 9, 7, 0), value, db=blocks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip, r"portal gate-1, epoch 1, batch 2: .* does not open"),
        (remove, r"portal gate-1, epoch 1, batch 2: is missing"),
        (swap, r"portal gate-1, epoch 1, batch 2: .* does not open"),
        (remove_open, r"portal gate-1, epoch 1, batch 10: is missing"),
        (add, r"portal gate-1, epoch 9: has batches"),
    ],
)
def test_first_difference_is_named(
    tmp_path: Path, change: Callable[[Any, Any, bytes], None], message: str
) -> None:
    found_site(tmp_path)
    site = Site(tmp_path, retention=ReadLogSettings(segment_batches_max=4)).open()
    send(site.stream(), 10)
    tamper(site, change)
    ledger = reopen(tmp_path)
    log = readlog.ReadLog(tmp_path / "readlog", site.keys.readlog_key, map_gib=1)
    try:
        with ledger.read() as state, pytest.raises(LedgerCorrupt, match=message):
            verify_segments(state, log)
    finally:
        log.close()
        ledger.close()


def test_batch_sealed_anew_under_the_same_key_is_found(site: Site, monkeypatch: Any) -> None:
    """Whoever has the read log's key can make a block that opens; not one that the journal knows."""
    stream = site.stream()
    send(stream, 5)
    settle(stream)
    key = layout.block_key(site.portal_id(), 1, 3, 0)
    packed = dict(site.read_log.packed(site.portal_id(), 1))[3]
    forged = packed[:-1] + b"\x01"
    value = site.read_log._sealer.seal(layout.BLOCKS, key, forged)
    with site.read_log._env.begin(write=True) as txn:
        txn.put(key, value, db=site.read_log._tables[layout.BLOCKS])
    with pytest.raises(LedgerCorrupt, match="gate-1, epoch 1, batches 1 to 4: are not those"):
        verify(site)


@pytest.mark.parametrize("older_epoch", [False, True])
@pytest.mark.parametrize("lost", [False, True])
def test_read_log_older_than_the_journal_is_refused(
    tmp_path: Path, older_epoch: bool, lost: bool
) -> None:
    """Of a copy, or none: counters that it does not know would be accepted again."""
    found_site(tmp_path)
    site = Site(tmp_path, retention=ReadLogSettings(segment_batches_max=4)).open()
    send(site.stream(), 3)
    site.close()
    path = tmp_path / "readlog"
    older = {file.name: file.read_bytes() for file in path.iterdir()}
    site.open()
    send(site.stream(epoch=2 if older_epoch else 1), 4)
    site.close()
    for name, content in older.items():
        if lost:
            (path / name).unlink()
        else:
            (path / name).write_bytes(content)
    with pytest.raises(LedgerCorrupt, match="portal gate-1: is older than the journal"):
        site.open()
    with pytest.raises(LedgerCorrupt, match="gate-1.*(is older than the journal|is missing)"):
        verify(site)
    site.close()


# ── pruning ─────────────────────────────────────────────────────────────────────────────────────


def age(site: Site, days: float) -> None:
    site.pass_time(days * DAY)


def test_old_runs_are_deleted_and_only_those(site: Site) -> None:
    stream = site.stream()
    send(stream, 8)
    age(site, 50)
    send(stream, 5)
    settle(stream)
    pruner = Pruner(site.parts)
    assert pruner.prune() == 0
    age(site, 41)
    assert pruner.prune() == 2
    assert pruner.prune() == 0
    assert sorted(site.reads_kept()) == [9, 10, 11, 12, 13]
    pruned = site.events("read_segment_pruned")
    assert [(one.first_sequence, one.last_sequence, one.retention_days) for one in pruned] == [
        (1, 4, 90), (5, 8, 90),
    ]  # fmt: skip
    report = verify(site)
    assert (report.segments, report.pruned, report.batches) == (3, 2, 5)
    assert fsck(site.ledger).entries == site.ledger.size
    age(site, 90)
    # The open run is not sealed: it stays, however old.
    assert pruner.prune() == 1
    assert sorted(site.reads_kept()) == [13]
    site.restart()
    assert site.stream().next_sequence == 14
    assert verify(site).pruned == 3


def test_what_a_restart_would_replay_is_kept(site: Site) -> None:
    stream = site.stream()
    send(stream, 5)
    # A box comes near and its passage is not decided: its reads are needed.
    stream.send_durable(crossing(BOX))
    send(stream, 10, seconds=0)
    settle(stream)
    site.now_ns += int(100 * DAY) * 1_000_000_000
    assert Pruner(site.parts).prune() == 1
    assert min(site.reads_kept()) == 5
    site.elapsed_ns += int(100 * DAY) * 1_000_000_000
    site.restart()
    assert len(site.events("passage_recorded")) <= 1


def test_repeated_batch_that_was_deleted_is_said_to_be(site: Site) -> None:
    stream = site.stream()
    site.pass_time(1)
    bare = [Read(BOX, 200, 0)]
    first = stream.batch(bare, scheme=TagScheme.TAG_SCHEME_NONE)
    send(stream, 6)
    age(site, 91)
    stream.session.receive(first)
    stream.ear.wait("rejected")
    assert stream.ear.rejected() == ["BATCH_SEQUENCE_REUSED"]
    wait_sealed(stream)
    assert Pruner(site.parts).prune() == 1
    stream.session.receive(first)
    (_, rejected) = stream.ear.wait("rejected", 2)
    assert [one.name for one in rejected.refused.reasons] == ["BATCH_NO_LONGER_KEPT"]
    assert (rejected.sequence, rejected.expected_sequence) == (1, 7)
    send(stream, 1)


@pytest.mark.parametrize("commits", [0, 1, 3])
def test_deletion_that_was_cut_off_is_finished(site: Site, monkeypatch: Any, commits: int) -> None:
    monkeypatch.setattr(readlog, "DELETED_MAX", 1)
    stream = site.stream()
    send(stream, 9)
    settle(stream)
    age(site, 91)
    put_durable, left = site.read_log._put_durable, [commits]

    def cut_off(*arguments: Any, **deleted: Any) -> None:
        if not left[0]:
            raise LedgerStopped("killed")
        left[0] -= 1
        put_durable(*arguments, **deleted)

    with monkeypatch.context() as patch, pytest.raises(LedgerStopped):
        patch.setattr(site.read_log, "_put_durable", cut_off)
        Pruner(site.parts).prune()
    assert len(site.reads_kept()) == 9 - commits
    # What is half deleted is no difference.
    assert verify(site).pruned == 1
    site.restart()
    # The open run has lasted long enough by now.
    eventually(lambda: len(sealed(site)) == 3)
    assert Pruner(site.parts).prune() == 2
    assert sorted(site.reads_kept()) == []
    assert len(site.events("read_segment_pruned")) == 3
    assert verify(site).pruned == 3


def test_run_that_failed_is_tried_again(site: Site, monkeypatch: Any) -> None:
    stream = site.stream()
    send(stream, 13)
    settle(stream)
    age(site, 91)
    pruner = Pruner(site.parts)
    with monkeypatch.context() as patch:
        patch.setattr(site.sequencer, "submit", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pruner.prune()
    assert len(site.reads_kept()) == 13
    assert pruner.prune() == 3
    assert sorted(site.reads_kept()) == [13]


def test_large_batches_go_one_at_a_time(site: Site, monkeypatch: Any) -> None:
    monkeypatch.setattr(readlog, "DELETED_MAX", 2)
    stream = site.stream()
    for _ in range(3):
        site.pass_time(1)
        stream.send_durable([Read(BOX, 200, 0)] * 7_000, scheme=TagScheme.TAG_SCHEME_NONE)
    portal_id = site.portal_id()
    keys = site.read_log._chunks_of(portal_id, 1, 1, 3)
    assert {layout.split_block_key(key)[2] for key in keys} == {1}
    assert len(keys) > 2
    assert site.read_log.prune(portal_id, 1, 1, 2) == 2 * len(keys)
    assert sorted(site.reads_kept()) == [3]
    assert site.read_log.prune(portal_id, 1, 1, 2) == 0


def test_space_is_used_again(site: Site) -> None:
    stream = site.stream()
    pruner = Pruner(site.parts)
    path = site.directory / "readlog" / "data.mdb"
    reads = [Read(BOX, 200, 0)] * 4_000
    sizes = []
    for _ in range(12):
        for _ in range(8):
            site.pass_time(1)
            stream.send_durable(reads, scheme=TagScheme.TAG_SCHEME_NONE)
        age(site, 91)
        wait_sealed(stream)
        assert pruner.prune() >= 1
        sizes.append(path.stat().st_size)
    assert sizes[-1] == sizes[3]
    assert len(site.reads_kept()) < 16


def test_pruning_runs_beside_a_stream(site: Site) -> None:
    stream = site.stream()
    send(stream, 8)
    age(site, 91)
    pruner = Pruner(site.parts)
    pruner.start()
    for _ in range(40):
        send(stream, 1, seconds=DAY)
    eventually(lambda: len(site.events("read_segment_pruned")) >= 2)
    pruner.stop()
    pruner.stop()
    settle(stream)
    assert min(site.reads_kept()) > 8
    report = verify(site)
    assert report.pruned >= 2


def test_counters_outlive_the_reads_they_came_from(site: Site) -> None:
    tag = counter_identity(0)
    counters = TagScheme.TAG_SCHEME_COUNTER_CMAC
    stream = site.stream()
    for counter in (5, 6, 7, 8):
        site.pass_time(1)
        stream.send_durable([Read(tag, OUTER, 0, counter=counter)], scheme=counters)
    site.pass_time(10)
    send(stream, 1)
    settle(stream)
    age(site, 91)
    assert Pruner(site.parts).prune() == 1
    site.restart()
    again = site.stream()
    for counter, replayed in ((8, 1), (5, 1), (9, 0)):
        site.pass_time(1)
        batch = again.send_durable([Read(tag, OUTER, 0, counter=counter)], scheme=counters)
        assert (batch.counts.replayed, batch.counts.genuine) == (replayed, 1 - replayed)


def test_expired_challenge_stays_so_after_a_restart_with_the_clock_set_back(site: Site) -> None:
    stream = site.stream()
    old = stream.challenge()
    site.pass_time(31)
    stream.send_durable([Read(BOX, OUTER, 0)], challenge=old)
    expired = stream.ear.acknowledged()[1]
    assert expired.counts.genuine == 0
    state = expired.challenge_state
    settle(stream)
    # Back to when it was good.
    site.close()
    site.now_ns = START_NS + 1_000_000_000
    site.elapsed_ns = 0
    site.open()
    again = site.stream()
    site.pass_time(1)
    assert Pruner(site.parts).prune() == 0
    batch = again.send_durable(
        [Read(BOX, OUTER, 0)], challenge=old, base_time_ns=START_NS + 31_000_000_000
    )
    assert batch.challenge_state == state
    assert batch.counts.genuine == 0


def test_segments_are_rows_that_replay_makes(site: Site) -> None:
    send(site.stream(), 8)
    site.restart()
    with site.ledger.read() as state:
        rows = [row for _, row in state.scan(SEGMENTS)]
    assert [(row.last_sequence, row.pruned) for row in rows] == [(4, False), (8, False)]
