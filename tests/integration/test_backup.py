"""A backup taken under load, put back on another machine: nothing that was acknowledged is missing.

All through the commands and the API: `jinkud` over mutual TLS, `jinkud backup`, `backup-keys`,
`restore-keys`, `restore`, and `jinku ledger verify`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jinku.commands import CommandIds
from jinku.demo.service import Service, find_jinkud
from jinku.errors import require_accepted
from jinku.ledger import LedgerClient
from jinku.load import LoadPortal, Plan
from jinku.notes import VerifierKey, check_consistency, open_checkpoint
from jinku.registry import RegistryClient
from jinku.softtags import SoftTag
from jinku.type.v1.place_pb2 import ContainerKind
from jinku.v1.ledger_pb2 import (
    GetCheckpointRequest,
    GetConsistencyProofRequest,
    GetEntryRequest,
)
from jinku.v1.registry_pb2 import GetContainerRequest, RegisterContainerRequest
from process import clean_environment, run_jinkud
from served_realm import PORTAL, Realm, serve
from soak import how_many

pytestmark = pytest.mark.timeout(240)
WRITERS = 4
PASSPHRASES = ("correct horse battery staple", "the second person's own words")


@dataclass
class Load:
    """Registrars that write as fast as they are answered, and a portal that streams."""

    realm: Realm
    tags: list[SoftTag]
    # (entry index, receipt, label) of every command, noted when its answer is here.
    acknowledged: list[tuple[int, bytes, str]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    failures: list[BaseException] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        works = [(self.write, number) for number in range(WRITERS)]
        for work, number in [*works, (self.stream, 0)]:
            thread = threading.Thread(target=self.guard, args=(work, number), daemon=True)
            self.threads.append(thread)
            thread.start()

    def guard(self, work: object, number: int) -> None:
        try:
            assert callable(work)
            work(number)
        except Exception as error:
            if not self.stopping.is_set():
                self.failures.append(error)

    def write(self, writer: int) -> None:
        service = self.realm.service
        ids = CommandIds(service.directory / f"writer-{writer}.json", block=4096)
        with service.connect("service", "registrar").open() as channel:
            registry = RegistryClient(channel, ids)
            number = 0
            while not self.stopping.is_set():
                number += 1
                label = f"W{writer}-{number:05d}"
                answer = registry.register_container(
                    RegisterContainerRequest(
                        institution_code="1", label=label, vault_code="V",
                        kind=ContainerKind.CONTAINER_KIND_CASH_BOX,
                    )
                )  # fmt: skip
                require_accepted(answer.outcome)
                outcome = answer.outcome
                receipt = outcome.receipt.SerializeToString()
                self.acknowledged.append((outcome.entry_index, receipt, label))

    def stream(self, _: int) -> None:
        plan = Plan(batch_reads=16, seconds=600, rate=1600, near=2)
        with self.realm.service.connect("portal", PORTAL).open() as channel:
            portal = LoadPortal(channel, self.tags, plan)
            portal.prepare()
            while not self.stopping.is_set():
                portal.send(portal.prepared[portal.next % len(portal.prepared)])
                time.sleep(0.005)
            portal.client.abandon()

    def wait_for(self, more: int) -> None:
        enough = len(self.acknowledged) + more
        deadline = time.monotonic() + 60
        while len(self.acknowledged) < enough and not self.failures:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert self.failures == []

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)


@dataclass(frozen=True)
class Taken:
    """What there is after the catastrophe, and what clients remember."""

    backup: Path
    keys: Path
    certificates: Path
    target: str
    verifier_key: str
    checkpoint: str
    # Acknowledged before `jinkud backup` was started; and before it had ended.
    before: list[tuple[int, bytes, str]]
    until: list[tuple[int, bytes, str]]


@pytest.fixture(scope="module")
def passphrases(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("persons")
    options = []
    for number, passphrase in enumerate(PASSPHRASES):
        path = directory / str(number)
        path.write_text(passphrase + "\n")
        options += ["--passphrase-file", str(path)]
    return options


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory, passphrases: list[str]) -> Iterator[Taken]:
    root = tmp_path_factory.mktemp("bank")
    service = Service(root / "realm")
    service.initialise()
    with service.config.open("a") as settings:
        # So that segments are sealed while the backup is taken.
        settings.write("\n[readlog]\nsegment_batches_max = 8\n")
    service.start()
    try:
        yield catastrophe(root, service, passphrases)
    finally:
        if service.process is not None:
            service.process.kill()
            service.process.wait()


def catastrophe(root: Path, service: Service, passphrases: list[str]) -> Taken:
    """Load, a backup in the middle of it, and the machine's end by kill -9."""
    realm = Realm(service)
    realm.found()
    tags = realm.personalise(*(realm.add_tagged_box()[1] for _ in range(4)))
    with service.connect("service", "auditor").open() as channel:
        load = Load(realm, tags)
        load.start()
        load.wait_for(150)
        answer = LedgerClient(channel).get_checkpoint(GetCheckpointRequest())
        before = list(load.acknowledged)
        config = str(service.config)
        made = run_jinkud("backup", "--config", config, "--output", str(root / "backup"))
        assert made.returncode == 0, made.stderr
        until = list(load.acknowledged)
        load.wait_for(50)
        sealed = run_jinkud(
            "backup-keys", "--config", config, "--output", str(root / "keys.sealed"), *passphrases
        )
        assert sealed.returncode == 0, sealed.stderr
        assert service.process is not None
        load.stopping.set()
        service.process.kill()
        load.stop()
    assert load.failures == []
    assert len(until) > len(before), "nothing was acknowledged while the backup was taken"
    shutil.copytree(service.directory / "certificates", root / "certificates")
    shutil.rmtree(service.directory)
    return Taken(
        backup=root / "backup",
        keys=root / "keys.sealed",
        certificates=root / "certificates",
        target=service.target,
        verifier_key=answer.verifier_key,
        checkpoint=answer.checkpoint,
        before=before,
        until=until,
    )


