"""The demonstration, as a person runs it: it passes, and it notices when something is amiss."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jinku.demo import expect, play
from jinku.demo.bank import BOXES, OUTLETS, VAULTS, make_bank
from jinku.type.v1.reason_pb2 import ReasonCode

JINKU = Path(sys.executable).with_name("jinku")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(JINKU), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp("demo") / "realm"
    answer = run("demo", "--directory", str(directory))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout, directory


@pytest.mark.req("POR-05")
@pytest.mark.timeout(180)
def test_every_attack_is_shown_with_its_reason(shown: tuple[str, Path]) -> None:
    text, _ = shown
    for number in (401, 402, 403, 404):
        assert re.search(rf"{number} TAG_\w+ · POR-05 · B5-RFID", text), text
    assert "all as expected" in text
    assert "全部符合预期" in text
    assert "\x1b[" not in text, "colours without a terminal"


def test_undetermined_is_shown(shown: tuple[str, Path]) -> None:
    assert "406 PASSAGE_UNDETERMINED" in shown[0]


def test_receipt_verifies_with_nothing_but_its_key(shown: tuple[str, Path]) -> None:
    _, directory = shown
    receipt, key = str(directory / "receipt.bin"), str(directory / "realm.key")
    answer = run("ledger", "verify", receipt, "--key", key, "--language", "en")
    assert answer.returncode == 0, answer.stderr
    assert "402 TAG_EVIDENCE_FORGED" in answer.stdout
    changed = bytearray((directory / "receipt.bin").read_bytes())
    changed[40] ^= 1
    (directory / "changed.bin").write_bytes(changed)
    refused = run("ledger", "verify", str(directory / "changed.bin"), "--key", key)
    assert refused.returncode == 4
    assert "not valid" in refused.stderr


def test_nothing_is_left_running(shown: tuple[str, Path]) -> None:
    _, directory = shown
    log = (directory / "jinkud.log").read_text().splitlines()
    assert json.loads(log[-1])["event"] == "ended"


def test_bank_is_small_and_whole() -> None:
    bank = make_bank()
    assert (len(bank.boxes), len(OUTLETS), len(VAULTS)) == (BOXES, 5, 2) == (200, 5, 2)
    assert (
        len({box.identity for box in bank.boxes}) == len({box.label for box in bank.boxes}) == 200
    )
    assert all("演示" in name for _, name in OUTLETS)
    assert sum(bool(box.trial) for box in bank.boxes) == 32


class Accounts:
    """What a door's client would say had everything gone well."""

    taken = acknowledged = 100 + play.CASE_READS
    unheard = 0
    streams = 2


class FakeDoor:
    """A door whose observations a test makes up: only the judge is under test here."""

    def __init__(self) -> None:
        self.cases = [
            play.Case("", "copy", b"c" * 12, ReasonCode.REASON_CODE_TAG_EVIDENCE_FORGED, 0.5, b"")
        ]
        self.observed = play.Observed()
        self.observed.verdicts.update({"genuine": 100, "bad_evidence": play.CASE_READS})
        self.reads_total = 100
        self.client = type("Client", (), {"accounts": Accounts})
        self.tags: list[object] = []
        self.labels: list[str] = []


def test_missing_alarm_is_a_difference() -> None:
    lines = expect.find_differences([FakeDoor()])  # type: ignore[list-item]
    assert lines == ["copy: alarmed for nothing", "copy: gate decisions None"]


def test_lost_read_is_a_difference() -> None:
    door = FakeDoor()
    door.observed.verdicts["genuine"] -= 1
    assert "verdicts" in expect.check_reads(door)[0]  # type: ignore[arg-type]


@pytest.mark.timeout(120)
def test_serve_can_be_talked_to(tmp_path: Path) -> None:
    directory = tmp_path / "realm"
    with subprocess.Popen(
        [str(JINKU), "demo", "--serve", "--language", "en", "--directory", str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        try:
            environment: dict[str, str] = {}
            for line in process.stdout:
                environment.update(re.findall(r"(JINKU_[A-Z]+)=(\S+)", line))
                if "portal replay" in line:
                    break
            assert environment.keys() == {
                "JINKU_TARGET",
                "JINKU_CA",
                "JINKU_CERTIFICATE",
                "JINKU_KEY",
            }
            shown = run("boxes", "show", "K0001", **environment)
            assert shown.returncode == 0, shown.stderr
            assert "TAG_STATE_ACTIVE" in shown.stdout
            time.sleep(0.2)
        finally:
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
        assert process.wait(30) == 0
    assert "the ledger is sound" in rest
