"""A served ledger and its witnesses: what they cosign, what their absence does, what they know."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from core.errors import LedgerCorrupt, SettingsError, WitnessesUnreachable
from core.ledger.witnessed import WITNESSED_FILE
from jinku import notes, receipts
from jinku.plain_http import Answer, fetch, refuse
from jinku.type.v1.command_pb2 import DurabilityLevel
from jinku.v1.ledger_pb2 import (
    GetCheckpointRequest,
    GetCheckpointResponse,
    GetEntryRequest,
    GetEntryResponse,
)
from jinku.v1.registry_pb2 import RegisterInstitutionRequest, RegisterInstitutionResponse
from jinku.witnessing import SIZE_TYPE
from process import daemon, run_jinkud
from running import LEDGER, REGISTRY, Running, call, found, serving, wait_until
from witnessing import Neighbour, asking, liar, neighbours

HEALTH = "/grpc.health.v1.Health/Check"


class Bank:
    """A founded realm, its verifier key, and commands that make its journal longer."""

    def __init__(self, tmp_path: Path) -> None:
        self.directory = found(tmp_path)
        self.count = 0
        with serving(self.directory) as running:
            self.key = running.service.ledger.verifier_key

    @property
    def config(self) -> Path:
        return self.directory / "jinku.toml"

    @property
    def ledger(self) -> Path:
        return self.directory / "data" / "ledger"

    def grow(self, running: Running, count: int = 1) -> int:
        """So many entries more; how many there are then."""
        for _ in range(count):
            self.count += 1
            request = RegisterInstitutionRequest(
                command_id=running.command_id(), code=f"B{self.count}", name="支行", kind=3
            )
            request.command_id.epoch = self.count
            answer = call(
                running.registrar(),
                REGISTRY + "RegisterInstitution",
                request,
                RegisterInstitutionResponse,
            )
            assert answer.outcome.entry_index == running.service.ledger.size - 1
        return running.service.ledger.size

    def copy(self, name: str) -> Path:
        """What lies on the disk now, put aside."""
        shutil.copytree(self.directory / "data", self.directory / name)
        return self.directory / name

    def put_back(self, copy: Path) -> None:
        shutil.rmtree(self.directory / "data")
        shutil.copytree(copy, self.directory / "data")


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank(tmp_path)


@pytest.fixture
def witness(bank: Bank, tmp_path: Path) -> Iterator[Neighbour]:
    with neighbours(tmp_path, bank.key) as (one,):
        yield one


def checkpoint_of(running: Running) -> GetCheckpointResponse:
    return call(
        running.auditor(), LEDGER + "GetCheckpoint", GetCheckpointRequest(), GetCheckpointResponse
    )


def wait_witnessed(running: Running, size: int) -> None:
    wait_until(lambda: checkpoint_of(running).witnessed_tree_size >= size)


def state_of(running: Running) -> int:
    return int(
        call(
            running.auditor(),
            HEALTH,
            health_pb2.HealthCheckRequest(service="witnesses"),
            health_pb2.HealthCheckResponse,
        ).status
    )


def metric(running: Running, line: str) -> float:
    text = fetch(f"http://{running.service.metrics_listen}/metrics").body.decode()
    return float(next((one.split()[-1] for one in text.splitlines() if one.startswith(line)), "-1"))


# -- cosignatures


def test_a_quorum_makes_a_checkpoint_a_witnessed_one(bank: Bank, tmp_path: Path) -> None:
    with neighbours(tmp_path, bank.key, 2) as both:
        keys = [str(one.key) for one in both]
        with serving(bank.directory, **asking(*both, quorum=2)) as running:
            size = bank.grow(running, 3)
            wait_witnessed(running, size)
            answer = checkpoint_of(running)
            log_key = notes.VerifierKey.parse(bank.key)
            assert notes.open_checkpoint(answer.witnessed_checkpoint, log_key).tree_size == size
            request = GetEntryRequest(entry_index=size - 1, witnessed=True)
            entry = call(running.auditor(), LEDGER + "GetEntry", request, GetEntryResponse)
            assert entry.level == DurabilityLevel.DURABILITY_LEVEL_WITNESSED
            verified = receipts.verify(entry.receipt, bank.key, keys, quorum=2)
            assert verified.cosigners.keys() == {one.key for one in both}
            assert entry.receipt.ByteSize() <= receipts.RECEIPT_BYTES_MAX
            plain = GetEntryRequest(entry_index=size - 1)
            entry = call(running.auditor(), LEDGER + "GetEntry", plain, GetEntryResponse)
            assert entry.level == DurabilityLevel.DURABILITY_LEVEL_LOCAL
            with pytest.raises(receipts.ReceiptInvalid, match="0 of 2 witnesses"):
                receipts.verify(entry.receipt, bank.key, keys, quorum=2)
        # What a quorum cosigned is served again at once, before anybody is asked.
        kept = answer.witnessed_tree_size
        with serving(bank.directory, **asking(*both, quorum=2)) as running:
            assert checkpoint_of(running).witnessed_tree_size >= kept


def test_fewer_than_a_quorum_make_none(bank: Bank, tmp_path: Path) -> None:
    with (
        neighbours(tmp_path, bank.key, 2) as (first, second),
        serving(bank.directory, **asking(first, second, quorum=2)) as running,
    ):
        covered = bank.grow(running)
        wait_witnessed(running, covered)
        second.go_away()
        size = bank.grow(running)
        wait_until(lambda: first.tree_size == size)
        assert checkpoint_of(running).witnessed_tree_size == covered
        second.come_back()
        wait_witnessed(running, size)


def test_an_outage_blocks_nobody_and_is_seen(bank: Bank, witness: Neighbour) -> None:
    settings = asking(witness, WITNESSES__LATE_SECONDS="1", SERVER__METRICS_LISTEN="127.0.0.1:0")
    serving_state = health_pb2.HealthCheckResponse.SERVING
    with serving(bank.directory, **settings) as running:
        wait_witnessed(running, bank.grow(running))
        assert state_of(running) == serving_state
        witness.go_away()
        size = bank.grow(running, 20)
        wait_until(lambda: state_of(running) != serving_state)
        assert metric(running, "jinku_witness_lag_seconds") > 0
        failed = 'jinku_witness_failures_total{reason="unreachable",witness="witness.example/w0"}'
        assert metric(running, failed) >= 1
        assert metric(running, "jinku_witnessed_entries") < size
        bank.grow(running)
        witness.come_back()
        wait_until(lambda: state_of(running) == serving_state)
        assert metric(running, "jinku_witnessed_entries") == size + 1
        cosigned = 'jinku_witness_cosigned_entries{witness="witness.example/w0"}'
        assert metric(running, cosigned) == size + 1


def test_a_cosignature_that_is_none_is_not_served(bank: Bank, witness: Neighbour) -> None:
    """A witness that answers with another's key, or with nonsense, is no witness."""
    with (
        liar(Answer(200, b"\xe2\x80\x94 witness.example/w0 " + b"A" * 104 + b"\n")) as url,
        serving(
            bank.directory,
            **asking(
                witness,
                WITNESSES__ASKED=f'[{{url = "{url}", key = "{witness.key}"}}]',
                WITNESSES__WHEN_UNREACHABLE="serve",
                SERVER__METRICS_LISTEN="127.0.0.1:0",
            ),
        ) as running,
    ):
        failed = 'jinku_witness_failures_total{reason="wrong_answer",witness="witness.example/w0"}'
        wait_until(lambda: metric(running, failed) >= 1)
        assert checkpoint_of(running).witnessed_checkpoint == ""


