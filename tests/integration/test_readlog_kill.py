"""Killed while it streams, seals and prunes: segments once and whole, no counter accepted twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.fsck import fsck
from core.keys import RealmKeys
from core.portal.retention import Pruner
from core.readlog.log import ReadLog
from core.readlog.verify import SegmentsReport, verify_segments
from ledgers import reopen
from portals import found_site
from process import run_jinkud
from repository import ROOT
from running import found, serving
from soak import how_many
from streaming_site import DAY, RETENTION, open_site, read

SUPPORT = ROOT / "tests" / "support"
KILLS = 6


def ride(directory: Path, used: int, seconds: float) -> int:
    """Run until killed; the highest counter that is known to be durable."""
    process = subprocess.Popen(
        [sys.executable, SUPPORT / "streaming_site.py", directory, str(used)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{SUPPORT}"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    # Its time begins when it streams.
    killer = threading.Timer(seconds, process.kill)
    begun = False
    for line in process.stdout:
        used = int(line)
        if not begun:
            begun = True
            killer.start()
    code = process.wait()
    said = process.stderr.read()
    killer.cancel()
    process.stdout.close()
    process.stderr.close()
    assert code == -9, said
    return used


def verify(directory: Path) -> SegmentsReport:
    """As fsck does it, on what the killed process left."""
    ledger = reopen(directory)
    keys = RealmKeys.load(directory / "keys")
    log = ReadLog(directory / "readlog", keys.readlog_key, map_gib=1)
    try:
        with ledger.read() as state:
            report = verify_segments(state, log)
        assert fsck(ledger).entries == ledger.size
    finally:
        log.close()
        ledger.close()
    return report


def campaign(directory: Path, seed: int) -> None:
    found_site(directory)
    chance = random.Random(seed)
    used = 0
    for _ in range(KILLS):
        used = ride(directory, used, chance.uniform(0.05, 0.8))
        verify(directory)
    site = open_site(directory)
    try:
        stream = site.stream()
        assert not read(stream, used)
        site.pass_time(100 * DAY)
        assert read(stream, stream.next_sequence * 10)
        site.stop_desk()
        site.read_log.flush()
        Pruner(site.parts).prune()
        sealed = site.events("read_segment_sealed")
        pruned = site.events("read_segment_pruned")
        starts = [1, *(one.last_sequence + 1 for one in sealed)]
        assert [one.first_sequence for one in sealed] == starts[:-1]
        # The open run alone is not sealed.
        assert stream.next_sequence - starts[-1] < RETENTION.segment_batches_max
        # Oldest first, each once; the last may be needed for a replay.
        assert [one.first_sequence for one in pruned] == starts[: len(pruned)]
        assert len(pruned) >= len(sealed) - 1 > 10
        assert min(site.reads_kept()) == starts[len(pruned)]
        assert site.failures == site.incidents == []
    finally:
        site.close()
    report = verify(directory)
    assert (report.segments, report.pruned) == (len(sealed), len(pruned))


@pytest.mark.parametrize("seed", [1])
def test_killed_while_sealing_and_pruning(tmp_path: Path, seed: int) -> None:
    campaign(tmp_path, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 100 + how_many(10)))
def test_killed_while_sealing_and_pruning_often(tmp_path: Path, seed: int) -> None:
    campaign(tmp_path, seed)


def test_fsck_tells_of_the_read_log(tmp_path: Path) -> None:
    directory = found(tmp_path)
    with serving(directory):
        pass
    checked = run_jinkud("fsck", "--config", str(directory / "jinku.toml"))
    assert checked.returncode == 0, checked.stderr
    assert "sound: read log of 0 batches, 0 reads; 0 segments sealed" in checked.stdout
