"""Proofs of RFC 6962's reference tree as others publish them, and all that others publish as no proof.

The wrong ones are made by the rules of github.com/transparency-dev/merkle (`cmd/proofgen`), under its
names for them.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jinku.notes import EMPTY_ROOT, NoteInvalid, check_consistency, compute_root, hash_leaf
from jinku.tiles import Tile, TileTree

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "rfc6962.json").read_text())
LEAVES = [hash_leaf(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"]]
ROOTS = [bytes.fromhex(root) for root in VECTORS["roots"]]
SOME_HASH = sha256(b"some hash").digest()
# What an index or size below 0 is in 64 bits.
WRAPPED = (1 << 64) - 1


class Inclusion(NamedTuple):
    index: int
    size: int
    root: bytes
    leaf: bytes
    proof: list[bytes]

    def holds(self) -> bool:
        try:
            return compute_root(self.leaf, self.index, self.size, self.proof) == self.root
        except NoteInvalid:
            return False


class Consistency(NamedTuple):
    first: int
    second: int
    first_root: bytes
    second_root: bytes
    proof: list[bytes]

    def holds(self) -> bool:
        try:
            check_consistency(*self)
        except NoteInvalid:
            return False
        return True


def read_inclusion(row: dict[str, Any]) -> Inclusion:
    index, size = row["index"], row["size"]
    proof = [bytes.fromhex(one) for one in row["proof"]]
    return Inclusion(index, size, ROOTS[size - 1], LEAVES[index], proof)


def read_consistency(row: dict[str, Any]) -> Consistency:
    first, second = row["first"], row["second"]
    proof = [bytes.fromhex(one) for one in row["proof"]]
    return Consistency(first, second, ROOTS[first - 1], ROOTS[second - 1], proof)


INCLUSION = [read_inclusion(row) for row in VECTORS["inclusion"]]
CONSISTENCY = [read_consistency(row) for row in VECTORS["consistency"]]


def changed(proof: list[bytes], at: int, bit: int) -> list[bytes]:
    return [*proof[:at], bytes([proof[at][0] ^ bit]) + proof[at][1:], *proof[at + 1 :]]


def wrong_inclusion(right: Inclusion) -> dict[str, Inclusion]:
    index, size, root, _, proof = right
    wrong = {
        "leafIdx sub @1": right._replace(index=index - 1 if index else WRAPPED),
        "leafIdx plus @1": right._replace(index=index + 1),
        "leafIdx XOR @2": right._replace(index=index ^ 2),
        "index is the size": right._replace(index=size),
        "treeSize mul @2": right._replace(size=size * 2),
        "treeSize div @2": right._replace(size=size // 2),
        "treeSize zero": right._replace(size=0),
        "wrong leaf": right._replace(leaf=b"WrongLeaf"),
        "empty leaf": right._replace(leaf=b""),
        "random leaf": right._replace(leaf=SOME_HASH),
        "empty root": right._replace(root=EMPTY_ROOT),
        "no root": right._replace(root=b""),
        "random root": right._replace(root=SOME_HASH),
        "trailing garbage": right._replace(proof=[*proof, b""]),
        "trailing root": right._replace(proof=[*proof, root]),
        "preceding garbage": right._replace(proof=[b"", *proof]),
        "preceding root": right._replace(proof=[root, *proof]),
    }
    for at in range(len(proof)):
        wrong[f"modified proof[{at}]"] = right._replace(proof=changed(proof, at, 8))
    if proof:
        wrong["removed component"] = right._replace(proof=proof[:-1])
    if len(proof) > 1:
        wrong["inserted component"] = right._replace(proof=[proof[0], SOME_HASH, *proof[1:]])
        wrong["swapped components"] = right._replace(proof=[proof[1], proof[0], *proof[2:]])
    return wrong


def wrong_consistency(right: Consistency) -> dict[str, Consistency]:
    first, second, first_root, second_root, proof = right
    wrong = {
        "size1 sub @1": right._replace(first=first - 1),
        "size1 plus @1": right._replace(first=first + 1),
        "size1 XOR @2": right._replace(first=first ^ 2),
        "size2 mul @2": right._replace(second=second * 2),
        "size2 div @2": right._replace(second=second // 2),
        "size1 zero": right._replace(first=0),
        "sizes zero": right._replace(first=0, second=0),
        "size1 greater than size2": right._replace(first=second + 1),
        "wrong root1": right._replace(first_root=SOME_HASH),
        "wrong root2": right._replace(second_root=SOME_HASH),
        "trailing garbage": right._replace(proof=[*proof, b""]),
        "trailing root1": right._replace(proof=[*proof, first_root]),
        "trailing root2": right._replace(proof=[*proof, second_root]),
        "preceding garbage": right._replace(proof=[b"", *proof]),
        "preceding root1": right._replace(proof=[first_root, *proof]),
        "preceding root2": right._replace(proof=[second_root, *proof]),
    }
    if proof:
        wrong["swapped roots"] = right._replace(first_root=second_root, second_root=first_root)
        wrong["empty proof"] = right._replace(proof=[])
        wrong["truncated proof"] = right._replace(proof=proof[:-1])
        wrong["preceding proof @0"] = right._replace(proof=[proof[0], *proof])
        wrong["swapped components"] = right._replace(proof=[proof[1], proof[0], *proof[2:]])
    for at in range(len(proof)):
        wrong[f"modified proof@{at}"] = right._replace(proof=changed(proof, at, 16))
    return wrong


def name(right: Inclusion | Consistency) -> str:
    return f"{right[0]}-{right[1]}"


def tile(asked: Tile) -> bytes:
    """The one tile that the reference tree has."""
    assert (asked.level, asked.index) == (0, 0)
    return b"".join(LEAVES[: asked.width])


@pytest.mark.parametrize("right", INCLUSION, ids=name)
def test_published_inclusion(right: Inclusion) -> None:
    assert right.holds()
    assert TileTree(right.size, tile).inclusion_proof(right.index) == right.proof
    accepted = [what for what, wrong in wrong_inclusion(right).items() if wrong.holds()]
    assert accepted == []


@pytest.mark.parametrize("right", CONSISTENCY, ids=name)
def test_published_consistency(right: Consistency) -> None:
    assert right.holds()
    assert TileTree(right.second, tile).consistency_proof(right.first) == right.proof
    accepted = [what for what, wrong in wrong_consistency(right).items() if wrong.holds()]
    assert accepted == []


@pytest.mark.parametrize(("index", "size"), [(0, 0), (0, 1), (1, 0), (2, 1)])
def test_nothing_is_in_no_tree(index: int, size: int) -> None:
    for root in (b"", EMPTY_ROOT):
        for leaf in (b"", SOME_HASH):
            assert not Inclusion(index, size, root, leaf, []).holds()


@pytest.mark.parametrize(
    ("first", "second", "proof"),
    [(0, 0, []), (0, 1, []), (1, 0, []), (2, 1, []), (1, 2, []), (0, 0, [b""]), (0, 1, [b""]),
     (1, 1, [b""])],
)  # fmt: skip
def test_nothing_follows_from_the_same_root(first: int, second: int, proof: list[bytes]) -> None:
    assert not Consistency(first, second, SOME_HASH, SOME_HASH, proof).holds()