@pytest.fixture(scope="module")
def prepared(
    taken: Taken, tmp_path_factory: pytest.TempPathFactory, passphrases: list[str]
) -> Path:
    """Another machine: settings of the backup, keys of their own file, the bank's certificates."""
    directory = tmp_path_factory.mktemp("prepared") / "elsewhere"
    directory.mkdir()
    shutil.copy(taken.backup / "jinku.toml", directory)
    shutil.copytree(taken.certificates, directory / "certificates")
    keys = str(directory / "keys")
    made = run_jinkud("restore-keys", "--from", str(taken.keys), "--directory", keys, *passphrases)
    assert made.returncode == 0, made.stderr
    return directory


@pytest.fixture
def machine(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "elsewhere")


def restore(machine: Path, backup: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """As another user would, from another place."""
    config, home = machine / "jinku.toml", machine / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [find_jinkud(), "restore", "--config", str(config), "--from", str(backup), *options],
        capture_output=True, text=True, check=False, cwd=home,
        env=clean_environment(HOME=str(home)),
    )  # fmt: skip


@pytest.mark.req("APP-05")
def test_nothing_acknowledged_is_missing_on_another_machine(taken: Taken, machine: Path) -> None:
    restored = restore(machine, taken.backup)
    assert restored.returncode == 0, restored.stderr
    assert "After a restore" in restored.stdout
    size = json.loads((taken.backup / "manifest.json").read_text())["tree_size"]
    assert f"sound: {size} entries" in restored.stdout
    counts = re.search(r"read log of (\d+) batches, .*; (\d+) segments", restored.stdout)
    assert counts, restored.stdout
    assert min(map(int, counts.groups())) > 0
    key = VerifierKey.parse(taken.verifier_key)
    service = Service(machine)
    service.target = taken.target
    service.start()
    try:
        with service.connect("service", "auditor").open() as channel:
            ledger = LedgerClient(channel)
            newest = open_checkpoint(ledger.get_checkpoint(GetCheckpointRequest()).checkpoint, key)
            # The restored journal goes on from what the clients had seen.
            old = open_checkpoint(taken.checkpoint, key)
            request = GetConsistencyProofRequest(
                first_tree_size=old.tree_size, second_tree_size=newest.tree_size
            )
            proof = ledger.get_consistency_proof(request).consistency_proof
            check_consistency(
                old.tree_size, newest.tree_size, old.root_hash, newest.root_hash, proof
            )
            # Every entry that was answered before, to the byte; of those meanwhile, no other one.
            for index, receipt, _ in taken.until:
                if index < size:
                    entry = ledger.get_entry(GetEntryRequest(entry_index=index))
                    assert entry.receipt.SerializeToString() == receipt
            assert {index for index, _, _ in taken.before} <= set(range(size))
        check_state(service, taken)
    finally:
        assert service.stop() == 0
    checked = run_jinkud("fsck", "--config", str(service.config))
    assert checked.returncode == 0, checked.stderr


