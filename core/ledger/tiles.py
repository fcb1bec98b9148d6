"""Hash tiles of the journal (c2sp.org/tlog-tiles): the Merkle nodes of every eighth level, 256 at a
time. A tile is made of stored nodes and never changes: what it holds is complete.
"""

from __future__ import annotations

from core.ledger.ledger import Ledger

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

    Raises IndexError if the journal has not so many.
    """
    there = tile_width(ledger.size, level, index) if 0 <= level <= LEVEL_MAX else 0
    if not 0 < width <= there:
        raise IndexError(f"tile {index} of level {level} has {there} hashes")
    first = index * TILE_WIDTH
    with ledger.nodes() as fetch:
        return b"".join(fetch(TILE_HEIGHT * level, first + at) for at in range(width))
