"""The command `jinku` against a real service: what it says, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jinku.main import COMMANDS
from served_realm import PORTAL, Realm, serve

JINKU = Path(sys.executable).with_name("jinku")


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Realm]:
    with serve(tmp_path_factory.mktemp("served") / "realm") as running:
        yield running


class Cli:
    """Runs `jinku` with the connection in its environment."""

    def __init__(self, realm: Realm, state: Path) -> None:
        self.realm = realm
        self.state = state

    def __call__(self, *arguments: str, code: int = 0, who: str = "registrar") -> str:
        own = self.realm.service.connect("portal" if who == PORTAL else "service", who)
        answer = subprocess.run(
            [str(JINKU), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            env={
                **os.environ,
                "JINKU_TARGET": own.target,
                "JINKU_CERTIFICATE": str(own.certificate),
                "JINKU_KEY": str(own.key),
                "JINKU_CA": str(own.ca),
                "XDG_STATE_HOME": str(self.state),
            },
        )
        assert answer.returncode == code, answer.stdout + answer.stderr
        return answer.stdout + answer.stderr


@pytest.fixture
def jinku(realm: Realm, tmp_path: Path) -> Cli:
    return Cli(realm, tmp_path)


def test_a_bank_is_registered_from_the_command_line(jinku: Cli) -> None:
    jinku("institutions", "register", "7", "东门支行", "--parent", "1")
    jinku("vaults", "register", "V7", "东门金库", "--institution", "7")
    jinku("portals", "register", "east-gate", "--vault", "V7", "--inner", "1", "--outer", "2")
    jinku("boxes", "register", "E1", "--institution", "7", "--vault", "V7")
    issued = jinku("tags", "issue", "E1", "3314aa000000000000000001")
    assert "key version 1" in issued
    replaced = jinku("tags", "replace", "E1", "3314aa000000000000000002")
    assert "retired" in replaced
    jinku("tags", "freeze", "3314aa000000000000000002", "--note", "报失")
    jinku("tags", "unfreeze", "3314aa000000000000000002")
    shown = jinku("tags", "show", "3314aa000000000000000001", "--language", "zh")
    assert shown.startswith("E1 (CONTAINER_KIND_CASH_BOX)")
    assert "报失" in shown
    assert shown.count("TAG_STATE_RETIRED") == shown.count("TAG_STATE_ACTIVE") == 1
    jinku("tags", "retire", "3314aa000000000000000002")


def test_refusal_has_its_reason_and_exit_code(jinku: Cli) -> None:
    label, _ = jinku.realm.add_tagged_box()
    text = jinku("tags", "issue", label, "3314aa0000000000000000ff", code=1)
    assert "302 CONTAINER_HAS_LIVE_TAG (TAG-02" in text
    assert "303" in jinku("tags", "show", "3314aa0000000000000000fe", code=1)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("tags", "freeze", "xyz"), "not hex digits"),
        (("tags", "freeze", "0102"), "7, 8, 12 or 16"),
        (("tags", "show", "3314aa0000000000000000fe", "--ca", "/nowhere"), "--ca"),
        (("tags", "issue", "E1"), "Missing argument"),
    ],
)
def test_wrong_usage_is_told(jinku: Cli, arguments: tuple[str, ...], why: str) -> None:
    assert why in jinku(*arguments, code=2)


def test_wrong_role_is_told(jinku: Cli) -> None:
    assert "PERMISSION_DENIED" in jinku("ledger", "entry", "0", code=3)


def test_entry_is_kept_and_verified_offline(jinku: Cli, tmp_path: Path) -> None:
    receipt, key = tmp_path / "receipt.bin", tmp_path / "key"
    assert "verifier key:" in jinku("ledger", "checkpoint", "--save-key", str(key), who="auditor")
    told = jinku("ledger", "entry", "2", "--save", str(receipt), who="auditor")
    assert "登记金库 V 金库" in told
    verified = jinku("ledger", "verify", str(receipt), "--key", str(key))
    assert "valid: entry 2" in verified
    assert jinku("ledger", "verify", str(receipt), "--key", key.read_text().strip())
    other = key.read_text().replace("+", "x+", 1)
    assert "not valid" in jinku("ledger", "verify", str(receipt), "--key", other, code=4)


def test_recording_is_replayed_and_load_is_measured(jinku: Cli, tmp_path: Path) -> None:
    boxes = [jinku.realm.add_tagged_box() for _ in range(4)]
    jinku.realm.personalise(*[identity for _, identity in boxes])
    tags = max(jinku.realm.service.directory.glob("tags-*.json"), key=os.path.getmtime)
    lines = ["trial_id,room,time_s,antenna,rssi_dbm,phase_rad,frequency_mhz"]
    for number in range(4):
        lines += [f"t{number},R,{n / 20},{1 + n // 10},-55,1,920.625" for n in range(20)]
    recording = tmp_path / "reads.csv"
    recording.write_text("\n".join(lines))
    told = jinku("portal", "replay", str(recording), "--tags", str(tags), who=PORTAL)
    assert "80 reads sent, 80 durable, 0 rejected; 0 alarms, 4 passages" in told
    assert told.count("RELEASE") == 4
    for label, _ in boxes:
        assert label in told
    measured = json.loads(
        jinku(
            "bench", "load", "--tags", str(tags), "--batch", "64", "--seconds", "1",
            "--alarm-every", "0.4", "--json", who=PORTAL,
        )
    )  # fmt: skip
    assert measured["verdicts"]["genuine"] > 0
    assert measured["reads_acknowledged"] == sum(measured["verdicts"].values())
    assert (measured["alarms"] > 0, measured["alarms_missing"]) == (True, 0)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    answer = subprocess.run(
        [str(JINKU), command, "--help"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0
    assert "Usage:" in answer.stdout


def test_unreachable_service_is_told(jinku: Cli) -> None:
    text = jinku("tags", "show", "3314aa000000000000000001", "--target", "127.0.0.1:1", code=3)
    assert "UNAVAILABLE" in text
    assert "is the service running" in text