def check_state(service: Service, taken: Taken) -> None:
    """What the commands made is there; new ones are taken; a receipt of before proves it offline."""
    with service.connect("service", "registrar").open() as channel:
        ids = CommandIds(service.directory / "ids.json")
        registry = RegistryClient(channel, ids)
        for _, _, label in taken.before[::20]:
            assert registry.get_container(GetContainerRequest(label=label)).found
        answer = registry.register_container(
            RegisterContainerRequest(
                institution_code="1", label="after-the-restore", vault_code="V",
                kind=ContainerKind.CONTAINER_KIND_CASH_BOX,
            )
        )  # fmt: skip
        require_accepted(answer.outcome)
    receipt = service.directory / "receipt"
    receipt.write_bytes(taken.before[-1][1])
    jinku = str(Path(sys.executable).with_name("jinku"))
    verified = subprocess.run(
        [jinku, "ledger", "verify", str(receipt), "--key", taken.verifier_key],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stderr


def test_the_first_start_verifies_everything_again(taken: Taken, machine: Path) -> None:
    """Damage done between the restore and the first start is named by that."""
    assert restore(machine, taken.backup, "--hashes-only").returncode == 0
    assert (machine / "data" / "ledger" / "owner.lock").read_bytes() == b"\x01"
    data = machine / "data" / "ledger" / "data.mdb"
    content = bytearray(data.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64 * 4096] = os.urandom(64 * 4096)
    data.write_bytes(content)
    started = run_jinkud("serve", "--config", str(machine / "jinku.toml"))
    assert started.returncode == 1, started.stderr
    assert "the ledger is not sound" in started.stderr


@pytest.mark.req("APP-05")
@pytest.mark.parametrize(
    ("how", "name"),
    [
        *((how, "ledger/data.mdb") for how in ("cut", "altered", "manifest")),
        *((how, "readlog/data.mdb") for how in ("missing", "swapped")),
    ],
)
def test_a_spoilt_backup_is_refused(
    taken: Taken, machine: Path, tmp_path: Path, how: str, name: str
) -> None:
    backup = shutil.copytree(taken.backup, tmp_path / "spoilt")
    path = backup / name
    named = name
    if how == "cut":
        os.truncate(path, path.stat().st_size - 4096)
    elif how == "altered":
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    elif how == "missing":
        path.unlink()
    elif how == "swapped":
        other = backup / ("readlog/data.mdb" if name.startswith("ledger") else "ledger/data.mdb")
        shutil.copy(other, path)
    else:
        manifest = json.loads((backup / "manifest.json").read_text())
        (listed,) = [file for file in manifest["files"] if file["path"] == name]
        path.write_bytes(b"something else")
        listed["bytes"] = path.stat().st_size
        listed["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (backup / "manifest.json").write_text(json.dumps(manifest))
        named = "manifest.json: was altered"
    refused = restore(machine, backup)
    assert refused.returncode == 1
    assert named in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (machine / "data").exists()
    assert not (machine / "data.partial").exists()


def test_other_keys_open_no_backup(taken: Taken, machine: Path, tmp_path: Path) -> None:
    unfinished = restore(machine, tmp_path)
    assert (unfinished.returncode, "a finished backup?" in unfinished.stderr) == (1, True)
    (machine / "keys" / "realm.key").write_bytes(bytes(32))
    refused = restore(machine, taken.backup)
    assert (refused.returncode, "other keys" in refused.stderr) == (1, True)


def test_nothing_is_overwritten(taken: Taken, machine: Path, tmp_path: Path) -> None:
    (machine / "data").mkdir()
    assert restore(machine, taken.backup, "--hashes-only").returncode == 0
    before = (machine / "data" / "ledger" / "data.mdb").read_bytes()
    again = restore(machine, taken.backup)
    assert (again.returncode, "never overwritten" in again.stderr) == (2, True)
    assert (machine / "data" / "ledger" / "data.mdb").read_bytes() == before
    config = str(machine / "jinku.toml")
    for command, there in (("backup", taken.backup), ("backup-keys", taken.keys)):
        options = []
        digest = tree_digest(taken.backup.parent)
        if command == "backup-keys":
            for number, passphrase in enumerate(PASSPHRASES):
                (tmp_path / str(number)).write_text(passphrase)
                options += ["--passphrase-file", str(tmp_path / str(number))]
        refused = run_jinkud(command, "--config", config, "--output", str(there), *options)
        assert (refused.returncode, "never overwritten" in refused.stderr) == (2, True)
        assert tree_digest(taken.backup.parent) == digest


def tree_digest(directory: Path) -> str:
    hashed = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        hashed.update(str(path).encode())
        if path.is_file():
            hashed.update(path.read_bytes())
    return hashed.hexdigest()


@pytest.mark.req("APP-05")
def test_no_key_is_in_a_backup(taken: Taken, machine: Path) -> None:
    secrets = [path.read_bytes() for path in (machine / "keys").rglob("*") if path.is_file()]
    assert len(secrets) >= 2
    files = [path for path in taken.backup.rglob("*") if path.is_file()]
    for content in [*(path.read_bytes() for path in files), taken.keys.read_bytes()]:
        for secret in secrets:
            assert secret not in content
            assert secret.hex().encode() not in content
            assert secret[:16] not in content


def test_a_key_file_needs_both_persons(taken: Taken, tmp_path: Path) -> None:
    first, second, wrong = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    first.write_text(PASSPHRASES[0])
    second.write_text(PASSPHRASES[1])
    wrong.write_text("somebody else's phrase")
    altered = tmp_path / "altered"
    content = bytearray(taken.keys.read_bytes())
    content[-20] ^= 1
    altered.write_bytes(content)
    for source, persons in (
        (taken.keys, (first, wrong)),
        (taken.keys, (second, first)),
        (altered, (first, second)),
    ):
        options = [word for path in persons for word in ("--passphrase-file", str(path))]
        keys = str(tmp_path / "keys")
        refused = run_jinkud("restore-keys", "--from", str(source), "--directory", keys, *options)
        assert (refused.returncode, "does not open" in refused.stderr) == (1, True)
        assert not (tmp_path / "keys").exists()
    short = tmp_path / "short"
    short.write_text("too short")
    config = quiet(tmp_path)
    for persons in ((first,), (first, first), (first, short)):
        options = [word for path in persons for word in ("--passphrase-file", str(path))]
        output = str(tmp_path / "sealed")
        refused = run_jinkud("backup-keys", "--config", config, "--output", output, *options)
        assert (refused.returncode, "passphrases:" in refused.stderr) == (2, True)
        keys = str(tmp_path / "keys")
        refused = run_jinkud(
            "restore-keys", "--from", str(taken.keys), "--directory", keys, *options
        )
        assert (refused.returncode, "passphrases:" in refused.stderr) == (2, True)


def quiet(tmp_path: Path) -> str:
    """The settings of a realm that nobody serves."""
    service = Service(tmp_path / "quiet")
    service.initialise()
    return str(service.config)


def test_what_a_running_service_keeps_is_in_its_backup(tmp_path: Path) -> None:
    """A new kind of file in the storage directory is either copied or named here."""
    rebuilt = {"lock.mdb", "newest", "owner.lock", "tag-index.snapshot"}
    with serve(tmp_path / "realm") as realm:
        realm.add_tagged_box()
        data = realm.service.directory / "data"
        kept = {path.relative_to(data) for path in data.rglob("*") if path.is_file()}
        config, output = str(realm.service.config), tmp_path / "backup"
        made = run_jinkud("backup", "--config", config, "--output", str(output))
        assert made.returncode == 0, made.stderr
    copied = {path.relative_to(output) for path in output.rglob("*") if path.is_file()}
    assert {path for path in kept - copied if path.name not in rebuilt} == set()


def test_two_sides_do_not_meet(tmp_path: Path) -> None:
    """A backup of a stopped service works; while one is taken nothing is compacted under it."""
    config, data = quiet(tmp_path), tmp_path / "quiet" / "data"
    descriptor = os.open(data, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    made = run_jinkud("backup", "--config", config, "--output", str(tmp_path / "a"))
    assert made.returncode == 0, made.stderr
    refused = run_jinkud("compact", "--config", config)
    assert (refused.returncode, "a backup is being taken" in refused.stderr) == (3, True)
    os.close(descriptor)
    descriptor = os.open(data, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    refused = run_jinkud("backup", "--config", config, "--output", str(tmp_path / "b"))
    assert (refused.returncode, "is being compacted" in refused.stderr) == (3, True)
    os.close(descriptor)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_backups_of_one_instant_under_load(tmp_path: Path) -> None:
    """Each is whole and sound, journal against read log too, with all that was answered before."""
    service = Service(tmp_path / "realm")
    service.initialise()
    with service.config.open("a") as settings:
        settings.write("\n[readlog]\nsegment_batches_max = 8\n")
    service.start()
    try:
        realm = Realm(service)
        realm.found()
        tags = realm.personalise(*(realm.add_tagged_box()[1] for _ in range(4)))
        load = Load(realm, tags)
        load.start()
        count = how_many(25)
        for number in range(count):
            load.wait_for(100)
            before = max(index for index, _, _ in load.acknowledged)
            backup, machine = tmp_path / "backup", tmp_path / "machine"
            options = ["--config", str(service.config), "--output", str(backup)]
            # It shares two processors with the load, and the ledger grows: no limit of time.
            made = subprocess.run(
                [find_jinkud(), "backup", *options], capture_output=True, text=True, check=False
            )
            assert made.returncode == 0, made.stderr
            assert json.loads((backup / "manifest.json").read_text())["tree_size"] > before
            shutil.copytree(service.directory / "keys", machine / "keys")
            shutil.copy(backup / "jinku.toml", machine)
            restored = restore(machine, backup)
            assert restored.returncode == 0, restored.stderr
            shutil.rmtree(machine)
            shutil.rmtree(backup)
            print(f"backup {number + 1} of {count}: {before + 1} entries", flush=True)
        load.stop()
        assert load.failures == []
    finally:
        service.stop()
