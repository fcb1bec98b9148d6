"""Command ids are drawn once each, whatever dies."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jinku.calls import METHODS, RetryPolicy, path_of, prepare
from jinku.commands import CommandIds, load_portal_epoch
from jinku.v1.ledger_pb2 import GetEntryRequest
from jinku.v1.registry_pb2 import FreezeTagRequest

DRAW_AND_DIE = """
import os, sys
from pathlib import Path
from jinku.commands import CommandIds
ids = CommandIds(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    drawn = ids.draw()
    print(drawn.epoch, drawn.sequence, flush=True)
os._exit(9)
"""


def test_sequence_counts_within_one_epoch(tmp_path: Path) -> None:
    ids = CommandIds(tmp_path / "ids.json", block=2)
    drawn = [ids.draw() for _ in range(5)]
    assert [one.sequence for one in drawn] == [1, 2, 3, 4, 5]
    assert len({one.epoch for one in drawn}) == 1


def test_nothing_is_drawn_twice_across_kills(tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []
    for count in (1, 40, 3):
        command = [sys.executable, "-c", DRAW_AND_DIE, str(tmp_path / "ids.json"), str(count)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 9, answer.stderr
        seen += [tuple(line.split()) for line in answer.stdout.splitlines()]
    assert len(seen) == 44 == len(set(seen))
    assert len({epoch for epoch, _ in seen}) == 1


def test_nothing_is_drawn_twice_by_threads_and_sharers(tmp_path: Path) -> None:
    sharers = [CommandIds(tmp_path / "ids.json", block=3) for _ in range(3)]
    drawn: list[tuple[int, int]] = []

    def draw(ids: CommandIds) -> None:
        for _ in range(30):
            one = ids.draw()
            drawn.append((one.epoch, one.sequence))

    threads = [threading.Thread(target=draw, args=(ids,)) for ids in sharers * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == len(set(drawn)) == 180


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"epoch": 1}'])
def test_lost_counter_means_new_epoch(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ids.json"
    before = CommandIds(path).draw()
    path.write_text(damage)
    after = CommandIds(path).draw()
    assert after.epoch > before.epoch
    assert after.sequence == 1


def test_portal_epoch_is_kept(tmp_path: Path) -> None:
    first = load_portal_epoch(tmp_path / "deep" / "portal.json")
    assert load_portal_epoch(tmp_path / "deep" / "portal.json") == first


def test_every_request_says_its_rpc() -> None:
    assert path_of(GetEntryRequest()) == "/jinku.v1.LedgerService/GetEntry"
    assert len(METHODS) == 23


def test_command_gets_its_id_once(tmp_path: Path) -> None:
    ids = CommandIds(tmp_path / "ids.json")
    request = FreezeTagRequest(identity=b"1234567")
    stamped = FreezeTagRequest.FromString(prepare(request, ids))
    assert stamped.command_id.sequence == 1
    assert not request.HasField("command_id")
    assert prepare(stamped, ids) == stamped.SerializeToString(deterministic=True)
    with pytest.raises(ValueError, match="command id"):
        prepare(request, None)


def test_delays_are_bounded() -> None:
    policy = RetryPolicy(attempts_max=8, first_delay_s=0.1, delay_max_s=1.0)
    delays = list(policy.delays())
    assert len(delays) == 7
    assert all(0.05 <= delay <= 1.0 for delay in delays)
