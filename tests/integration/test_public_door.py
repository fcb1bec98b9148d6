"""The public door: checkpoints and hash tiles for anybody, nothing else; and who follows it."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from core.errors import SettingsError
from jinku import notes
from jinku.following import TileSource, follow
from jinku.plain_http import fetch
from jinku.tiles import TileTree
from jinku.type.v1.place_pb2 import Antenna
from jinku.v1.ledger_pb2 import (
    GetConsistencyProofRequest,
    GetConsistencyProofResponse,
    GetTileRequest,
    GetTileResponse,
)
from jinku.v1.registry_pb2 import (
    RegisterInstitutionRequest,
    RegisterInstitutionResponse,
    RegisterPortalRequest,
    RegisterPortalResponse,
    RegisterVaultRequest,
    RegisterVaultResponse,
)
from process import clean_environment
from running import LEDGER, REGISTRY, Running, call, call_bytes, failure_of, found, serving
from witnessing import asking, neighbours

PUBLIC = {"PUBLIC__LISTEN": "127.0.0.1:0"}
JINKU = Path(sys.executable).with_name("jinku")
ENTRIES = 260


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with a public door, a journal of more than one tile, and a portal."""
    directory = found(tmp_path_factory.mktemp("public"))
    with serving(directory, **PUBLIC, PUBLIC__REQUESTS_PER_SECOND_MAX="10000") as running:
        register(running, ENTRIES)
        registrar = running.registrar()
        vault = RegisterVaultRequest(
            command_id=running.command_id(), institution_code="B0", code="V", name="金库", kind=1,
            time_zone="Asia/Shanghai",
        )  # fmt: skip
        call(registrar, REGISTRY + "RegisterVault", vault, RegisterVaultResponse)
        gate = RegisterPortalRequest(
            command_id=running.command_id(), vault_code="V", name="gate",
            antennas=[Antenna(port=1, side=1), Antenna(port=2, side=2)],
        )  # fmt: skip
        call(registrar, REGISTRY + "RegisterPortal", gate, RegisterPortalResponse)
        yield running


def register(running: Running, count: int, first: int = 0) -> None:
    registrar = running.registrar()
    for number in range(first, first + count):
        request = RegisterInstitutionRequest(
            command_id=running.command_id(), code=f"B{number}", name="支行", kind=3
        )
        call(registrar, REGISTRY + "RegisterInstitution", request, RegisterInstitutionResponse)


def url_of(running: Running) -> str:
    return f"http://{running.service.public_listen}"


