"""Tiles: one path for each, and from tiles alone the same proofs as from the leaves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jinku.notes import NoteInvalid, check_consistency, compute_root
from jinku.tiles import INDEX_MAX, WIDTH, Tile, TileTree, tile_of
from signed_tree import consistency, path, tree_hash

C2SP = json.loads((Path(__file__).parents[2] / "vectors" / "c2sp.json").read_text("utf-8"))["tiles"]
LEAVES = [b"%d" % number for number in range(1100)]


class Made:
    """The tiles of a tree of `LEAVES`, hashed as RFC 6962 says, and which of them were asked for."""

    def __init__(self) -> None:
        self.asked: list[Tile] = []

    def __call__(self, tile: Tile) -> bytes:
        self.asked.append(tile)
        span = WIDTH**tile.level
        first = tile.index * WIDTH * span
        starts = range(first, first + tile.width * span, span)
        return b"".join(tree_hash(LEAVES[start : start + span]) for start in starts)


# -- paths


@pytest.mark.parametrize("example", C2SP["paths"], ids=lambda one: one["path"])
def test_published_paths(example: dict[str, int | str]) -> None:
    tile = Tile(int(example["level"]), int(example["index"]), int(example["width"]))
    assert tile.path == example["path"]
    assert Tile.parse(tile.path) == tile


@given(st.integers(0, 63), st.integers(0, INDEX_MAX), st.integers(1, WIDTH))
def test_every_tile_has_its_path(level: int, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert Tile.parse(tile.path) == tile


@pytest.mark.parametrize(
    "wrong",
    [
        "", "tile", "tile/0", "tile/0/", "tile/0/0", "tile/0/1234", "tile/0/x001", "tile/0/001/002",
        "tile/0/x000/001", "tile/00/001", "tile/64/001", "tile/-1/001", "tile/0/-01", "tile/0/001/",
        "/tile/0/001", "tile/0/001.p", "tile/0/001.p/", "tile/0/001.p/0", "tile/0/001.p/256",
        "tile/0/001.p/01", "tile/0/001.p/2/", "tile/0/001p/2", "tile/0/X001/002", "tile/0/００1",
        "tile/entries/000", "tile/0/../0/001", "tile/0/001\n", "tile/0/001?x", "tile/0/001%00",
        "tile/0/" + "x999/" * 6 + "999", "tile/0/" + "x999/" * 9000 + "999", "checkpoint",
    ],
)  # fmt: skip
def test_other_ways_to_write_it_are_none(wrong: str) -> None:
    with pytest.raises(NoteInvalid):
        Tile.parse(wrong)


# -- trees


@pytest.mark.parametrize("tree", C2SP["trees"], ids=lambda one: str(one["size"]))
def test_published_trees(tree: dict[str, object]) -> None:
    size = int(str(tree["size"]))
    counted: dict[tuple[int, int], int] = {}
    for level in range(8):
        for index in range(size):
            try:
                tile = tile_of(size, level, index)
            except NoteInvalid:
                break
            counted[level, tile.width] = counted.get((level, tile.width), 0) + 1
    assert [[level, count, width] for (level, width), count in counted.items()] == tree["tiles"]


@pytest.mark.parametrize("size", [1, 2, 5, 255, 256, 257, 511, 512, 513, 1024, 1100])
def test_proofs_from_tiles_are_those_from_leaves(size: int) -> None:
    tree, leaves = TileTree(size, Made()), LEAVES[:size]
    root = tree_hash(leaves)
    assert tree.root() == root
    for index in {0, size // 3, size // 2, size - 1}:
        proof = tree.inclusion_proof(index)
        assert proof == path(index, leaves)
        assert compute_root(tree.leaf_hash(index), index, size, proof) == root
    for first in {1, size // 3 + 1, size // 2 + 1, size}:
        proof = tree.consistency_proof(first)
        assert proof == consistency(first, leaves)
        check_consistency(first, size, tree_hash(leaves[:first]), root, proof)


def test_the_empty_tree() -> None:
    assert TileTree(0, Made()).root() == hashlib.sha256(b"").digest()


@given(st.integers(1, 1100))
def test_a_proof_takes_few_tiles_each_once(size: int) -> None:
    made = Made()
    TileTree(size, made).consistency_proof((size + 1) // 2)
    assert len(made.asked) == len(set(made.asked)) <= 4


def test_what_is_not_there() -> None:
    tree = TileTree(300, Made())
    for wrong in (-1, 300):
        with pytest.raises(NoteInvalid, match="outside"):
            tree.inclusion_proof(wrong)
    for wrong in (0, 301):
        with pytest.raises(NoteInvalid, match="nothing proves"):
            tree.consistency_proof(wrong)
    with pytest.raises(NoteInvalid, match="no tile 2 at level 0"):
        tile_of(300, 0, 2)


@pytest.mark.parametrize("content", [b"", bytes(32), bytes(44 * 32 + 1), bytes(256 * 32)])
def test_a_tile_of_another_length_is_refused(content: bytes) -> None:
    with pytest.raises(NoteInvalid, match=r"not 44 hashes"):
        TileTree(300, lambda _: content).read(tile_of(300, 0, 1))
