"""Hash tiles of the journal (c2sp.org/tlog-tiles): the Merkle nodes of every eighth level, 256 at a
time. A tile is made of stored nodes and never changes: what it holds is complete.
"""

from __future__ import annotations

from core.errors import LedgerCorrupt
from core.ledger.ledger import Ledger
from core.ledger.merkle import (
    Fetch,
    complete_subtrees,
    inclusion_proof,
    path_root,
    subtree_root,
)
from core.ledger.note import Checkpoint

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
# A level above holds 2^64 leaves in less than one hash.
LEVEL_MAX = 7


def tile_width(tree_size: int, level: int, index: int) -> int:
    """How many hashes the tile has in a tree of this size: 0 to 256, 0 if it is not there."""
    complete = tree_size >> TILE_HEIGHT * level
    return max(0, min(TILE_WIDTH, complete - index * TILE_WIDTH))


def read_tile(ledger: Ledger, level: int, index: int, width: int) -> bytes:
    """The first `width` hashes of a tile, 32 bytes each.

    Raises IndexError if the journal has not so many, LedgerCorrupt if they do not lead to the root of the
    newest checkpoint.
    """
    checkpoint = ledger.checkpoint()
    there = tile_width(checkpoint.tree_size, level, index) if 0 <= level <= LEVEL_MAX else 0
    if not 0 < width <= there:
        raise IndexError(f"tile {index} of level {level} has {there} hashes")
    first, bottom = index * TILE_WIDTH, TILE_HEIGHT * level
    with ledger.nodes() as fetch:
        hashes = [fetch(bottom, first + at) for at in range(width)]
        for start, height in complete_subtrees(first, first + width):
            hashed = subtree_root(hashes[start - first : start - first + (1 << height)])
            if not leads_to(checkpoint, hashed, bottom + height, start >> height, fetch):
                raise LedgerCorrupt(
                    f"tile {index} of level {level}",
                    f"does not lead to the root of {checkpoint.tree_size} entries",
                )
    return b"".join(hashes)


def leads_to(checkpoint: Checkpoint, hashed: bytes, level: int, index: int, fetch: Fetch) -> bool:
    """Whether the complete subtree (level, index) of this hash is one of the checkpoint's tree."""
    size = checkpoint.tree_size
    path = inclusion_proof(index << level, size, fetch)[level:]
    return path_root(hashed, index, (size - 1 >> level) + 1, path) == checkpoint.root_hash