# -- what witnesses know at the start


@pytest.mark.req("APP-02")
def test_a_ledger_put_back_to_an_older_state_is_not_served(bank: Bank, witness: Neighbour) -> None:
    settings = asking(witness)
    with serving(bank.directory, **settings) as running:
        bank.grow(running)
    older = bank.copy("older")
    with serving(bank.directory, **settings) as running:
        size = bank.grow(running, 2)
        wait_witnessed(running, size)
    bank.put_back(older)
    refused = run_jinkud("serve", "--config", str(bank.config), **as_environment(settings))
    assert refused.returncode == 1
    assert "witness witness.example/w0: has seen 4 entries" in refused.stderr
    assert "this ledger has 2" in refused.stderr
    assert "shown by our own signature" in refused.stderr
    # In itself it is sound: nothing but the witness tells.
    assert run_jinkud("fsck", "--config", str(bank.config)).returncode == 0


@pytest.mark.req("APP-02")
def test_another_continuation_of_the_ledger_is_not_served(bank: Bank, witness: Neighbour) -> None:
    """A copy went on by itself: longer than what the witness saw, and not the same."""
    settings = asking(witness)
    with serving(bank.directory, **settings) as running:
        bank.grow(running)
    older = bank.copy("older")
    with serving(bank.directory, **settings) as running:
        wait_witnessed(running, bank.grow(running))
    bank.put_back(older)
    with serving(bank.directory) as running:
        bank.grow(running, 5)
    with (
        pytest.raises(
            LedgerCorrupt, match="has seen another tree of 3 entries.*shown by our own signature"
        ),
        serving(bank.directory, **settings),
    ):
        pytest.fail("was served")


