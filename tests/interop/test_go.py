"""Another implementation, the Go project's golang.org/x/mod/sumdb, verifies our log unchanged:
signed notes, cosignatures, hash tiles from the public door, our inclusion and consistency proofs.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jinku import notes
from jinku.v1.ledger_pb2 import (
    GetCheckpointRequest,
    GetCheckpointResponse,
    GetConsistencyProofRequest,
    GetConsistencyProofResponse,
    GetEntryRequest,
    GetEntryResponse,
    GetProofRequest,
    GetProofResponse,
)
from jinku.v1.registry_pb2 import RegisterInstitutionRequest, RegisterInstitutionResponse
from running import LEDGER, REGISTRY, Running, call, found, serving, wait_until
from signed_tree import witness_key
from witnessing import asking, neighbours

PROGRAM = Path(__file__).with_name("verify.go")
COSIGNER, SEED = "witness.example/go", b"g" * 32
# Before and after the first tile is full, and a level above.
SIZES = (2, 3, 255, 256, 257, 300)


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("go")
    program = directory / "verify"
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOCACHE": str(directory / "cache"),
        "CGO_ENABLED": "0",
    }
    built = subprocess.run(
        ["go", "build", "-o", program, PROGRAM],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return program


def encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


def prove_entry(running: Running, index: int, tree_size: int) -> dict[str, Any]:
    auditor = running.auditor()
    asked = GetEntryRequest(entry_index=index)
    receipt = call(auditor, LEDGER + "GetEntry", asked, GetEntryResponse).receipt
    proof = GetProofRequest(entry_index=index, tree_size=tree_size)
    answer = call(auditor, LEDGER + "GetProof", proof, GetProofResponse)
    return {
        "Index": index,
        "Leaf": encode(receipt.header + receipt.events_digest),
        "Proof": [encode(one) for one in answer.inclusion_proof],
    }


def prove_older(running: Running, note: str, tree_size: int) -> dict[str, Any]:
    first = notes.parse_checkpoint(notes.Note.parse(note).text).tree_size
    asked = GetConsistencyProofRequest(first_tree_size=first, second_tree_size=tree_size)
    answer = call(
        running.auditor(), LEDGER + "GetConsistencyProof", asked, GetConsistencyProofResponse
    )
    return {"Note": note, "Proof": [encode(one) for one in answer.consistency_proof]}


@pytest.mark.needs_debian("golang-go", "golang-golang-x-mod-dev")
@pytest.mark.req("MON-09")
def test_go_verifies_a_served_log(verifier: Path, tmp_path: Path) -> None:
    directory = found(tmp_path)
    with serving(directory) as running:
        log_key = running.service.ledger.verifier_key
    with (
        neighbours(tmp_path, log_key) as (witness,),
        serving(directory, PUBLIC__LISTEN="127.0.0.1:0", **asking(witness)) as running,
    ):
        older: list[str] = []
        registrar, auditor = running.registrar(), running.auditor()
        while running.service.ledger.size < SIZES[-1]:
            number = running.service.ledger.size
            request = RegisterInstitutionRequest(
                command_id=running.command_id(), code=f"B{number}", name="支行", kind=3
            )
            call(registrar, REGISTRY + "RegisterInstitution", request, RegisterInstitutionResponse)
            if number + 1 in SIZES[:-1]:
                answer = call(
                    auditor, LEDGER + "GetCheckpoint", GetCheckpointRequest(), GetCheckpointResponse
                )
                older.append(answer.checkpoint)
        size = running.service.ledger.size
        wait_until(lambda: witness.tree_size == size)
        wait_until(lambda: getattr(running.service.ledger.witnessed.newest, "tree_size", 0) == size)
        handed_in = {
            "URL": f"http://{running.service.public_listen}",
            "LogKey": log_key,
            "Witness": {"Name": witness.key.name, "Public": encode(witness.key.public_key)},
            "Cosigner": {"Name": COSIGNER, "Seed": encode(SEED)},
            "Entries": [prove_entry(running, i, size) for i in (0, 1, 127, 255, 256, size - 1)],
            "Older": [prove_older(running, note, size) for note in older],
        }
        answer = subprocess.run(
            [verifier], input=json.dumps(handed_in), capture_output=True, text=True, check=False
        )
    assert answer.returncode == 0, answer.stderr
    verified = json.loads(answer.stdout)
    assert (verified["entries"], verified["older"], verified["tree_size"]) == (6, 5, size)
    # What Go cosigned is a cosignature to us, of the same verifier key.
    assert verified["cosigner"] == witness_key(COSIGNER, SEED)
    key = notes.VerifierKey.parse(verified["cosigner"], notes.COSIGNATURE)
    assert notes.require_quorum(verified["cosigned"], [key, witness.key], 2)
    assert (
        notes.open_checkpoint(verified["cosigned"], notes.VerifierKey.parse(log_key)).tree_size
        == size
    )
