"""Questions to the journal: proofs that lead to the root, ends that are named, and who answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message

from core.errors import InvalidRequest
from core.ledger.merkle import leaf_hash
from core.ledger.port import Entry
from core.procedures.queries import get_checkpoint, get_container, get_entry, get_proof
from core.procedures.table import QUERIES
from jinku.event.v1.event_pb2 import Events
from jinku.notes import compute_root
from jinku.v1 import ledger_pb2, registry_pb2
from jinku.v1.ledger_pb2 import GetCheckpointRequest, GetEntryRequest, GetProofRequest
from jinku.v1.registry_pb2 import GetContainerRequest
from ledgers import HANDLERS
from registrar import Registrar, container, institution, issue, portal, vault


@pytest.fixture
def registrar(tmp_path: Path) -> Iterator[Registrar]:
    """A journal of five entries."""
    made = Registrar(tmp_path)
    for request in (institution(), vault(), portal(), container()):
        made.accept(request)
    yield made
    made.ledger.close()


def test_proof_leads_to_the_root(registrar: Registrar) -> None:
    registrar.accept(issue(b"\1" * 12))
    size = registrar.ledger.size
    for tree_size in range(1, size + 1):
        for index in range(tree_size):
            response = get_proof(
                GetProofRequest(entry_index=index, tree_size=tree_size), registrar.ledger
            )
            path = list(response.inclusion_proof)
            assert response.leaf_hash == leaf_hash(registrar.ledger.entry(index).leaf)
            assert compute_root(response.leaf_hash, index, tree_size, path) == response.root_hash
    newest = get_proof(GetProofRequest(entry_index=0), registrar.ledger)
    assert newest.tree_size == size
    assert newest.root_hash == registrar.ledger.checkpoint().root_hash


def test_entry_and_checkpoint_are_served(registrar: Registrar) -> None:
    receipt = get_entry(GetEntryRequest(entry_index=0), registrar.ledger).receipt
    assert receipt.header == registrar.ledger.entry(0).header
    assert Events.FromString(receipt.events).events[0].HasField("realm_founded")
    checkpoint = get_checkpoint(GetCheckpointRequest(), registrar.ledger)
    assert checkpoint.tree_size == registrar.ledger.size
    assert checkpoint.verifier_key == registrar.ledger.verifier_key
    assert checkpoint.checkpoint


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (GetEntryRequest(entry_index=5), "entry_index"),
        (GetEntryRequest(entry_index=2**64 - 1), "entry_index"),
        (GetProofRequest(entry_index=5), "entry_index"),
        (GetProofRequest(entry_index=0, tree_size=0), "entry_index"),
        (GetProofRequest(entry_index=3, tree_size=3), "entry_index"),
        (GetProofRequest(entry_index=0, tree_size=6), "tree_size"),
    ],
)
def test_beyond_the_end_is_a_fault_of_the_field(
    registrar: Registrar, ask: Message, field: str
) -> None:
    assert registrar.ledger.size == 5
    with pytest.raises(InvalidRequest) as raised:
        QUERIES[type(ask)].answer(ask, registrar.ledger)
    assert [violation.field for violation in raised.value.violations] == [field]


def test_every_rpc_is_a_command_a_question_or_a_stream() -> None:
    for module in (registry_pb2, ledger_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                request = message_factory.GetMessageClass(method.input_type)
                assert (request in HANDLERS) != (request in QUERIES), method.full_name


def test_query_needs_no_writer(registrar: Registrar) -> None:
    """A question reads committed state while a commit is under way."""
    with registrar.ledger.writing():
        assert get_container(GetContainerRequest(label="K-1"), registrar.ledger).found


def test_what_a_snapshot_shows_is_told_before_the_tip_says_it(
    registrar: Registrar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the commit and the ledger's knowing of it: its rows are seen, and lead to its entry."""
    ledger = registrar.ledger
    committed = ledger._journal.committed
    told: list[tuple[int, list[int]]] = []

    def ask(first: int, entries: Sequence[Entry]) -> None:
        # Who reads calls it too.
        monkeypatch.undo()
        size = ledger.size
        answer = get_container(GetContainerRequest(label="K-9"), ledger)
        told.append((size, [item.entry_index for item in answer.history]))
        committed(first, entries)

    monkeypatch.setattr(ledger._journal, "committed", ask)
    registrar.accept(container("K-9"))
    assert told[0][1] == [told[0][0]] == [ledger.size - 1]