def test_the_kept_checkpoint_tells_without_any_witness(bank: Bank, witness: Neighbour) -> None:
    with serving(bank.directory, **asking(witness)) as running:
        bank.grow(running)
    older = bank.copy("older")
    with serving(bank.directory, **asking(witness)) as running:
        wait_witnessed(running, bank.grow(running))
    kept = (bank.ledger / WITNESSED_FILE).read_bytes()
    bank.put_back(older)
    (bank.ledger / WITNESSED_FILE).write_bytes(kept)
    with (
        pytest.raises(LedgerCorrupt, match="put back to an older state"),
        serving(bank.directory),
    ):
        pytest.fail("was served")


def test_a_witness_that_is_behind_is_brought_forward(bank: Bank, witness: Neighbour) -> None:
    with serving(bank.directory, **asking(witness)) as running:
        wait_witnessed(running, bank.grow(running))
    with serving(bank.directory) as running:
        size = bank.grow(running, 7)
    with serving(bank.directory, **asking(witness)) as running:
        assert checkpoint_of(running).witnessed_tree_size == size


def test_too_few_witnesses_to_know(bank: Bank, tmp_path: Path) -> None:
    """With a quorum of 2 of 3, any 2 that answer include one of every quorum there was."""
    with neighbours(tmp_path, bank.key, 3) as (first, second, third):
        settings = asking(first, second, third, quorum=2)
        with serving(bank.directory, **settings) as running:
            wait_witnessed(running, bank.grow(running))
        third.go_away()
        with serving(bank.directory, **settings):
            pass
        second.go_away()
        refused = run_jinkud("serve", "--config", str(bank.config), **as_environment(settings))
        assert refused.returncode == 4
        assert "1 of 3 witnesses answered, 2 are needed" in refused.stderr
        assert "witness witness.example/w2: http://127.0.0.1" in refused.stderr
        assert "witnesses.when_unreachable" in refused.stderr
        with serving(bank.directory, **settings, WITNESSES__WHEN_UNREACHABLE="serve") as running:
            assert bank.grow(running) > 0
        second.come_back()
        third.come_back()


