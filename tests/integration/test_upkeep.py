"""`jinkud compact` and `jinkud fsck` as processes: refused, killed at any instant, gone on."""

from __future__ import annotations

import os
import pty
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import lmdb
import pytest

from core.keys import RealmKeys
from core.ledger import layout
from core.ledger.ledger import Ledger
from core.procedures.table import handlers
from core.sequencer import Writer
from grpc_api.config import load_settings
from grpc_api.founding import ledger_path
from jinku.demo.service import find_jinkud
from ledgers import command
from process import clean_environment, daemon, run_jinkud
from registrar import container, freeze, institution, issue, unfreeze, vault
from running import found
from soak import how_many

ENTRIES = 17_000


def fill(directory: Path, entries: int) -> None:
    """Commands, many in a commit, written by the writer itself: a service would take minutes."""
    settings = load_settings(directory / "jinku.toml", {})
    realm = settings.realm
    ledger = Ledger(
        ledger_path(settings), RealmKeys.load(settings.keys.directory), realm.number,
        realm.trust_domain, map_gib=1,
    )  # fmt: skip
    writer = Writer(ledger, handlers(lambda: frozenset({(realm.number, 1)})))
    writer.commit([command(institution()), command(vault()), command(container("B"))])
    writer.commit([command(issue(bytes([1]) * 12, "B"))])
    number = 0
    while ledger.size < entries:
        batch = []
        for _ in range(256):
            number += 1
            toggle = (unfreeze, freeze)[number // 3 % 2](bytes([1]) * 12)
            batch.append(command(container(f"C-{number}") if number % 3 else toggle))
        writer.commit(batch)
    ledger.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = found(tmp_path_factory.mktemp("large"))
    fill(directory, ENTRIES)
    return directory


def config_of(directory: Path) -> list[str]:
    return ["--config", str(directory / "jinku.toml")]


def root_of(directory: Path) -> str:
    """Of a sound journal."""
    checked = run_jinkud("fsck", "--hashes-only", *config_of(directory))
    assert checked.returncode == 0, checked.stderr
    found = re.search(r"sound: \d+ entries.*root [0-9a-f]{64}", checked.stdout)
    assert found, checked.stdout
    return found[0]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [find_jinkud(), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=clean_environment(),
    )  # fmt: skip


def mark_of(directory: Path) -> bytes:
    """The sealed mark of a replay under way; empty if there is none yet."""
    scratch = directory / "data" / "ledger" / "fsck"
    try:
        with (
            lmdb.open(str(scratch), readonly=True, lock=False, max_dbs=128) as env,
            env.begin() as txn,
        ):
            handle = env.open_db(b"%d" % layout.CHECKPOINTS, txn, create=False)
            return bytes(txn.get(b"mark", b"", db=handle))
    except lmdb.Error:
        return b""


# ── fsck ────────────────────────────────────────────────────────────────────────────────────────


def test_a_killed_fsck_goes_on(large: Path) -> None:
    checking = start("fsck", *config_of(large))
    deadline = time.monotonic() + 60
    while not mark_of(large):
        assert checking.poll() is None
        assert time.monotonic() < deadline
    checking.kill()
    checking.communicate()
    again = run_jinkud("fsck", *config_of(large))
    assert again.returncode == 0, again.stderr
    went_on = re.search(r"^replay (\d+)/(\d+), \d+ %$", again.stderr, re.MULTILINE)
    assert went_on, again.stderr
    assert int(went_on[1]) >= 10_000
    assert not (large / "data" / "ledger" / "fsck").exists()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_fsck_killed_at_any_instant_goes_on(large: Path) -> None:
    chance = random.Random(7)
    root = root_of(large).rpartition(" ")[2]
    began = time.monotonic()
    assert run_jinkud("fsck", *config_of(large)).returncode == 0
    usual = time.monotonic() - began
    went_on = ended = 0
    count = how_many(60)
    for number in range(count):
        checking = start("fsck", *config_of(large))
        # Every other one when there is something to go on from.
        while number % 2 and not mark_of(large) and checking.poll() is None:
            time.sleep(0.005)
        try:
            checking.wait(chance.uniform(0, usual / 4 if number % 2 else 2 * usual))
        except subprocess.TimeoutExpired:
            checking.kill()
        said, errors = checking.communicate()
        went_on += bool(re.search(rb"^resume (\d+)/\1$", errors, re.MULTILINE))
        if checking.returncode == 0:
            ended += 1
            assert root.encode() in said
        else:
            assert checking.returncode == -9, errors
        print(f"kill {number + 1} of {count}: {went_on} went on, {ended} ended", flush=True)
    # Of few, all may have been of one kind.
    assert count < 30 or min(went_on, ended) > count // 12
    whole = run_jinkud("fsck", *config_of(large))
    assert whole.returncode == 0, whole.stderr


def test_an_interrupted_fsck_is_no_finding(large: Path) -> None:
    # Where the tests themselves were started to ignore it, as behind a shell's `&`, so would it be.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    checking = start("fsck", *config_of(large))
    signal.signal(signal.SIGINT, before)
    while not (large / "data" / "ledger" / "fsck").exists():
        assert checking.poll() is None
        time.sleep(0.01)
    checking.send_signal(signal.SIGINT)
    _, errors = checking.communicate(timeout=30)
    assert checking.returncode == 130, errors
    assert b"Traceback" not in errors


def test_on_a_terminal_one_line_changes(tmp_path: Path) -> None:
    directory = found(tmp_path)
    controller, terminal = pty.openpty()
    answer = subprocess.run(
        [find_jinkud(), "fsck", *config_of(directory)], stdout=subprocess.PIPE, stderr=terminal,
        check=True, env=clean_environment(),
    )  # fmt: skip
    os.close(terminal)
    shown = os.read(controller, 1 << 16)
    os.close(controller)
    assert answer.stdout.startswith(b"sound: 1 entries")
    assert b"\rreplay 1/1\x1b[K" in shown


# ── backup ──────────────────────────────────────────────────────────────────────────────────────


def kill_backing_up(directory: Path, output: Path, cycles: int, seed: int) -> None:
    """Kill it at random instants: there is a whole backup or none, and nothing is kept from LMDB."""
    chance = random.Random(seed)
    options = ["--output", str(output), *config_of(directory)]
    began = time.monotonic()
    assert run_jinkud("backup", *options).returncode == 0
    usual = time.monotonic() - began
    for number in range(cycles):
        shutil.rmtree(output, ignore_errors=True)
        backing_up = start("backup", *options)
        try:
            backing_up.wait(chance.uniform(0.2 * usual, 1.1 * usual))
        except subprocess.TimeoutExpired:
            backing_up.kill()
        backing_up.communicate()
        assert (output / "manifest.json").exists() == output.exists()
        print(
            f"kill {number + 1} of {cycles}: {'whole' if output.exists() else 'none'}", flush=True
        )
    shutil.rmtree(output, ignore_errors=True)
    made = run_jinkud("backup", *options)
    assert made.returncode == 0, made.stderr
    assert [path.name for path in output.parent.iterdir() if "partial" in path.name] == []
    with lmdb.open(str(directory / "data" / "ledger"), readonly=True, max_dbs=128) as env:
        assert env.reader_check() == 0


def test_killed_while_backing_up(large: Path, tmp_path: Path) -> None:
    kill_backing_up(large, tmp_path / "backup", 2, seed=3)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_while_backing_up_many_times(large: Path, tmp_path: Path) -> None:
    kill_backing_up(large, tmp_path / "backup", how_many(100), seed=4)


# ── compact ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A realm whose files have room to give back: its tables were rewritten again and again."""
    directory = found(tmp_path)
    fill(directory, 3_000)
    return directory


def test_compacted_and_the_same(sparse: Path) -> None:
    expected = root_of(sparse)
    data = sparse / "data" / "ledger" / "data.mdb"
    before = data.stat().st_size
    done = run_jinkud("compact", *config_of(sparse))
    assert done.returncode == 0, done.stderr
    after = data.stat().st_size
    assert f"ledger: {before} bytes before, {after} now" in done.stdout
    assert after < before
    assert (data.stat().st_mode & 0o777, root_of(sparse)) == (0o600, expected)
    whole = run_jinkud("fsck", *config_of(sparse))
    assert whole.returncode == 0, whole.stderr
    assert {path.name for path in data.parent.iterdir()} <= {
        "data.mdb", "lock.mdb", "newest", "owner.lock",
    }  # fmt: skip


def test_compact_refuses_a_running_service(sparse: Path) -> None:
    data = sparse / "data" / "ledger" / "data.mdb"
    with daemon(sparse / "jinku.toml"):
        inode = data.stat().st_ino
        refused = run_jinkud("compact", *config_of(sparse))
        assert (refused.returncode, "another process" in refused.stderr) == (3, True)
        assert data.stat().st_ino == inode


def test_compact_names_damage_and_leaves_the_file(sparse: Path) -> None:
    data = sparse / "data" / "ledger" / "data.mdb"
    content = bytearray(data.read_bytes())
    for page in range(8192, len(content), 4096):
        content[page : page + 16] = b"\xff" * 16
    data.write_bytes(content)
    refused = run_jinkud("compact", *config_of(sparse))
    assert refused.returncode == 1, refused.stderr
    assert "the ledger is not sound: the ledger's file" in refused.stderr
    assert data.read_bytes() == content


def limited(limit: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Under one of the shell's limits, made by it: gRPC's threads bear no fork of ours."""
    return subprocess.run(
        ["sh", "-c", f'ulimit {limit} && exec "$@"', "sh", find_jinkud(), *arguments],
        capture_output=True, text=True, check=False, env=clean_environment(**environment),
    )  # fmt: skip


def test_no_room_is_no_finding(sparse: Path, tmp_path: Path) -> None:
    """Neither for a backup nor for a smaller file, wherever the room ends: nothing is left behind,
    nothing is changed.
    """
    data = sparse / "data" / "ledger" / "data.mdb"
    expected, before = root_of(sparse), set(data.parent.iterdir())
    whole = tmp_path / "whole"
    made = run_jinkud("backup", "--output", str(whole), *config_of(sparse))
    assert made.returncode == 0, made.stderr
    blocks = (whole / "ledger" / "data.mdb").stat().st_size // 512
    # In the middle of the copy, and at its end: what is stamped after it takes the last pages.
    for blocks_max in (blocks // 2, *range(blocks - 32, blocks, 8)):
        for arguments in (["backup", "--output", str(tmp_path / "backup")], ["compact"]):
            refused = limited(f"-f {blocks_max}", *arguments, *config_of(sparse))
            assert (refused.returncode, "make room" in refused.stderr) == (2, True), refused.stderr
            assert not list(tmp_path.glob("backup*"))
            assert set(data.parent.iterdir()) == before
    assert root_of(sparse) == expected
    done = limited(f"-f {blocks}", "compact", *config_of(sparse))
    assert done.returncode == 0, done.stderr


def test_no_memory_for_the_map_is_no_finding(tmp_path: Path) -> None:
    """Of the service itself, beside which the file could be read."""
    config, tebibytes = config_of(found(tmp_path)), {"JINKU_STORAGE__LEDGER_MAP_GIB": "16384"}
    refused = limited(f"-v {8 << 30}", "fsck", *config, **tebibytes)
    assert refused.returncode == 2, refused.stderr
    assert "data/ledger: Cannot allocate memory" in refused.stderr
    assert "Traceback" not in refused.stderr


# ── what may not be read or written ─────────────────────────────────────────────────────────────


def without_privilege(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command whose files' modes hold for it, also where the tests are root's."""
    dropped = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    return subprocess.run(
        [*(dropped if os.geteuid() == 0 else []), find_jinkud(), *arguments],
        capture_output=True, text=True, check=False, env=clean_environment(),
    )  # fmt: skip


@pytest.mark.parametrize("command", ["fsck", "compact", "backup", "serve"])
@pytest.mark.parametrize("mode", [0o000, 0o400])
def test_a_file_of_another_user_is_no_finding(tmp_path: Path, mode: int, command: str) -> None:
    directory = found(tmp_path)
    data = directory / "data" / "ledger" / "data.mdb"
    options = ["--output", str(tmp_path / "backup")] if command == "backup" else []
    data.chmod(mode)
    refused = without_privilege(command, *options, *config_of(directory))
    data.chmod(0o600)
    if (mode, command) == (0o400, "backup"):
        # It reads, and no more.
        assert refused.returncode == 0, refused.stderr
        return
    assert refused.returncode == 2, refused.stderr
    assert "data.mdb" in refused.stderr
    assert "the service's user" in refused.stderr
    for wrong in ("Traceback", "not sound", "make room"):
        assert wrong not in refused.stderr
    # Nor is it left marked as suspect.
    assert (data.parent / "owner.lock").read_bytes() == b"\0"


def test_a_directory_that_may_not_be_written_has_room_enough(tmp_path: Path) -> None:
    directory = found(tmp_path)
    ledger = directory / "data" / "ledger"
    ledger.chmod(0o500)
    refused = without_privilege("fsck", *config_of(directory))
    ledger.chmod(0o700)
    assert refused.returncode == 2, refused.stderr
    assert "ledger/fsck: Permission denied" in refused.stderr
    assert "room" not in refused.stderr


def kill_compacting(directory: Path, cycles: int, seed: int) -> int:
    """Kill it at random instants; how often it had come to its end."""
    chance = random.Random(seed)
    expected, ended = root_of(directory), 0
    began = time.monotonic()
    assert run_jinkud("compact", *config_of(directory)).returncode == 0
    usual = time.monotonic() - began
    for number in range(cycles):
        compacting = start("compact", *config_of(directory))
        try:
            compacting.wait(chance.uniform(0.3 * usual, 1.1 * usual))
        except subprocess.TimeoutExpired:
            compacting.kill()
        _, errors = compacting.communicate()
        ended += compacting.returncode == 0
        assert compacting.returncode in {0, -9}, errors
        assert root_of(directory) == expected
        print(f"kill {number + 1} of {cycles}: {ended} had ended", flush=True)
    whole = run_jinkud("fsck", *config_of(directory))
    assert whole.returncode == 0, whole.stderr
    return ended


def test_killed_while_compacting(sparse: Path) -> None:
    kill_compacting(sparse, 2, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_while_compacting_many_times(sparse: Path) -> None:
    count = how_many(150)
    assert kill_compacting(sparse, count, seed=2) > count // 30 or count < 30
