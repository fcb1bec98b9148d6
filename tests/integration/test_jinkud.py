"""The command `jinkud`, as a process: what it makes, how it ends, what it refuses."""

from __future__ import annotations

import json
import queue
import resource
import signal
import stat
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from grpc_api.certificates import CertificateFiles, is_marked
from grpc_api.personalise import diversify
from jinku.type.v1.command_pb2 import ClientCommandId
from jinku.v1.registry_pb2 import RegisterInstitutionRequest, RegisterInstitutionResponse
from process import Daemon, daemon, run_jinkud
from running import (
    REGISTRY,
    call_bytes,
    failure_of,
    found,
    make_ca,
    make_certificate,
    server_names,
    wait_until,
)

REGISTER = REGISTRY + "RegisterInstitution"


@pytest.fixture
def realm(tmp_path: Path) -> Path:
    return found(tmp_path)


def connect(directory: Path, target: str, name: str = "service-registrar") -> grpc.Channel:
    files = CertificateFiles.named(directory / "certificates", name)
    credentials = grpc.ssl_channel_credentials(
        (directory / "certificates" / "ca.pem").read_bytes(),
        files.private_key.read_bytes(),
        files.certificate.read_bytes(),
    )
    return grpc.secure_channel(target, credentials, [("grpc.use_local_subchannel_pool", 1)])


def institution(code: str, sequence: int) -> bytes:
    command_id = ClientCommandId(epoch=1, sequence=sequence)
    return RegisterInstitutionRequest(
        command_id=command_id, code=code, name="总行", kind=1
    ).SerializeToString()


def is_accepted(answer: bytes) -> bool:
    outcome = RegisterInstitutionResponse.FromString(answer).outcome
    return outcome.WhichOneof("outcome") == "accepted"


def test_from_nothing_to_a_served_and_verified_ledger(tmp_path: Path) -> None:
    directory = tmp_path / "bank"
    made = run_jinkud("init", "--directory", str(directory), "--listen", "127.0.0.1:0")
    assert made.returncode == 0, made.stderr
    assert "demonstration.jinku.example/jinku/1+" in made.stdout
    config = directory / "jinku.toml"
    with daemon(config) as running:
        with connect(directory, running.target) as channel:
            assert is_accepted(call_bytes(channel, REGISTER, institution("A1", 1)))
        in_use = run_jinkud("fsck", "--config", str(config))
        assert in_use.returncode == 3
        assert "another process" in in_use.stderr
        running.process.send_signal(signal.SIGINT)
        assert running.wait() == 0
    checked = run_jinkud("fsck", "--config", str(config))
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("sound: 2 entries")
    assert "replay 2/2" in checked.stderr


def test_private_files_are_private(realm: Path) -> None:
    keys = [path for path in realm.rglob("*") if path.suffix in {".key", ".mdb"}]
    assert len(keys) >= 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert stat.S_IMODE(realm.stat().st_mode) == 0o700


def test_sigterm_finishes_what_is_under_way(realm: Path) -> None:
    with daemon(realm / "jinku.toml") as running, connect(realm, running.target) as channel:
        call_bytes(channel, REGISTER, institution("A1", 1))
        sent: queue.Queue[bytes | None] = queue.Queue()
        under_way = channel.stream_unary(REGISTER).future(iter(sent.get, None), timeout=20)
        wait_until(lambda: sees_in_flight(running, channel))
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: any(line["event"] == "draining" for line in running.events()))
        with pytest.raises(grpc.RpcError) as caught:
            call_bytes(channel, REGISTER, institution("A3", 3))
        assert failure_of(caught.value).reason == "DRAINING"
        sent.put(institution("A2", 2))
        sent.put(None)
        assert is_accepted(under_way.result())
        assert running.wait() == 0
    assert running.events()[-1]["event"] == "ended"
    checked = run_jinkud("fsck", "--config", str(realm / "jinku.toml"))
    assert checked.stdout.startswith("sound: 3 entries"), checked.stderr


def sees_in_flight(running: Daemon, channel: grpc.Channel) -> bool:
    """The held call has reached the service: whatever is sent after it on one connection follows.

    A call on the same connection that was opened later is answered, so the earlier one was opened.
    """
    answer = call_bytes(channel, REGISTER, institution("A1", 1))
    return is_accepted(answer) and running.process.poll() is None


