"""What a ledger gives of its tree: consistency proofs and tiles that check, and nothing beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import InvalidRequest, LedgerCorrupt
from core.ledger.ledger import RECEIPT_SIZE_MAX, Ledger
from core.ledger.tiles import LEVEL_MAX, TILE_WIDTH, read_tile, tile_width
from core.ledger.witnessed import WITNESSED_FILE
from core.procedures.queries import get_consistency_proof, get_entry, get_tile
from jinku import notes
from jinku.tiles import Tile, TileTree, tile_of
from jinku.type.v1.command_pb2 import DurabilityLevel
from jinku.v1.ledger_pb2 import (
    GetConsistencyProofRequest,
    GetEntryRequest,
    GetTileRequest,
)
from ledgers import found, reopen
from registrar import Registrar, institution
from signed_tree import cosign, witness_key

COUNT = 300


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A journal of more than one tile."""
    made = Registrar(tmp_path_factory.mktemp("ledger"))
    while made.ledger.size < COUNT:
        made.accept(institution(f"I-{made.ledger.size}"))
    yield made.ledger
    made.ledger.close()


def test_consistency_proofs_check(ledger: Ledger) -> None:
    for first, second in ((1, 1), (1, 2), (1, COUNT), (255, 256), (256, 257), (130, COUNT)):
        answer = get_consistency_proof(
            GetConsistencyProofRequest(first_tree_size=first, second_tree_size=second), ledger
        )
        notes.check_consistency(
            first,
            second,
            answer.first_root_hash,
            answer.second_root_hash,
            answer.consistency_proof,
        )
        assert answer.first_root_hash == ledger.root(first)
    newest = get_consistency_proof(GetConsistencyProofRequest(first_tree_size=1), ledger)
    assert newest.second_tree_size == ledger.size


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        (0, 1, "first_tree_size"),
        (0, 0, "first_tree_size"),
        (2, 1, "first_tree_size"),
        (COUNT + 1, None, "first_tree_size"),
        (1, COUNT + 1, "second_tree_size"),
        (1, 2**64 - 1, "second_tree_size"),
    ],
)
def test_sizes_without_a_proof(ledger: Ledger, first: int, second: int | None, field: str) -> None:
    request = GetConsistencyProofRequest(first_tree_size=first, second_tree_size=second)
    with pytest.raises(InvalidRequest) as caught:
        get_consistency_proof(request, ledger)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_tiles_lead_to_the_signed_root(ledger: Ledger) -> None:
    key = notes.VerifierKey.parse(ledger.verifier_key)
    checkpoint = notes.open_checkpoint(ledger.checkpoint().note, key)

    def fetch(tile: Tile) -> bytes:
        request = GetTileRequest(level=tile.level, tile_index=tile.index, width=tile.width)
        return get_tile(request, ledger).hashes

    tree = TileTree(checkpoint.tree_size, fetch)
    assert tree.root() == checkpoint.root_hash
    for index in (0, 255, 256, COUNT - 1):
        assert tree.inclusion_proof(index) == ledger.proof(index, checkpoint.tree_size)
        assert tree.leaf_hash(index) == notes.hash_leaf(ledger.entry(index).leaf)


def test_a_tile_is_the_beginning_of_itself(ledger: Ledger) -> None:
    whole = read_tile(ledger, 0, 0, TILE_WIDTH)
    for width in (1, 2, 255):
        assert read_tile(ledger, 0, 0, width) == whole[: 32 * width]
    assert [tile_width(ledger.size, level, 0) for level in range(3)] == [256, 1, 0]
    assert tile_width(ledger.size, 0, 1) == COUNT - 256


@pytest.mark.parametrize(
    ("level", "index", "width"),
    [(0, 0, 0), (0, 0, 257), (0, 1, COUNT - 255), (0, 2, 1), (1, 0, 2), (2, 0, 1), (LEVEL_MAX, 0, 1),
     (LEVEL_MAX + 1, 0, 1), (63, 0, 1), (2**32 - 1, 0, 1), (0, 2**64 - 1, 1)],
)  # fmt: skip
def test_tiles_that_are_not_there(ledger: Ledger, level: int, index: int, width: int) -> None:
    request = GetTileRequest(level=level, tile_index=index, width=width)
    with pytest.raises(InvalidRequest, match="width"):
        get_tile(request, ledger)


def test_widths_agree_with_the_clients(ledger: Ledger) -> None:
    for size in (1, 255, 256, 257, 70_000):
        assert tile_width(size, 0, 0) == tile_of(size, 0, 0).width


# -- the witnessed checkpoint

WITNESS, SEED = "witness.example/w1", b"w" * 32


def cosigned(ledger: Ledger) -> str:
    note = ledger.checkpoint().note
    return note + cosign(note, WITNESS, SEED, 1_700_000_000)


def test_a_witnessed_receipt_has_the_cosignatures(tmp_path: Path) -> None:
    made = Registrar(tmp_path)
    made.accept(institution())
    ledger, request = made.ledger, GetEntryRequest(entry_index=0, witnessed=True)
    plain = get_entry(request, ledger)
    assert plain.level == DurabilityLevel.DURABILITY_LEVEL_LOCAL
    ledger.witnessed.keep(cosigned(ledger))
    answer = get_entry(request, ledger)
    assert answer.level == DurabilityLevel.DURABILITY_LEVEL_WITNESSED
    assert "— witness.example/w1 " in answer.receipt.checkpoint
    assert answer.receipt.ByteSize() <= RECEIPT_SIZE_MAX
    key = notes.VerifierKey.parse(witness_key(WITNESS, SEED), notes.COSIGNATURE)
    assert notes.require_quorum(answer.receipt.checkpoint, [key], 1)
    # Who does not ask, or asks about what came later, is told no more than is true of that.
    assert get_entry(GetEntryRequest(entry_index=0), ledger) == plain
    made.accept(institution("I-2"))
    later = get_entry(GetEntryRequest(entry_index=ledger.size - 1, witnessed=True), ledger)
    assert later.level == DurabilityLevel.DURABILITY_LEVEL_LOCAL
    ledger.close()


def test_cosignatures_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    found(tmp_path)
    ledger = reopen(tmp_path)
    note = cosigned(ledger)
    many = note + "".join(
        cosign(note, f"witness.example/{number:060}", SEED, 1) for number in range(30)
    )
    ledger.witnessed.keep(many)
    answer = get_entry(GetEntryRequest(entry_index=0, witnessed=True), ledger)
    assert answer.level == DurabilityLevel.DURABILITY_LEVEL_LOCAL
    assert answer.receipt == ledger.receipt(0)
    ledger.close()


def test_what_was_kept_is_sealed_and_comes_back(tmp_path: Path) -> None:
    found(tmp_path)
    ledger = reopen(tmp_path)
    note = cosigned(ledger)
    ledger.witnessed.keep(note)
    ledger.close()
    path = tmp_path / "ledger" / WITNESSED_FILE
    stored = path.read_bytes()
    assert b"jinku" not in stored
    assert b"witness" not in stored
    ledger = reopen(tmp_path)
    assert ledger.witnessed.newest is None
    kept = ledger.witnessed.load()
    assert kept is not None
    assert kept.note == note
    path.write_bytes(stored[:-1] + bytes([stored[-1] ^ 1]))
    with pytest.raises(LedgerCorrupt, match="does not open"):
        ledger.witnessed.load()
    ledger.close()
