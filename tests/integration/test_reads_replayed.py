"""Stored reads judged again by `jinkud replay-reads`, after services that streamed and were killed."""

from __future__ import annotations

import random
import re
import signal
import threading
from pathlib import Path

import pytest

from core.keys import RealmKeys
from core.ledger.tables import IndexKind
from core.readlog import layout
from core.readlog.log import ReadLog
from grpc_api.founding import read_log_path
from grpc_api.service import open_ledger
from process import daemon, run_jinkud
from running import found, serving
from schemes_site import PORTALS, Site, register
from soak import how_many

VERDICTS = {"genuine", "unknown_tag", "bad_evidence", "replayed", "not_active", "malformed"}
SEGMENTS = {"JINKU_READLOG__SEGMENT_BATCHES_MAX": "16", "JINKU_PORTAL__QUIET_MS": "300"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    directory = found(tmp_path)
    with serving(directory) as running:
        commands = register(running)
        return Site(directory, running.settings, commands)


def live(site: Site, seconds: float, seed: int, *, killed: bool) -> None:
    """One life of the service, ended by SIGKILL in the middle of it or in order."""
    with daemon(site.directory / "jinku.toml", **SEGMENTS) as service:
        if killed:
            killer = threading.Timer(seconds, service.process.kill)
            killer.start()
            site.live(service.target, 10 * seconds, seed)
            killer.join()
        else:
            site.live(service.target, seconds, seed)
            service.process.send_signal(signal.SIGTERM)
            assert service.wait() == 0


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\b\d+\b", text)]


def replay(site: Site, *options: str) -> list[str]:
    """The lines that the command says when all is as it was."""
    config = str(site.directory / "jinku.toml")
    told = run_jinkud("replay-reads", "--config", config, *options)
    assert told.returncode == 0, told.stderr
    return told.stdout.splitlines()


def check(site: Site) -> None:
    """After any life: sound, and every acknowledged batch is derived again."""
    fsck = run_jinkud("fsck", "--config", str(site.directory / "jinku.toml"))
    assert fsck.returncode == 0, fsck.stderr
    batches, _, portals = numbers(replay(site)[0])
    # One more of each may be durable than was heard of.
    heard = sum(site.acknowledged.values())
    assert heard <= batches <= heard + len(PORTALS)
    assert portals == len(PORTALS)


def forge(site: Site, name: str, sequence: int) -> None:
    """Change one verdict, and seal the batch under the realm's own key."""
    keys = RealmKeys.load(site.settings.keys.directory)
    ledger = open_ledger(site.settings, keys)
    with ledger.read() as state:
        portal_id = state.find(IndexKind.PORTAL_NAME, name.encode()) or b""
    ledger.close()
    log = ReadLog(read_log_path(site.settings), keys.readlog_key, map_gib=1)
    packed = bytearray(next(log.packed(portal_id, 1, sequence))[1])
    packed[-1] = packed[-1] % 7 + 1
    key = layout.block_key(portal_id, 1, sequence, 0)
    with log._env.begin(write=True) as txn:
        sealed = log._sealer.seal(layout.BLOCKS, key, bytes(packed))
        txn.put(key, sealed, db=log._tables[layout.BLOCKS])
    log.start()
    log.close()


@pytest.mark.timeout(300)
def test_every_scheme_at_three_portals_with_freezes_a_restart_and_a_kill(site: Site) -> None:
    live(site, 0.7, 1, killed=True)
    check(site)
    lives = 1
    while not site.verdicts >= VERDICTS:
        live(site, 0.5, 10 * lives, killed=False)
        lives += 1
        assert lives < 10
    check(site)
    whole = replay(site)
    assert numbers(whole[1])[2] == 0
    part = replay(site, "--portal", "gate-2")
    assert numbers(part[0])[2] == 1
    assert numbers(part[0])[0] < numbers(whole[0])[0]
    assert numbers(replay(site, "--from", "2100-01-01T00:00:00+08:00")[0]) == [0, 0, 0]
    forge(site, "gate-3", 5)
    config = str(site.directory / "jinku.toml")
    told = run_jinkud("fsck", "--config", config)
    assert told.returncode == 1
    assert "gate-3, epoch 1, batches 1 to 16: are not those the journal sealed" in told.stderr
    told = run_jinkud("replay-reads", "--config", config)
    pattern = (
        r"gate-3, epoch 1, batch 5, row \d+: is stored as [A-Z_]+, and its reads make it [A-Z_]+"
    )
    assert re.search(pattern, told.stderr), told.stderr


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(how_many(8)))
def test_killed_again_and_again(site: Site, seed: int) -> None:
    chance = random.Random(seed)
    for life in range(8):
        live(site, chance.uniform(0.1, 1.5), 100 * seed + 10 * life, killed=chance.random() < 0.7)
        check(site)


def test_what_is_asked_wrongly(site: Site, tmp_path: Path) -> None:
    config = str(site.directory / "jinku.toml")
    live(site, 0.1, 3, killed=False)
    for options, message in (
        (("--portal", "gate-9"), "--portal: no portal is registered as 'gate-9'"),
        (("--from", "2026-11-24T08:00:00"), "has no zone; write it as 2026-11-24T08:00:00+08:00"),
    ):
        told = run_jinkud("replay-reads", "--config", config, *options)
        assert told.returncode == 2
        assert message in told.stderr
    with serving(site.directory):
        told = run_jinkud("replay-reads", "--config", config)
        assert told.returncode == 3
        assert "another process has this ledger open" in told.stderr
    other = found(tmp_path / "other")
    told = run_jinkud("replay-reads", "--config", str(other / "jinku.toml"))
    assert told.returncode == 2
    assert "no portal ever streamed" in told.stderr