def test_drain_is_bounded(realm: Path) -> None:
    """A call that never ends is cut when the time is over, and the exit is clean all the same."""
    with (
        daemon(realm / "jinku.toml", JINKU_SERVER__DRAIN_SECONDS="0.3") as running,
        connect(realm, running.target) as channel,
    ):
        sent: queue.Queue[bytes | None] = queue.Queue()
        under_way = channel.stream_unary(REGISTER).future(iter(sent.get, None), timeout=20)
        call_bytes(channel, REGISTER, institution("A1", 1))
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0
        with pytest.raises(grpc.RpcError):
            under_way.result()
        sent.put(None)
    assert any(line["event"] == "cutting calls" for line in running.events())


def test_failed_commit_stops_the_process_and_the_next_start_verifies(realm: Path) -> None:
    """The disk takes no more: UNAVAILABLE, exit 70; afterwards the same bytes get their answer."""
    received = institution("A2", 2)
    with daemon(realm / "jinku.toml") as running, connect(realm, running.target) as channel:
        call_bytes(channel, REGISTER, institution("A1", 1))
        size = (realm / "data" / "ledger" / "data.mdb").stat().st_size
        limit = size // 2 // 4096 * 4096
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(grpc.RpcError) as caught:
            for sequence in range(2, 200):
                call_bytes(channel, REGISTER, institution(f"A{sequence}", sequence))
        assert failure_of(caught.value).reason == "LEDGER_STOPPED"
        assert running.wait() == 70
    (stopped,) = [line for line in running.events() if line["level"] == "critical"]
    assert stopped["exit_code"] == 70
    with daemon(realm / "jinku.toml") as again, connect(realm, again.target) as channel:
        assert is_accepted(call_bytes(channel, REGISTER, received))
        again.process.send_signal(signal.SIGTERM)
        assert again.wait() == 0
    assert run_jinkud("fsck", "--config", str(realm / "jinku.toml")).returncode == 0


def test_fsck_names_the_first_difference(realm: Path) -> None:
    data = realm / "data" / "ledger" / "data.mdb"
    content = bytearray(data.read_bytes())
    # Everything sealed is high-entropy; flip one byte in the middle of each page but the first two.
    for page in range(8192, len(content), 4096):
        content[page + 4000] ^= 1
    data.write_bytes(content)
    checked = run_jinkud("fsck", "--config", str(realm / "jinku.toml"))
    assert checked.returncode == 1, checked.stderr
    assert "not sound" in checked.stderr


def test_init_refuses_a_used_directory(realm: Path) -> None:
    again = run_jinkud("init", "--directory", str(realm))
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_init_names_a_wrong_value(tmp_path: Path) -> None:
    directory = tmp_path / "x"
    made = run_jinkud("init", "--directory", str(directory), "--service", "teller:TELLER")
    assert made.returncode == 2
    assert "realm.services[0].roles[0]" in made.stderr
    assert list(directory.iterdir()) == []
    assert run_jinkud("init", "--directory", str(directory), "--service", "x").returncode == 2


def test_serve_without_a_ledger_says_what_to_do(tmp_path: Path, realm: Path) -> None:
    missing = run_jinkud("serve", "--config", str(tmp_path / "none.toml"))
    assert missing.returncode == 2
    assert "jinkud init" in missing.stderr
    config = str(realm / "jinku.toml")
    nowhere = run_jinkud("serve", "--config", config, JINKU_STORAGE__DIRECTORY="elsewhere")
    assert nowhere.returncode == 2
    assert "jinkud init" in nowhere.stderr
    keyless = run_jinkud("serve", "--config", config, JINKU_KEYS__DIRECTORY="elsewhere")
    assert keyless.returncode == 2
    assert "realm.key" in keyless.stderr
    assert "Traceback" not in missing.stderr + nowhere.stderr + keyless.stderr


def test_config_option_from_the_environment(realm: Path) -> None:
    assert run_jinkud("fsck", JINKU_CONFIG=str(realm / "jinku.toml")).returncode == 0


