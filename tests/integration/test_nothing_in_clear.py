"""Everything that exists is put into a real service, and looked for in all that it leaves behind."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import lmdb
import pytest

from clear import find, find_in_files, find_in_lmdb, forms, tapped
from core.store.v1.rows_pb2 import InstitutionRow
from jinku.calls import RetryPolicy
from jinku.columns import make_batch
from jinku.commands import CommandIds
from jinku.demo.service import Service
from jinku.errors import CallFailed, RequestInvalid, require_accepted
from jinku.ledger import LedgerClient
from jinku.portal import Handlers, PortalClient
from jinku.registry import RegistryClient
from jinku.softtags import answer_tam1, load
from jinku.type.v1.command_pb2 import Extra
from jinku.type.v1.place_pb2 import Antenna
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.contact_pb2 import ReadContactRequest, RegisterContactRequest
from jinku.v1.ledger_pb2 import GetEntryRequest
from jinku.v1.portal_pb2 import Alarm, Hello, PresentedTag
from jinku.v1.registry_pb2 import (
    FreezeTagRequest,
    GetContainerRequest,
    IssueTagRequest,
    RegisterContainerRequest,
    RegisterInstitutionRequest,
    RegisterPortalRequest,
    RegisterVaultRequest,
    UnfreezeTagRequest,
)
from process import daemon, run_jinkud
from put_back import overwrite
from served_realm import FREQUENCIES_KHZ, make_reads

INSTITUTION, INSTITUTION_NAME = "JG-88664422-NB", "宁波江北示例支行"
VAULT, VAULT_NAME = "JK-33557799-BL", "北仑示例金库"
PORTAL = "gate-quzhou-77341"
LABEL, OTHER_LABEL = "KX-20240918-77", "KX-20240919-78"
EPC, STRANGE_EPC = (
    bytes.fromhex("3314a0c0ffee77665544beef"),
    bytes.fromhex("3314deadbabe998877665544"),
)
NOTE, EXTRA = "报失编号BX99118822", "押运备注甲乙丙丁"
AMOUNT = 8_812_345_678_901
CONTACT, TELEPHONE = "诸葛孔明先生", "+86 574 8765-4321"
WRONG = "司马懿\u0007仲达"
SPIFFE = "spiffe://demonstration.jinku.example/1/"


def varint(number: int) -> bytes:
    """As protobuf writes it."""
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


VALUES: tuple[str | bytes, ...] = (
    INSTITUTION, INSTITUTION_NAME, VAULT, VAULT_NAME, PORTAL, LABEL, OTHER_LABEL, NOTE, EXTRA,
    CONTACT, TELEPHONE, TELEPHONE.replace(" ", ""), WRONG, SPIFFE, EPC, STRANGE_EPC, str(AMOUNT),
    varint(AMOUNT), AMOUNT.to_bytes(8, "big"), AMOUNT.to_bytes(8, "little"),
)  # fmt: skip


@dataclass
class Left:
    """What the service left behind, and what crossed the network meanwhile."""

    service: Service
    directory: Path
    heard: bytes
    backup: Path

    def files(self) -> list[Path]:
        """All but the settings and certificates, whose purpose is to name the realm to others."""
        places = ["realm/data", "realm/keys", "tmp", "backup"]
        found = [path for place in places for path in (self.directory / place).rglob("*")]
        files = [path for path in found if path.is_file() and path.name != "jinku.toml"]
        return [*files, self.service.log]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    directory = tmp_path_factory.mktemp("clear")
    (directory / "tmp").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(directory / "tmp"))
        service = Service(directory / "realm")
        service.initialise()
        settings = service.config.read_text(encoding="utf-8")
        service.config.write_text(settings.replace('level = "info"', 'level = "debug"'))
        service.start()
        try:
            with tapped(service.target) as wire:
                fill(service, wire.listen, directory)
            config = ("--config", str(service.config))
            service.run("backup", *config, "--output", str(directory / "backup"))
            refill(service)
        finally:
            assert service.stop() == 0
        service.fsck()
        yield Left(service, directory, bytes(wire.heard), directory / "backup")


def connect(service: Service, target: str, kind: str, name: str) -> grpc.Channel:
    return replace(service.connect(kind, name), target=target).open()


def fill(service: Service, target: str, directory: Path) -> None:
    with connect(service, target, "service", "registrar") as channel:
        registrar = RegistryClient(channel, CommandIds(directory / "ids.json"))
        register(registrar)
        require_accepted(registrar.freeze_tag(FreezeTagRequest(identity=EPC, note=NOTE)).outcome)
        require_accepted(registrar.unfreeze_tag(UnfreezeTagRequest(identity=EPC)).outcome)
        # What is refused and what is malformed is seen too, and nothing of it stays in clear.
        again = RegisterInstitutionRequest(code=INSTITUTION, name=INSTITUTION_NAME, kind=1)  # type: ignore[arg-type]
        assert registrar.register_institution(again).outcome.HasField("refused")
        with pytest.raises(RequestInvalid):
            registrar.register_contact(contact(WRONG))
        by_identity = registrar.get_container(GetContainerRequest(identity=EPC))
        assert by_identity.label == LABEL
    stream(service, target)
    with connect(service, target, "service", "privacy") as channel:
        privacy = RegistryClient(channel, CommandIds(directory / "privacy.json"))
        asked = ReadContactRequest(institution_code=INSTITUTION, purpose=4, with_openings=True)  # type: ignore[arg-type]
        assert [value.text for value in privacy.read_contact(asked).values] == [CONTACT, TELEPHONE]
    with connect(service, target, "service", "auditor") as channel:
        receipt = LedgerClient(channel).get_entry(GetEntryRequest(entry_index=1)).receipt
        assert INSTITUTION_NAME.encode() in receipt.events


def contact(name: str = CONTACT) -> RegisterContactRequest:
    return RegisterContactRequest(institution_code=INSTITUTION, name=name, telephone=TELEPHONE)


def register(registrar: RegistryClient) -> None:
    extras = [Extra(name="x", text=EXTRA), Extra(name="y", number=AMOUNT)]
    outcomes = [
        registrar.register_institution(
            RegisterInstitutionRequest(
                code=INSTITUTION, name=INSTITUTION_NAME, kind=1, extras=extras  # type: ignore[arg-type]
            )
        ).outcome,
        registrar.register_vault(
            RegisterVaultRequest(
                institution_code=INSTITUTION, code=VAULT, name=VAULT_NAME,
                kind=1, time_zone="Asia/Shanghai",  # type: ignore[arg-type]
            )
        ).outcome,
        registrar.register_portal(
            RegisterPortalRequest(
                vault_code=VAULT, name=PORTAL,
                antennas=[Antenna(port=1, side=2), Antenna(port=2, side=1)],  # type: ignore[arg-type]
            )
        ).outcome,
        *(
            registrar.register_container(
                RegisterContainerRequest(
                    institution_code=INSTITUTION, label=label, kind=2, vault_code=VAULT  # type: ignore[arg-type]
                )
            ).outcome
            for label in (LABEL, OTHER_LABEL)
        ),
        registrar.issue_tag(
            IssueTagRequest(container_label=LABEL, identity=EPC, scheme="TAG_SCHEME_TAM1")
        ).outcome,
        registrar.register_contact(contact()).outcome,
    ]  # fmt: skip
    for outcome in outcomes:
        require_accepted(outcome)


def stream(service: Service, target: str) -> None:
    """A genuine tag and one that nobody knows, at the portal: presented, alarmed, read."""
    service.issue_portal(PORTAL)
    tags = load(service.personalise([EPC.hex(), STRANGE_EPC.hex()]))
    seen: list[PresentedTag] = []
    alarms: list[Alarm] = []
    handlers = Handlers(
        presentation=lambda presentation: seen.extend(presentation.tags), alarm=alarms.append
    )
    hello = Hello(portal_epoch=time.time_ns(), antennas=[1, 2], frequencies_khz=FREQUENCIES_KHZ)
    with connect(service, target, "portal", PORTAL) as channel:
        client = PortalClient(channel, hello, handlers)
        live = client.wait_challenge()
        for tag in tags:
            reads = make_reads(tag.identity, time.time_ns() - 40_000_000)
            evidence = answer_tam1(tag, live.challenge, 4)
            scheme = TagScheme.TAG_SCHEME_TAM1
            client.send(make_batch(reads, scheme, evidence, live.challenge_id))
        deadline = time.monotonic() + 20
        while {tag.identity for tag in seen} != {EPC, STRANGE_EPC} or not alarms:
            assert time.monotonic() < deadline, (seen, alarms)
            time.sleep(0.01)
        client.abandon()


def refill(service: Service) -> None:
    """The box's row changes after the backup."""
    with service.connect("service", "registrar").open() as channel:
        registrar = RegistryClient(channel, CommandIds(service.directory / "more.json"))
        issued = registrar.issue_tag(
            IssueTagRequest(
                container_label=LABEL, identity=b"\x33" + EPC[1:-1] + b"\x01",
                scheme="TAG_SCHEME_TAM1", replaces=True,
            )
        )  # fmt: skip
        require_accepted(issued.outcome)