def test_a_witness_that_does_not_know_us_has_not_answered(bank: Bank, tmp_path: Path) -> None:
    another = notes.VerifierKey.make("another.example/log", bytes(range(32)))
    with (
        neighbours(tmp_path, str(another)) as (stranger,),
        pytest.raises(WitnessesUnreachable, match="404: it does not know this log"),
        serving(bank.directory, **asking(stranger)),
    ):
        pytest.fail("was served")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(409, b"999\n", SIZE_TYPE), "has seen 999 entries.* shows no signature of ours"),
        (Answer(422, b""), "has seen another tree of 1 entries.* shows no signature of ours"),
        # As the protocol's version 1.0.0 has it, which left open what stands in it.
        (Answer(409, b"1\n", SIZE_TYPE), "has seen another tree of 1 entries.* shows no signature"),
        (Answer(409, b""), "has seen another tree of 1 entries.* shows no signature of ours"),
    ],
)
def test_a_claim_refuses_the_start_and_never_stops_what_runs(
    bank: Bank, witness: Neighbour, answer: Answer, why: str
) -> None:
    """Nothing signs a 409: at the start it is asked about, later it must not end the service."""
    with liar(answer) as url:
        lied_to = asking(witness, WITNESSES__ASKED=f'[{{url = "{url}", key = "{witness.key}"}}]')
        with pytest.raises(LedgerCorrupt, match=why), serving(bank.directory, **lied_to):
            pytest.fail("was served")
    more = {"SERVER__METRICS_LISTEN": "127.0.0.1:0", "WITNESSES__WHEN_UNREACHABLE": "serve"}
    with liar(refuse(500, "later"), answer) as url:
        asked = f'[{{url = "{url}", key = "{witness.key}"}}]'
        with serving(bank.directory, **asking(witness, **more, WITNESSES__ASKED=asked)) as running:
            claimed = (
                'jinku_witness_failures_total{reason="contradiction",witness="witness.example/w0"}'
            )
            wait_until(lambda: metric(running, claimed) >= 1)
            assert bank.grow(running, 3) == 4
            assert running.service.failure is None


def test_what_our_own_signature_proves_stops_the_service(bank: Bank, witness: Neighbour) -> None:
    """The check at the start could not be made; the witness comes back and shows what it has."""
    settings = asking(witness, WITNESSES__WHEN_UNREACHABLE="serve")
    with serving(bank.directory, **settings) as running:
        bank.grow(running)
    older = bank.copy("older")
    with serving(bank.directory, **settings) as running:
        wait_witnessed(running, bank.grow(running, 2))
    bank.put_back(older)
    witness.go_away()
    with daemon(
        bank.config, **as_environment(settings), JINKU_SERVER__LISTEN="127.0.0.1:0"
    ) as ours:
        witness.come_back()
        assert ours.wait() == 70
    events = {str(line["event"]) for line in ours.events()}
    assert "serving without the word of enough witnesses" in events
    assert "stopped: a witness has seen a later checkpoint of this ledger" in events


def as_environment(settings: dict[str, str]) -> dict[str, str]:
    return {f"JINKU_{name}": value for name, value in settings.items()}


# -- settings


@pytest.mark.parametrize(
    ("asked", "quorum", "why"),
    [
        ('[{url = "http://w/", key = "nonsense"}]', "1", r"asked\[0\]\.key: verifier key: expected"),
        ('[{url = "http://w/", key = "KEY"}]', "1", r"asked\[0\]\.key: .* a log's, not a witness's"),
        ('[{url = "http://w/", key = "W"}, {url = "http://x/", key = "W"}]', "1", "stands there twice"),
        ('[{url = "http://w/", key = "W"}]', "2", "quorum is 2, of 1 witnesses asked"),
        ('[{url = "ftp://w/", key = "W"}]', "1", "is not of the form"),
        ('[{url = "http://a:b@w/", key = "W"}]', "1", "is not of the form"),
        ('[{key = "W"}]', "1", "url.* is missing"),
    ],
)  # fmt: skip
def test_mistakes_in_the_settings(
    bank: Bank, witness: Neighbour, asked: str, quorum: str, why: str
) -> None:
    text = asked.replace("KEY", bank.key).replace('"W"', f'"{witness.key}"')
    with (
        pytest.raises(SettingsError, match=why),
        serving(bank.directory, WITNESSES__ASKED=text, WITNESSES__QUORUM=quorum),
    ):
        pytest.fail("was served")
