"""The Merkle tree against RFC 6962's reference tree and against the definition itself."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ledger.merkle import (
    EMPTY_ROOT,
    Frontier,
    complete_subtrees,
    consistency_proof,
    consistency_roots,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_at,
)
from jinku.notes import NoteInvalid, check_consistency, compute_root
from signed_tree import consistency

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "rfc6962.json").read_text())


def defined_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, as it is written there."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\x01" + defined_root(leaves[:split]) + defined_root(leaves[split:])).digest()


class Tree:
    """Leaves in a dict of nodes, as the ledger keeps them in LMDB."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.nodes: dict[tuple[int, int], bytes] = {}
        self.frontier = Frontier(0, self.fetch)
        for leaf in leaves:
            for level, index, hashed in self.frontier.append(leaf_hash(leaf)):
                self.nodes[level, index] = hashed

    def fetch(self, level: int, index: int) -> bytes:
        return self.nodes[level, index]


def test_reference_tree() -> None:
    leaves = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]
    tree = Tree(leaves)
    for size, root in enumerate(VECTORS["roots"], 1):
        assert root_at(size, tree.fetch).hex() == root
        assert Tree(leaves[:size]).frontier.root().hex() == root
    assert root_at(0, tree.fetch) == EMPTY_ROOT


def test_published_proofs_are_what_is_made() -> None:
    tree = Tree([bytes.fromhex(leaf) for leaf in VECTORS["leaves"]])
    for row in VECTORS["inclusion"]:
        proof = inclusion_proof(row["index"], row["size"], tree.fetch)
        assert [one.hex() for one in proof] == row["proof"]
    for row in VECTORS["consistency"]:
        proof = consistency_proof(row["first"], row["second"], tree.fetch)
        assert [one.hex() for one in proof] == row["proof"]


@given(st.integers(1, 70))
def test_proofs_of_every_leaf_at_every_size(count: int) -> None:
    leaves = [b"%d" % i for i in range(count)]
    tree = Tree(leaves)
    for size in range(1, count + 1):
        root = defined_root(leaves[:size])
        assert root_at(size, tree.fetch) == root
        for index in range(size):
            path = inclusion_proof(index, size, tree.fetch)
            assert compute_root(leaf_hash(leaves[index]), index, size, path) == root


@given(st.integers(2, 200), st.data())
def test_a_changed_proof_is_not_accepted(count: int, data: st.DataObject) -> None:
    leaves = [b"%d" % i for i in range(count)]
    tree = Tree(leaves)
    index = data.draw(st.integers(0, count - 1))
    path = inclusion_proof(index, count, tree.fetch)
    row = data.draw(st.integers(0, len(path) - 1))
    bit = data.draw(st.integers(0, 255))
    changed = bytearray(path[row])
    changed[bit // 8] ^= 1 << bit % 8
    forged = [*path[:row], bytes(changed), *path[row + 1 :]]
    root = tree.frontier.root()
    assert compute_root(leaf_hash(leaves[index]), index, count, forged) != root
    for wrong_length in (path[:-1], [*path, path[0]]):
        with pytest.raises(NoteInvalid, match="too"):
            compute_root(leaf_hash(leaves[index]), index, count, wrong_length)


@given(st.integers(0, 5000))
def test_a_frontier_continues_where_the_nodes_end(size: int) -> None:
    assert sum(1 << level for _, level in complete_subtrees(0, size)) == size
    small = size % 300
    tree = Tree([b"%d" % i for i in range(small)])
    again = Frontier(small, tree.fetch)
    assert again.root() == tree.frontier.root()
    assert again.append(leaf_hash(b"x")) == tree.frontier.append(leaf_hash(b"x"))


@given(st.integers(0, 300), st.integers(0, 300))
def test_many_leaves_at_once_make_the_nodes_that_one_at_a_time_make(size: int, count: int) -> None:
    tree = Tree([b"%d" % i for i in range(size)])
    hashes = [leaf_hash(b"more %d" % i) for i in range(count)]
    many = Frontier(size, tree.fetch)
    made = many.extend(hashes)
    one_by_one = [node for hashed in hashes for node in tree.frontier.append(hashed)]
    assert made == sorted(one_by_one)
    assert (many.size, many.root()) == (size + count, tree.frontier.root())


def test_no_proof_outside_the_tree() -> None:
    tree = Tree([b"a", b"b"])
    for index, size in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="not in a tree"):
            inclusion_proof(index, size, tree.fetch)
        with pytest.raises(NoteInvalid, match="outside a tree"):
            compute_root(bytes(32), index, size, [])


@given(st.integers(1, 70))
def test_consistency_from_every_size_to_every_size(count: int) -> None:
    leaves = [b"%d" % i for i in range(count)]
    tree = Tree(leaves)
    roots = [defined_root(leaves[:size]) for size in range(count + 1)]
    for first in range(1, count + 1):
        proof = consistency_proof(first, count, tree.fetch)
        assert proof == consistency(first, leaves)
        check_consistency(first, count, roots[first], roots[count], proof)
        whole = roots[first], roots[count]
        assert consistency_roots(first, count, roots[first], proof) == whole
        for at, hashed in enumerate(proof):
            changed = [*proof[:at], node_hash(hashed, hashed), *proof[at + 1 :]]
            assert consistency_roots(first, count, roots[first], changed) != whole


def test_no_consistency_proof_from_nothing_or_backwards() -> None:
    tree = Tree([b"a", b"b"])
    for first, second in ((0, 0), (0, 2), (2, 1), (-1, 2)):
        with pytest.raises(ValueError, match="no proof from"):
            consistency_proof(first, second, tree.fetch)