# ── nothing is seen ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.req("MSG-07", "APP-02")
def test_no_file_shows_anything(left: Left) -> None:
    files = left.files()
    names = {path.name for path in files}
    assert {"data.mdb", "realm.key", "1.key", "owner.lock", "jinkud.log"} <= names
    assert sum(path.stat().st_size for path in files) > 100_000
    assert find_in_files(VALUES, files) == []


@pytest.mark.req("APP-02")
def test_plain_lmdb_tool_shows_nothing(left: Left) -> None:
    environments = [path.parent for path in left.files() if path.name == "data.mdb"]
    assert len(environments) == 4
    for environment in environments:
        assert find_in_lmdb(VALUES, environment) == []
        with (
            lmdb.open(str(environment), readonly=True, lock=False, max_dbs=128) as env,
            env.begin() as txn,
        ):
            assert all(bytes(name).isdigit() for name, _ in txn.cursor())


@pytest.mark.req("MSG-07")
def test_network_shows_nothing(left: Left) -> None:
    assert len(left.heard) > 20_000
    assert find(VALUES, left.heard) == []


@pytest.mark.req("MSG-07", "APP-02")
def test_unsealed_table_is_seen(left: Left, tmp_path: Path) -> None:
    """The control: one row as it was before it was sealed, and the search finds it."""
    shutil.copytree(left.directory / "realm/data/ledger", tmp_path / "ledger")
    row = InstitutionRow(code=INSTITUTION, name=INSTITUTION_NAME)
    with lmdb.open(str(tmp_path / "ledger"), map_size=1 << 30, max_dbs=128) as env:
        opened = env.open_db(b"3", create=False)
        with env.begin(write=True, db=opened) as txn:
            txn.put(b"n" * 16, row.SerializeToString())
    for found in (
        find_in_files(VALUES, [tmp_path / "ledger/data.mdb"]),
        find_in_lmdb(VALUES, tmp_path / "ledger"),
    ):
        assert len(found) == 2
        assert INSTITUTION_NAME in "".join(found)