def ask(running: Running, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    with closing(http.client.HTTPConnection(running.service.public_listen, timeout=10)) as door:
        door.request(method, path)
        answer = door.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, answer.read()


def jinku(*arguments: str, code: int = 0) -> str:
    answer = subprocess.run(
        [str(JINKU), *arguments],
        capture_output=True, text=True, check=False, timeout=60, env=clean_environment(),
    )  # fmt: skip
    assert answer.returncode == code, answer.stdout + answer.stderr
    return answer.stdout + answer.stderr


# -- what is served


def test_the_tree_can_be_proven_from_the_door_alone(public: Running) -> None:
    url, ledger = url_of(public), public.service.ledger
    note = fetch(f"{url}/checkpoint").body.decode()
    key = notes.VerifierKey.parse(ledger.verifier_key)
    checkpoint = notes.open_checkpoint(note, key)
    assert checkpoint.tree_size == ledger.size
    tree = TileTree(checkpoint.tree_size, lambda tile: fetch(f"{url}/{tile.path}").body)
    assert tree.root() == checkpoint.root_hash
    for index in (0, 255, 256, checkpoint.tree_size - 1):
        leaf = notes.hash_leaf(ledger.entry(index).leaf)
        root = notes.compute_root(leaf, index, checkpoint.tree_size, tree.inclusion_proof(index))
        assert root == checkpoint.root_hash
    proof = tree.consistency_proof(100)
    notes.check_consistency(
        100, checkpoint.tree_size, ledger.root(100), checkpoint.root_hash, proof
    )


def test_types_and_caching(public: Running) -> None:
    state, headers, body = ask(public, "GET", "/checkpoint")
    assert (state, headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert headers["cache-control"] == "no-cache"
    state, headers, body = ask(public, "GET", "/tile/0/000")
    assert (state, headers["content-type"], len(body)) == (200, "application/octet-stream", 8192)
    assert headers["cache-control"] == "public, max-age=31536000, immutable"
    state, headers, part = ask(public, "GET", "/tile/0/000.p/3")
    assert (state, part) == (200, body[:96])
    state, headers, nothing = ask(public, "HEAD", "/tile/0/000")
    assert (state, headers["content-length"], nothing) == (200, "8192", b"")
    state, headers, _ = ask(public, "GET", "/tile/1/000")
    assert (state, headers["cache-control"]) == (404, "no-store")


@pytest.mark.parametrize(
    "path",
    [
        "/", "/entry/0", "/tile/entries/000", "/tile/entries/000.p/1", "/tile/data/000",
        "/tile/0/000/", "/tile/0/000.p/256", "/tile/0/002", "/tile/0/x001/000", "/tile/9/000",
        "/checkpoint/", "/checkpoint?x=1", "//checkpoint", "/../checkpoint", "/%63heckpoint",
        "/metrics", "/jinku.v1.LedgerService/GetEntry",
    ],
)  # fmt: skip
def test_nothing_else_is_there(public: Running, path: str) -> None:
    state, headers, body = ask(public, "GET", path)
    assert (state, headers["cache-control"]) == (404, "no-store")
    assert len(body) < 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
def test_it_is_only_read(public: Running, method: str) -> None:
    state, headers, _ = ask(public, method, "/checkpoint")
    assert (state, headers["allow"]) == (405, "GET, HEAD")


def test_entries_are_not_in_what_is_served(public: Running) -> None:
    """Not a name, not a code, not a time: salted hashes, and the log's own name."""
    everything = b"".join(
        ask(public, "GET", path)[2]
        for path in ("/checkpoint", "/tile/0/000", "/tile/0/001.p/6", "/tile/1/000.p/1")
    )
    for hidden in ("支行", "B17", "registrar", "gate", "spiffe"):
        assert hidden.encode() not in everything


def test_the_door_is_shut_unless_configured(tmp_path: Path) -> None:
    directory = found(tmp_path)
    with serving(directory) as running:
        assert running.service.public_listen == ""
    with (
        pytest.raises(SettingsError, match=r"public\.listen: the demonstration profile listens on"),
        serving(directory, PUBLIC__LISTEN="0.0.0.0:0"),
    ):
        pytest.fail("was opened")
    with (
        serving(directory, **PUBLIC) as running,
        pytest.raises(SettingsError, match=r"public\.listen: cannot listen on .* in use"),
        serving(found(tmp_path / "other"), PUBLIC__LISTEN=running.service.public_listen),
    ):
        pytest.fail("was opened")


def test_the_witnessed_checkpoint_goes_first(tmp_path: Path) -> None:
    """Whoever compares what he sees with others' wants what witnesses saw; outages make it older."""
    directory = found(tmp_path)
    with serving(directory) as running:
        key = running.service.ledger.verifier_key
    with neighbours(tmp_path, key) as (witness,):
        with serving(directory, **PUBLIC, **asking(witness)) as running:
            witness.go_away()
            register(running, 3)
            note = fetch(f"{url_of(running)}/checkpoint").body.decode()
            log_key = notes.VerifierKey.parse(key)
            assert notes.open_checkpoint(note, log_key).tree_size == 1
            assert notes.require_quorum(note, [witness.key], 1)
        witness.come_back()


def test_the_door_never_goes_back(tmp_path: Path) -> None:
    """What a quorum cosigned late, of a checkpoint before the ones that were given out meanwhile."""
    with serving(found(tmp_path), **PUBLIC) as running:
        ledger, kept = running.service.ledger, tmp_path / "kept"
        key, source = notes.VerifierKey.parse(ledger.verifier_key), TileSource(url_of(running))
        register(running, 2)
        shown = ledger.checkpoint()
        register(running, 2, first=2)
        assert follow(source, kept, key)[1].tree_size == 5
        ledger.witnessed.keep(shown.note)
        assert follow(source, kept, key)[1].tree_size == 5
        ledger.witnessed.keep(ledger.checkpoint().note)
        register(running, 1, first=4)
        assert follow(source, kept, key)[1].tree_size == 5


# -- the same over gRPC, for every role


def test_tiles_and_proofs_over_the_ledger_service(public: Running) -> None:
    for channel in (public.registrar(), public.auditor(), public.portal("gate")):
        tile = call(channel, LEDGER + "GetTile", GetTileRequest(width=256), GetTileResponse)
        assert tile.hashes == ask(public, "GET", "/tile/0/000")[2]
        request = GetConsistencyProofRequest(first_tree_size=7)
        answer = call(channel, LEDGER + "GetConsistencyProof", request, GetConsistencyProofResponse)
        notes.check_consistency(
            7,
            answer.second_tree_size,
            public.service.ledger.root(7),
            answer.second_root_hash,
            answer.consistency_proof,
        )


@pytest.mark.parametrize(
    ("method", "request_bytes", "field"),
    [
        ("GetConsistencyProof", GetConsistencyProofRequest(), "first_tree_size"),
        ("GetConsistencyProof", GetConsistencyProofRequest(first_tree_size=10**6), "first_tree_size"),
        ("GetTile", GetTileRequest(), "width"),
        ("GetTile", GetTileRequest(level=9, width=1), "width"),
        ("GetTile", GetTileRequest(tile_index=2**63, width=1), "width"),
    ],
)  # fmt: skip
def test_what_cannot_be_proven_is_an_invalid_request(
    public: Running, method: str, request_bytes: GetTileRequest, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call_bytes(public.auditor(), LEDGER + method, request_bytes.SerializeToString())
    failure = failure_of(caught.value)
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    assert field in str(failure.details)


# -- following the log


@pytest.mark.req("MON-09")
def test_whoever_follows_the_log_sees_that_it_was_put_back(tmp_path: Path) -> None:
    directory, kept = found(tmp_path), tmp_path / "kept"
    with serving(directory, **PUBLIC) as running:
        key = running.service.ledger.verifier_key
        register(running, 4)
        said = jinku(
            "ledger", "follow", "--url", url_of(running), "--kept", str(kept), "--key", key
        )
        assert "5 entries go on from the 0 seen before" in said
    shutil.copytree(directory / "data", tmp_path / "older")
    with serving(directory, **PUBLIC) as running:
        running.sequence = 4
        register(running, 3, first=4)
        said = jinku(
            "ledger", "follow", "--url", url_of(running), "--kept", str(kept), "--key", key
        )
        assert "8 entries go on from the 5 seen before" in said
    before = kept.read_text()
    shutil.rmtree(directory / "data")
    shutil.copytree(tmp_path / "older", directory / "data")
    with serving(directory, **PUBLIC) as running:
        follow = ["ledger", "follow", "--url", url_of(running), "--kept", str(kept), "--key", key]
        assert "has 5 entries; 8 were seen before" in jinku(*follow, code=4)
        checkpoint = ["ledger", "checkpoint", "--kept", str(kept), *connection_of(running)]
        assert "has 5 entries; 8 were seen before" in jinku(*checkpoint, code=4)
        running.sequence = 4
        register(running, 9, first=100)
        assert "8 entries that were seen do not begin the 14" in jinku(*follow, code=4)
    assert kept.read_text() == before


def test_who_knows_more_than_the_door_shows_accuses_nobody(tmp_path: Path) -> None:
    """The witness is out: the door shows what it cosigned, the service what there is."""
    directory, kept = found(tmp_path), tmp_path / "kept"
    with serving(directory) as running:
        key = running.service.ledger.verifier_key
    with neighbours(tmp_path, key) as (witness,):
        with serving(directory, **PUBLIC, **asking(witness)) as running:
            witness.go_away()
            register(running, 5)
            said = jinku("ledger", "checkpoint", "--kept", str(kept), *connection_of(running))
            assert "6 entries go on from the 0 seen before" in said
            before = kept.read_text()
            follow = ["ledger", "follow", "--url", url_of(running), "--key", key]
            follow += ["--kept", str(kept), "--witness", str(witness.key)]
            said = jinku(*follow)
            assert "cosigned: witness.example/w0 " in said
            assert "1 entries, older than the 6 seen before, which go on from them" in said
            assert "1 条记录，早于已见的 6 条且与之一致" in said
            assert kept.read_text() == before
        witness.come_back()


def connection_of(running: Running) -> list[str]:
    files = running.files("service-auditor")
    return [
        "--target", running.target, "--certificate", str(files.certificate),
        "--key", str(files.private_key), "--ca", str(running.certificates / "ca.pem"),
    ]  # fmt: skip


def test_following_over_the_service_and_with_witnesses(tmp_path: Path) -> None:
    directory, kept = found(tmp_path), tmp_path / "kept"
    with serving(directory) as running:
        key = running.service.ledger.verifier_key
    with (
        neighbours(tmp_path, key) as (witness,),
        serving(directory, **PUBLIC, **asking(witness)) as running,
    ):
        connection = connection_of(running)
        said = jinku("ledger", "checkpoint", "--kept", str(kept), *connection)
        assert "1 entries go on from the 0 seen before" in said
        assert "— witness.example/w0 " in said
        follow = ["ledger", "follow", "--url", url_of(running), "--kept", str(kept), "--key", key]
        said = jinku(*follow, "--witness", str(witness.key))
        assert "cosigned: witness.example/w0 " in said
        stranger = notes.VerifierKey.make("w", bytes(range(32)), notes.COSIGNATURE)
        named = ["--witness", str(witness.key), "--witness", str(stranger)]
        assert "1 of 2 witnesses cosigned" in jinku(*follow, *named, code=4)
        jinku(*follow, *named, "--quorum", "1")
        receipt = tmp_path / "receipt"
        said = jinku("ledger", "entry", "0", "--witnessed", "--save", str(receipt), *connection)
        assert "WITNESSED" in said
        said = jinku("ledger", "verify", str(receipt), "--key", key, "--witness", str(witness.key))
        assert "cosigned: witness.example/w0 " in said
        verify = ["ledger", "verify", str(receipt), "--key", key]
        jinku(*verify, "--witness", str(stranger), code=4)
        assert "valid: entry 0" in jinku(*verify)
