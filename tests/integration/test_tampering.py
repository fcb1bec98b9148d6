"""Somebody with an LMDB tool and time: what the verifier names, and what the service never answers.

The realm is made through the API over mutual TLS; the damage is done to the files of the stopped
service; `jinkud fsck`, `jinku ledger verify` and clients find it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import put_back
import wrong_jinkud
from core.files import DATA_FILE
from core.keys import RealmKeys
from core.ledger import layout
from core.ledger.ledger import Ledger
from core.ledger.tables import CONTAINERS, HISTORY, TABLES, TAGS
from jinku.commands import CommandIds
from jinku.demo.service import Service
from jinku.errors import CallFailed, ServiceUnavailable, require_accepted
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.entry_pb2 import Outcome as EntryOutcome
from jinku.ledger import LedgerClient
from jinku.notes import VerifierKey, check_consistency, open_checkpoint
from jinku.receipts import verify
from jinku.registry import RegistryClient
from jinku.type.v1.tag_pb2 import TagState
from jinku.v1.common_pb2 import Receipt
from jinku.v1.ledger_pb2 import GetCheckpointRequest, GetConsistencyProofRequest, GetEntryRequest
from jinku.v1.registry_pb2 import (
    FreezeTagRequest,
    GetContainerRequest,
    RegisterContainerRequest,
    RetireTagRequest,
    UnfreezeTagRequest,
)
from process import run_jinkud
from served_realm import serve

pytestmark = pytest.mark.timeout(180)
JOURNAL, NODES, CHECKPOINTS = layout.JOURNAL, layout.NODES, layout.CHECKPOINTS
BOXES = 6
TRUST_DOMAIN = "demonstration.jinku.example"
Change = put_back.Change


@dataclass(frozen=True)
class Bank:
    """A stopped realm: what its clients remember of it."""

    directory: Path
    target: str
    verifier_key: str
    checkpoint: str
    receipts: list[bytes]
    labels: list[str]
    tag_ids: list[bytes]
    identities: list[bytes]
    # The data before the first box's tag was frozen.
    older: Path

    @property
    def size(self) -> int:
        return len(self.receipts)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    root = tmp_path_factory.mktemp("bank")
    with serve(root / "realm") as realm:
        boxes = [realm.add_tagged_box() for _ in range(BOXES)]
        made = run_jinkud(
            "backup", "--config", str(realm.service.config), "--output", str(root / "older")
        )
        assert made.returncode == 0, made.stderr
        request = FreezeTagRequest(identity=boxes[0][1], note="lost")
        require_accepted(realm.registry.freeze_tag(request).outcome)
        with realm.service.connect("service", "auditor").open() as channel:
            ledger = LedgerClient(channel)
            answer = ledger.get_checkpoint(GetCheckpointRequest())
            key = VerifierKey.parse(answer.verifier_key)
            size = open_checkpoint(answer.checkpoint, key).tree_size
            receipts = [receipt_of(ledger, index) for index in range(size)]
        tags = [find(realm.registry, label).tags[0].tag_id for label, _ in boxes]
        target = realm.service.target
    return Bank(
        root / "realm", target, answer.verifier_key, answer.checkpoint, receipts,
        [label for label, _ in boxes], tags, [identity for _, identity in boxes], root / "older",
    )  # fmt: skip


@pytest.fixture
def copy(bank: Bank, tmp_path: Path) -> Path:
    return shutil.copytree(bank.directory, tmp_path / "copy")


def receipt_of(ledger: LedgerClient, index: int) -> bytes:
    entry = ledger.get_entry(GetEntryRequest(entry_index=index))
    content: bytes = entry.receipt.SerializeToString()
    return content


def find(registry: RegistryClient, label: str) -> Any:
    return registry.get_container(GetContainerRequest(label=label))


@contextmanager
def served(bank: Bank, directory: Path) -> Iterator[Service]:
    service = Service(directory)
    service.target = bank.target
    service.start()
    try:
        yield service
    finally:
        service.stop()


@contextmanager
def registrar(service: Service) -> Iterator[RegistryClient]:
    with service.connect("service", "registrar").open() as channel:
        yield RegistryClient(channel, CommandIds(service.directory / "more-ids.json"))


def rows(directory: Path, number: int) -> dict[bytes, bytes]:
    """As a plain LMDB tool reads them."""
    return put_back.rows(directory, number)


def edit(directory: Path, number: int, change: put_back.Change) -> None:
    """As a plain LMDB tool edits them."""
    put_back.edit(directory / "data" / "ledger", number, change)


def overwrite(directory: Path, stored: bytes, other: bytes) -> None:
    """Byte by byte in the file: LMDB knows nothing of it."""
    put_back.overwrite(directory / "data" / "ledger", stored, other)


def cut_clean(directory: Path, last: int) -> None:
    """Entry `last` with its checkpoint and its nodes, as if it had never been."""
    gone, end = layout.index_key(last), layout.index_key(last + 1)
    edit(directory, JOURNAL, lambda txn, db: txn.delete(gone, db=db))
    edit(directory, CHECKPOINTS, lambda txn, db: txn.delete(end, db=db))
    cut_nodes(directory, last)


def cut_nodes(directory: Path, last: int) -> None:
    level = 0
    while True:
        node = layout.node_key(level, last >> level)
        edit(directory, NODES, lambda txn, db, node=node: txn.delete(node, db=db))
        if not last >> level & 1:
            return
        level += 1


def fsck(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run_jinkud("fsck", "--config", str(directory / "jinku.toml"), *options)


def flipped(value: bytes) -> bytes:
    middle = len(value) // 2
    return value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]


# ── entries ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.req("MON-09", "APP-02")
@pytest.mark.parametrize("how", ["modified", "deleted", "swapped", "cut off", "cut clean"])
def test_one_entry_touched_is_named(bank: Bank, copy: Path, how: str) -> None:
    at, last = bank.size // 2, bank.size - 1
    key, after, end = (layout.index_key(index) for index in (at, at + 1, last))
    journal = rows(copy / "data" / "ledger", JOURNAL)
    assert sorted(journal) == [layout.index_key(index) for index in range(bank.size)]
    named = f"entry {at} and those committed with it: do not open"
    if how == "modified":
        edit(copy, JOURNAL, lambda txn, db: txn.put(key, flipped(journal[key]), db=db))
    elif how == "deleted":
        edit(copy, JOURNAL, lambda txn, db: txn.delete(key, db=db))
        named = f"entry {at}: is missing"
    elif how == "swapped":
        edit(copy, JOURNAL, lambda txn, db: txn.put(key, journal[after], db=db))
        edit(copy, JOURNAL, lambda txn, db: txn.put(after, journal[key], db=db))
    else:
        edit(copy, JOURNAL, lambda txn, db: txn.delete(end, db=db))
        gone = layout.index_key(bank.size)
        edit(copy, CHECKPOINTS, lambda txn, db: txn.delete(gone, db=db))
        named = f"of {last} entries: some were cut off"
    if how == "cut clean":
        # The nodes too, as far as they are of that entry: the tables still know it.
        cut_nodes(copy, last)
        named = f"row {bank.tag_ids[0].hex()}, first made by entry 5: is not what the journal makes"
    found = fsck(copy)
    assert (found.returncode, named in found.stderr) == (1, True), found.stderr
    if how == "modified":
        quick = fsck(copy, "--hashes-only")
        assert (quick.returncode, named in quick.stderr) == (1, True), quick.stderr


@pytest.mark.req("MON-09")
def test_every_change_says_who_when_where_and_by_which_rules(bank: Bank, tmp_path: Path) -> None:
    """Offline, with the receipts and the public key alone; a receipt with one bit changed is none."""
    before = 0
    for index, content in enumerate(bank.receipts):
        found = verify(Receipt.FromString(content), bank.verifier_key)
        header = found.header
        assert header.index == index
        assert header.principal.startswith("spiffe://demonstration.jinku.example/1/service/")
        assert header.policy_version
        assert header.command
        assert header.outcome == EntryOutcome.OUTCOME_ACCEPTED
        assert header.decided_at_ns >= before
        before = header.decided_at_ns
    frozen = Receipt.FromString(bank.receipts[-1])
    (event,) = verify(frozen, bank.verifier_key).events.events  # type: ignore[union-attr]
    assert event.tag_frozen.tag_id == bank.tag_ids[0]
    header = EntryHeader.FromString(frozen.header)
    header.principal = header.principal.replace("registrar", "auditor")
    forged = Receipt.FromString(bank.receipts[-1])
    forged.header = header.SerializeToString(deterministic=True)
    jinku = str(Path(sys.executable).with_name("jinku"))
    for receipt, code in ((frozen, 0), (forged, 4)):
        path = tmp_path / "receipt"
        path.write_bytes(receipt.SerializeToString())
        command = [jinku, "ledger", "verify", str(path), "--key", bank.verifier_key]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == code, answer.stderr


@pytest.mark.req("APP-02", "APP-03")
def test_a_touched_entry_is_never_answered(bank: Bank, copy: Path) -> None:
    at = bank.size // 2
    journal = rows(copy / "data" / "ledger", JOURNAL)
    key, after = layout.index_key(at), layout.index_key(at + 1)
    overwrite(copy, journal[key], flipped(journal[key]))
    # The entry of another box, of the same kind.
    overwrite(copy, journal[after], journal[layout.index_key(at - 1)])
    with served(bank, copy) as service, service.connect("service", "auditor").open() as channel:
        ledger = LedgerClient(channel)
        for index, receipt in enumerate(bank.receipts):
            if index in {at, at + 1}:
                with pytest.raises(CallFailed, match="INTERNAL"):
                    receipt_of(ledger, index)
            else:
                assert receipt_of(ledger, index) == receipt


# ── rows ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.req("APP-02", "APP-03")
@pytest.mark.parametrize("how", ["flipped", "swapped", "deleted", "put in", "older"])
def test_a_row_edited_with_a_tool_is_named(bank: Bank, copy: Path, how: str) -> None:
    first, second = bank.tag_ids[:2]
    tags = rows(copy / "data" / "ledger", TAGS.number)
    changes: dict[str, tuple[str, Change]] = {
        "flipped": (
            f"table 7 (Tag), row {first.hex()}, ",
            lambda txn, db: txn.put(first, flipped(tags[first]), db=db),
        ),
        "swapped": (
            f"table 7 (Tag), row {second.hex()}, ",
            lambda txn, db: txn.put(second, tags[first], db=db),
        ),
        "deleted": (
            f"table 7 (Tag), row {second.hex()}, ",
            lambda txn, db: txn.delete(second, db=db),
        ),
        "put in": (
            f"table 7 (Tag), row {bytes(16).hex()}",
            lambda txn, db: txn.put(bytes(16), tags[first], db=db),
        ),
        "older": (
            "is not what the journal makes of it: state differs",
            lambda txn, db: txn.put(first, rows(bank.older / "ledger", TAGS.number)[first], db=db),
        ),
    }
    named, change = changes[how]
    edit(copy, TAGS.number, change)
    found = fsck(copy)
    assert (found.returncode, named in found.stderr) == (1, True), found.stderr
    # The journal is as it was: whoever looks at it alone finds nothing, and is told what was not read.
    quick = fsck(copy, "--hashes-only")
    assert (quick.returncode, "were not verified" in quick.stdout) == (0, True)


@pytest.mark.req("APP-02", "APP-03")
def test_what_was_found_is_not_served_however_often_it_is_started(copy: Path) -> None:
    """A row that no start reads: only who verifies everything sees it, and what looks at less in between
    makes nobody forget it.
    """
    key, stored = max(rows(copy / "data" / "ledger", HISTORY.number).items())
    overwrite(copy, stored, flipped(stored))
    named = f"row {key.hex()}"
    found = fsck(copy)
    assert (found.returncode, named in found.stderr) == (1, True), found.stderr
    assert fsck(copy, "--hashes-only").returncode == 0
    for _ in range(2):
        refused = run_jinkud("serve", "--config", str(copy / "jinku.toml"))
        assert (refused.returncode, named in refused.stderr) == (1, True), refused.stderr


@pytest.mark.req("APP-02", "APP-03")
def test_an_older_file_put_back_alone_is_not_served(bank: Bank, copy: Path) -> None:
    kept = (copy / "data" / "ledger" / DATA_FILE).read_bytes()
    with served(bank, copy) as service, registrar(service) as registry:
        request = UnfreezeTagRequest(identity=bank.identities[0], note="found")
        require_accepted(registry.unfreeze_tag(request).outcome)
    (copy / "data" / "ledger" / DATA_FILE).write_bytes(kept)
    for run in (run_jinkud("serve", "--config", str(copy / "jinku.toml")), fsck(copy)):
        assert run.returncode == 1
        assert "an older copy was put back" in run.stderr


@pytest.mark.req("APP-02", "APP-03")
@pytest.mark.parametrize("how", ["older", "deleted", "written again", "cut clean", "in no table"])
def test_a_file_that_a_tool_wrote_to_is_not_served(bank: Bank, copy: Path, how: str) -> None:
    """Whatever it wrote. `fsck` says what, or that nothing is wrong."""
    first, second = bank.tag_ids[:2]
    older = rows(bank.older / "ledger", TAGS.number)[first]
    named = "is not what the journal makes of it: state differs"
    if how == "older":
        edit(copy, TAGS.number, lambda txn, db: txn.put(first, older, db=db))
    elif how == "deleted":
        edit(copy, TAGS.number, lambda txn, db: txn.delete(second, db=db))
        named = f"table 7 (Tag), row {second.hex()}, "
    elif how == "written again":
        edit(copy, TAGS.number, lambda txn, db: txn.put(second, txn.get(second, db=db), db=db))
        named = ""
    elif how == "in no table":
        edit(copy, 999, lambda txn, db: txn.put(b"key", b"value", db=db))
        named = ""
    else:
        cut_clean(copy, bank.size - 1)
        named = "is not what the journal makes"
    config = str(copy / "jinku.toml")
    refused = run_jinkud("serve", "--config", config)
    assert refused.returncode == 1
    assert "run `jinkud fsck`" in refused.stderr
    found = fsck(copy)
    if named:
        assert (found.returncode, named in found.stderr) == (1, True), found.stderr
        assert run_jinkud("serve", "--config", config).returncode == 1
        return
    # Proved from the first entry on, it is what this service wrote again.
    assert found.returncode == 0, found.stderr
    assert "by another program" in found.stdout
    with served(bank, copy) as service, registrar(service) as registry:
        assert find(registry, bank.labels[0]).tags[0].state == TagState.TAG_STATE_FROZEN


@pytest.mark.req("APP-02", "APP-03")
def test_an_edited_row_is_never_answered(bank: Bank, copy: Path) -> None:
    """Each of these boxes has another thing wrong with it, byte by byte; the last is as it was."""
    with served(bank, copy) as service, registrar(service) as registry:
        containers = [find(registry, label).container_id for label in bank.labels]
    stored = rows(copy / "data" / "ledger", CONTAINERS.number)
    overwrite(copy, stored[containers[1]], flipped(stored[containers[1]]))
    overwrite(copy, stored[containers[2]], stored[containers[0]])
    with served(bank, copy) as service, registrar(service) as registry:
        for label in bank.labels[1:3]:
            with pytest.raises(CallFailed, match="INTERNAL"):
                find(registry, label)
        assert find(registry, bank.labels[0]).tags[0].state == TagState.TAG_STATE_FROZEN
        assert find(registry, bank.labels[4]).tags[0].tag_id == bank.tag_ids[4]


@pytest.mark.req("APP-02", "APP-03")
def test_an_older_row_put_back_is_never_answered(bank: Bank, copy: Path) -> None:
    """Byte by byte, under the service that runs: what it opened was sound, and LMDB reads the file."""
    frozen = bank.tag_ids[0]
    now = rows(copy / "data" / "ledger", TAGS.number)[frozen]
    older = rows(bank.older / "ledger", TAGS.number)[frozen]
    with served(bank, copy) as service, registrar(service) as registry:
        assert find(registry, bank.labels[0]).tags[0].state == TagState.TAG_STATE_FROZEN
        overwrite(copy, now, older)
        for _ in range(3):
            with pytest.raises(CallFailed, match="INTERNAL"):
                find(registry, bank.labels[0])
        # Nobody freezes or unfreezes it on the strength of what stands there.
        request = UnfreezeTagRequest(identity=bank.identities[0], note="found")
        with pytest.raises(CallFailed, match="INTERNAL"):
            registry.unfreeze_tag(request)
        assert find(registry, bank.labels[1]).tags[0].state == TagState.TAG_STATE_ACTIVE
        assert service.is_running()
    # The tag index is made of every row of the tags.
    refused = run_jinkud("serve", "--config", str(copy / "jinku.toml"))
    assert refused.returncode == 1
    assert f"row {frozen.hex()}: is an older version, put back" in refused.stderr
    found = fsck(copy)
    assert "is not what the journal makes of it: state differs" in found.stderr
    # What fsck has found is looked for by every start, all of it.
    refused = run_jinkud("serve", "--config", str(copy / "jinku.toml"))
    assert refused.returncode == 1
    assert "is not what the journal makes of it: state differs" in refused.stderr


def test_a_service_that_believes_its_rows_answers_the_older_one(bank: Bank, copy: Path) -> None:
    """What the test before would find: without the marks nothing else tells the two apart."""
    frozen = bank.tag_ids[0]
    now = rows(copy / "data" / "ledger", TAGS.number)[frozen]
    service = Believing(copy)
    service.target = bank.target
    service.start()
    try:
        with registrar(service) as registry:
            overwrite(copy, now, rows(bank.older / "ledger", TAGS.number)[frozen])
            assert find(registry, bank.labels[0]).tags[0].state == TagState.TAG_STATE_ACTIVE
    finally:
        service.stop()


class Believing(Service):
    """`jinkud` without the marks of current rows."""

    def launch(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, wrong_jinkud.__file__, "believe_rows", "serve"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--config", str(self.config)], stdout=log, stderr=log
            )
        return self.process


@pytest.mark.req("APP-02")
def test_a_write_beside_the_running_service_stops_it(bank: Bank, copy: Path) -> None:
    frozen = bank.tag_ids[0]
    older = rows(bank.older / "ledger", TAGS.number)[frozen]
    with served(bank, copy) as service, registrar(service) as registry:
        request = UnfreezeTagRequest(identity=bank.identities[0], note="found")
        put_back.put_beside(copy / "data" / "ledger", TAGS.number, frozen, older)
        with pytest.raises(CallFailed):
            registry.unfreeze_tag(request)
        # Refused, or cut by the end of the process.
        with pytest.raises((CallFailed, ServiceUnavailable)):
            find(registry, bank.labels[0])
        assert service.process is not None
        assert service.process.wait(20) == 70
        assert "LedgerCorrupt" in service.tail()
    assert fsck(copy).returncode == 1


@pytest.mark.req("APP-02")
@pytest.mark.parametrize("how", ["deleted", "older", "flipped"])
def test_without_its_marks_a_ledger_is_verified_before_it_is_served(
    bank: Bank, copy: Path, how: str
) -> None:
    """The file beside it that says which rows are the current ones."""
    marks = copy / "data" / "ledger" / "marks"
    ledger = Ledger(marks.parent, RealmKeys.load(copy / "keys"), 1, TRUST_DOMAIN, map_gib=64)
    with ledger.read() as state:
        tag = state.get(TAGS, bank.tag_ids[1])
    ledger.save_marks()
    older = marks.read_bytes()
    ledger.close()
    for _ in range(2):
        with served(bank, copy) as service, registrar(service) as registry:
            for request in (FreezeTagRequest, UnfreezeTagRequest):
                outcome = request(identity=bank.identities[1], note="seen")
                call = registry.freeze_tag if request is FreezeTagRequest else registry.unfreeze_tag
                require_accepted(call(outcome).outcome)
        ledger = Ledger(marks.parent, RealmKeys.load(copy / "keys"), 1, TRUST_DOMAIN, map_gib=64)
        assert ledger.doubt == ""
        ledger.save_marks()
        ledger.close()
    if how == "deleted":
        marks.unlink()
    else:
        marks.write_bytes(older if how == "older" else flipped(marks.read_bytes()))
    with served(bank, copy) as service, registrar(service) as registry:
        said = service.tail()
        assert "verifying the whole ledger first" in said
        assert "ledger verified" in said
        assert find(registry, bank.labels[1]).tags[0].state == tag.state
    with served(bank, copy) as service:
        assert service.tail().count("verifying the whole ledger first") == 1


@pytest.mark.req("APP-02")
def test_an_older_copy_put_back_is_told_by_a_kept_checkpoint(bank: Bank, copy: Path) -> None:
    """It is sound in itself. Whoever kept a checkpoint knows better, and can prove it."""
    shutil.rmtree(copy / "data")
    for store in ("ledger", "readlog"):
        shutil.copytree(bank.older / store, copy / "data" / store)
    assert fsck(copy).returncode == 0
    key = VerifierKey.parse(bank.verifier_key)
    kept = open_checkpoint(bank.checkpoint, key)
    with served(bank, copy) as service, service.connect("service", "auditor").open() as channel:
        ledger = LedgerClient(channel)
        newest = open_checkpoint(ledger.get_checkpoint(GetCheckpointRequest()).checkpoint, key)
        assert newest.tree_size < kept.tree_size
        with pytest.raises(CallFailed, match="INVALID_ARGUMENT"):
            ledger.get_consistency_proof(GetConsistencyProofRequest(first_tree_size=kept.tree_size))


@pytest.mark.req("APP-02")
def test_a_plain_tool_reads_nothing(bank: Bank) -> None:
    """No label, name, note or identity in any key or value, and none in the file."""
    ledger = bank.directory / "data" / "ledger"
    content = (ledger / "data.mdb").read_bytes()
    words = ["T0000", "总行", "金库", "registrar", "lost", "jinku.v1", "demonstration"]
    for word in [*(word.encode() for word in words), b"\x33\x14\x77\x00"]:
        assert word not in content
    sealed = [value for table in TABLES for value in rows(ledger, table.number).values()]
    assert len(set(sealed)) == len(sealed) > 50


# ── the API ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.req("APP-04")
def test_nothing_that_the_api_can_do_changes_what_is_recorded(bank: Bank, copy: Path) -> None:
    """Every kind of command, done, repeated, and sent again with another body: the old entries stay
    what they were to the byte, and the new journal goes on from the old one."""
    key = VerifierKey.parse(bank.verifier_key)
    kept = open_checkpoint(bank.checkpoint, key)
    with served(bank, copy) as service, service.connect("service", "auditor").open() as channel:
        with registrar(service) as registry:
            identities = [find(registry, label).tags[0].identity for label in bank.labels]
            commands: list[tuple[Callable[[Any], Any], Any]] = [
                (registry.unfreeze_tag, UnfreezeTagRequest(identity=identities[0], note="found")),
                (registry.freeze_tag, FreezeTagRequest(identity=identities[1], note="lost")),
                (registry.retire_tag, RetireTagRequest(identity=identities[2], note="worn")),
                (
                    registry.register_container,
                    RegisterContainerRequest(
                        institution_code="1", label="another", kind=1, vault_code="V"
                    ),
                ),
            ]
            ids = CommandIds(copy / "own-ids.json")
            for call, request in commands:
                request.command_id.CopyFrom(ids.draw())
                first = call(request).outcome
                require_accepted(first)
                assert call(request).outcome == first
                if "note" in request.DESCRIPTOR.fields_by_name:
                    request.note += " or not"
                else:
                    request.label += "-other"
                assert call(request).outcome.WhichOneof("outcome") == "refused"
        ledger = LedgerClient(channel)
        assert [receipt_of(ledger, index) for index in range(bank.size)] == bank.receipts
        newest = open_checkpoint(ledger.get_checkpoint(GetCheckpointRequest()).checkpoint, key)
        assert newest.tree_size >= kept.tree_size + 2 * len(commands)
        proof = ledger.get_consistency_proof(
            GetConsistencyProofRequest(
                first_tree_size=kept.tree_size, second_tree_size=newest.tree_size
            )
        ).consistency_proof
        check_consistency(kept.tree_size, newest.tree_size, kept.root_hash, newest.root_hash, proof)
    assert fsck(copy).returncode == 0