def test_no_core_dumps(realm: Path) -> None:
    with daemon(realm / "jinku.toml") as running:
        limits = Path(f"/proc/{running.process.pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4:6] == ["0", "0"]


@pytest.mark.parametrize(
    "command",
    [
        "", "serve", "init", "fsck", "backup", "restore", "compact", "backup-keys", "restore-keys",
        "demo-certificate", "personalise",
    ],
)  # fmt: skip
def test_help(command: str) -> None:
    shown = run_jinkud(*filter(None, [command, "--help"]))
    assert shown.returncode == 0
    assert "Usage: jinkud" in shown.stdout


# ── demonstration only ──────────────────────────────────────────────────────────────────────────


def test_demo_certificate(realm: Path) -> None:
    config = str(realm / "jinku.toml")
    issued = run_jinkud("demo-certificate", "--config", config, "--name", "vault-1-door")
    assert issued.returncode == 0, issued.stderr
    certificate, key = map(Path, issued.stdout.split())
    assert (certificate.name, key.name) == ("portal-vault-1-door.pem", "portal-vault-1-door.key")
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://demonstration.jinku.example/1/portal/vault-1-door"
    ]
    ca = x509.load_pem_x509_certificate((realm / "certificates" / "ca.pem").read_bytes())
    loaded.verify_directly_issued_by(ca)
    assert is_marked(ca)
    assert is_marked(loaded)
    assert (ca.not_valid_after_utc - ca.not_valid_before_utc).days <= 7
    for wrong in ("Vault", "../x", ""):
        refused = run_jinkud("demo-certificate", "--config", config, "--name", wrong)
        assert refused.returncode == 2
        assert "--name" in refused.stderr


def test_renewed_certificates_work(realm: Path) -> None:
    config = realm / "jinku.toml"
    before = (realm / "certificates" / "ca.pem").read_bytes()
    renewed = run_jinkud("demo-certificate", "--config", str(config), "--renew")
    assert renewed.returncode == 0, renewed.stderr
    assert len(renewed.stdout.splitlines()) == 3
    assert (realm / "certificates" / "ca.pem").read_bytes() != before
    with daemon(config) as running, connect(realm, running.target) as channel:
        assert is_accepted(call_bytes(channel, REGISTER, institution("A1", 1)))


def test_personalise(realm: Path, tmp_path: Path) -> None:
    config = str(realm / "jinku.toml")
    identities, output = tmp_path / "identities.csv", tmp_path / "tags.json"
    identities.write_text("# boxes\n3034257BF400B7800004CB2F\n04112233445566,counter_cmac,1\n")
    made = run_jinkud(
        "personalise", "--config", config, "--identities", str(identities), "--output", str(output)
    )
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    tags = json.loads(output.read_text())["tags"]
    assert [(tag["identity"], tag["scheme"]) for tag in tags] == [
        ("3034257bf400b7800004cb2f", "TAM1"),
        ("04112233445566", "COUNTER_CMAC"),
    ]
    master = (realm / "keys" / "tag-masters" / "1-1.key").read_bytes()
    assert tags[0]["key"] == diversify(master, bytes.fromhex(tags[0]["identity"]), 1).hex()
    assert master.hex() not in output.read_text()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("xyz", ":1: the identity is not hexadecimal"),
        ("00" * 12, ":1: an identity is 7, 8, 12 or 16 bytes, not all zero"),
        ("ab" * 9, ":1: an identity is"),
        ("ab" * 12 + ",TAM9", ":1: a scheme is one of NONE, TAM1, COUNTER_CMAC"),
        ("ab" * 12 + ",TAM1,x", ":1: a line is"),
        ("ab" * 12 + ",TAM1,7", "no tag master 1-7.key"),
    ],
)
def test_personalise_names_the_wrong_line(
    realm: Path, tmp_path: Path, line: str, expected: str
) -> None:
    identities, output = tmp_path / "identities.csv", tmp_path / "tags.json"
    identities.write_text(line)
    refused = run_jinkud(
        "personalise", "--config", str(realm / "jinku.toml"),
        "--identities", str(identities), "--output", str(output),
    )  # fmt: skip
    assert refused.returncode == 2
    assert expected in refused.stderr
    assert not output.exists()


def test_production_gives_out_neither_keys_nor_certificates(tmp_path: Path) -> None:
    directory = tmp_path / "bank"
    made = run_jinkud(
        "init", "--directory", str(directory), "--profile", "production",
        "--trust-domain", "bank.example", "--service", "registrar:REGISTRAR,AUDITOR",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert list((directory / "certificates").iterdir()) == []
    config = str(directory / "jinku.toml")
    identities = tmp_path / "identities.csv"
    identities.write_text("3034257BF400B7800004CB2F\n")
    for arguments in (
        ["personalise", "--identities", str(identities), "--output", str(tmp_path / "tags.json")],
        ["demo-certificate", "--name", "x"],
        ["demo-certificate", "--renew"],
    ):
        refused = run_jinkud(*arguments, "--config", config)
        assert refused.returncode == 2
        assert "realm.profile is `production`" in refused.stderr
    ca, _ = make_ca(directory / "certificates")
    make_certificate(directory / "certificates", "server", ca, server_names())
    with daemon(Path(config), JINKU_SERVER__LISTEN="127.0.0.1:0") as running:
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0