@pytest.mark.req("MSG-07")
def test_plain_line_is_seen() -> None:
    """The control: what crosses the same wire without TLS is heard."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        tapped(f"127.0.0.1:{server.getsockname()[1]}") as wire,
    ):
        host, port = wire.listen.split(":")
        with socket.create_connection((host, int(port))) as near:
            far, _ = server.accept()
            with far:
                near.sendall(b"x" + CONTACT.encode() + b"y")
                assert far.recv(100)
    assert find(VALUES, bytes(wire.heard)) == [f"{CONTACT!r} as it is"]


@pytest.mark.parametrize("value", [CONTACT, LABEL, EPC], ids=["name", "label", "EPC"])
def test_every_form_is_found(value: str | bytes) -> None:
    dressed = forms(value)
    assert len(dressed) == (8 if isinstance(value, bytes) else 10)
    for how, content in dressed.items():
        assert f"{value!r} {how}" in find([value], b"\x07" + content + b"\x80")


# ── and nothing is changed unseen ───────────────────────────────────────────────────────────────


CONTAINERS, HISTORY = b"6", b"11"


class Copy:
    """A copy of the realm for somebody with a plain LMDB tool."""

    def __init__(self, left: Left, path: Path) -> None:
        self.path = Path(shutil.copytree(left.directory / "realm", path / "realm"))
        self.ledger = self.path / "data/ledger"

    def rows(self, table: bytes, ledger: Path | None = None) -> dict[bytes, bytes]:
        with lmdb.open(str(ledger or self.ledger), readonly=True, lock=False, max_dbs=128) as env:
            opened = env.open_db(table, create=False)
            with env.begin() as txn, txn.cursor(db=opened) as cursor:
                return {bytes(key): bytes(value) for key, value in cursor}

    def put(self, table: bytes, rows: dict[bytes, bytes]) -> None:
        with lmdb.open(str(self.ledger), map_size=1 << 30, max_dbs=128) as env:
            opened = env.open_db(table, create=False)
            with env.begin(write=True, db=opened) as txn:
                for key, value in rows.items():
                    txn.put(key, value)

    def verify(self) -> str:
        """What fsck finds; it must find something."""
        checked = run_jinkud("fsck", "--config", str(self.path / "jinku.toml"))
        assert checked.returncode == 1, checked.stdout + checked.stderr
        assert "not sound" in checked.stderr
        return checked.stderr


@pytest.mark.req("APP-02")
@pytest.mark.parametrize("what", ["a bit flipped", "two rows swapped", "an older row put back"])
def test_changed_record_is_detected(left: Left, tmp_path: Path, what: str) -> None:
    copy = Copy(left, tmp_path)
    now, before = copy.rows(CONTAINERS), copy.rows(CONTAINERS, left.backup / "ledger")
    (first, second), values = sorted(now), [now[key] for key in sorted(now)]
    flipped = values[0][:-1] + bytes([values[0][-1] ^ 1])
    assert before[first] != now[first]
    changes = {
        "a bit flipped": {first: flipped},
        "two rows swapped": {first: values[1], second: values[0]},
        "an older row put back": {first: before[first]},
    }
    copy.put(CONTAINERS, changes[what])
    found = copy.verify()
    assert first.hex() in found or "container" in found.lower()


@pytest.mark.req("APP-02")
def test_changed_record_is_never_answered(left: Left, tmp_path: Path) -> None:
    """Byte by byte in the file: what is changed with an LMDB tool is not even served."""
    copy = Copy(left, tmp_path)
    _, stored = min(copy.rows(CONTAINERS).items())
    overwrite(copy.ledger, stored, stored[:-1] + bytes([stored[-1] ^ 1]))
    with (
        daemon(copy.path / "jinku.toml", JINKU_SERVER__LISTEN="127.0.0.1:0") as running,
        connect(left.service, running.target, "service", "registrar") as channel,
    ):
        registrar = RegistryClient(channel, retry=RetryPolicy(attempts_max=1))
        with pytest.raises(CallFailed, match="INTERNAL"):
            registrar.get_container(GetContainerRequest(label=LABEL))
        other = registrar.get_container(GetContainerRequest(label=OTHER_LABEL))
        assert other.label == OTHER_LABEL
    assert find(VALUES, "".join(running.lines).encode()) == []
