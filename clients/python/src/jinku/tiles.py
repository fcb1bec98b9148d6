"""Hash tiles (https://c2sp.org/tlog-tiles): their paths, and any proof made of them.

What a tile says is worth nothing by itself: the proofs made here are checked by `jinku.notes`
against a signed checkpoint, like anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from jinku.notes import EMPTY_ROOT, HASH_SIZE, NoteInvalid, hash_node

HEIGHT = 8
WIDTH = 1 << HEIGHT
LEVEL_MAX = 63
INDEX_MAX = (1 << 56) - 1
PATH = re.compile(
    r"tile/(?P<level>0|[1-9]\d?)/(?P<index>(?:x\d{3}/)*\d{3})(?:\.p/(?P<width>[1-9]\d{0,2}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Tile:
    """Hashes `index`·256 and on of level 8·`level` of the tree; a width below 256 is partial."""

    level: int
    index: int
    width: int = WIDTH

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Of `tile/<L>/<N>[.p/<W>]`; NoteInvalid for any other way to write it."""
        found = PATH.fullmatch(path)
        if found is None:
            raise NoteInvalid("not a tile's path: tile/<L>/<N>[.p/<W>]")
        digits = found["index"].replace("/", "").replace("x", "")
        tile = cls(int(found["level"]), int(digits[:24]), int(found["width"] or WIDTH))
        # One path for one tile: 256 wide is not partial, no leading group of zeros.
        if tile.path != path or tile.level > LEVEL_MAX or tile.index > INDEX_MAX:
            raise NoteInvalid("not a tile's path as it is written")
        return tile

    @property
    def path(self) -> str:
        thousands, last = divmod(self.index, 1000)
        groups = [f"{last:03}"]
        while thousands:
            thousands, group = divmod(thousands, 1000)
            groups.insert(0, f"x{group:03}")
        partial = f".p/{self.width}" if self.width < WIDTH else ""
        return f"tile/{self.level}/{'/'.join(groups)}{partial}"


def tile_of(tree_size: int, level: int, index: int) -> Tile:
    """The tile as wide as it is in a tree of this size; NoteInvalid if it is not there."""
    width = min(WIDTH, (tree_size >> HEIGHT * level) - index * WIDTH)
    if width <= 0:
        raise NoteInvalid(f"a tree of {tree_size} has no tile {index} at level {level}")
    return Tile(level, index, width)


class TileTree:
    """The tree of one size, read from its tiles; each tile is fetched once."""

    def __init__(self, tree_size: int, fetch: Callable[[Tile], bytes]) -> None:
        self.tree_size = tree_size
        self.fetch = fetch
        self.tiles: dict[Tile, bytes] = {}

    def root(self) -> bytes:
        """What the tiles lead to; compare it with a signed checkpoint."""
        return self.range_root(0, self.tree_size) if self.tree_size else EMPTY_ROOT

    def inclusion_proof(self, index: int) -> list[bytes]:
        """RFC 6962 section 2.1.1, leaf's sibling first."""
        if not 0 <= index < self.tree_size:
            raise NoteInvalid(f"proof: entry {index} is outside a tree of {self.tree_size}")
        return self.subtree_path(index, 0, self.tree_size)

    def consistency_proof(self, first_size: int) -> list[bytes]:
        """RFC 6962 section 2.1.2, from the first `first_size` leaves to all."""
        if not 0 < first_size <= self.tree_size:
            raise NoteInvalid(f"proof: nothing proves {self.tree_size} entries from {first_size}")
        return self.subtree_proof(first_size, 0, self.tree_size)

    def leaf_hash(self, index: int) -> bytes:
        return self.node(0, index)

    def node(self, level: int, index: int) -> bytes:
        """The complete subtree `index` of 2^`level` leaves."""
        above, depth = divmod(level, HEIGHT)
        if depth == 0:
            tile = tile_of(self.tree_size, above, index // WIDTH)
            at = index % WIDTH * HASH_SIZE
            found = self.read(tile)[at : at + HASH_SIZE]
            if not found:
                raise NoteInvalid(f"{tile.path}: it has no hash {index % WIDTH}")
            return found
        return hash_node(self.node(level - 1, 2 * index), self.node(level - 1, 2 * index + 1))

    def read(self, tile: Tile) -> bytes:
        if tile not in self.tiles:
            content = self.fetch(tile)
            if len(content) != tile.width * HASH_SIZE:
                raise NoteInvalid(f"{tile.path}: {len(content)} bytes, not {tile.width} hashes")
            self.tiles[tile] = content
        return self.tiles[tile]

    def range_root(self, start: int, stop: int) -> bytes:
        """RFC 6962's hash of leaves [start, stop), where that is a node of some tree."""
        size = stop - start
        if size & (size - 1) == 0:
            level = size.bit_length() - 1
            return self.node(level, start >> level)
        split = split_of(start, stop)
        return hash_node(self.range_root(start, split), self.range_root(split, stop))

    def subtree_path(self, index: int, start: int, stop: int) -> list[bytes]:
        if stop - start == 1:
            return []
        split = split_of(start, stop)
        if index < split:
            return [*self.subtree_path(index, start, split), self.range_root(split, stop)]
        return [*self.subtree_path(index, split, stop), self.range_root(start, split)]

    def subtree_proof(self, first: int, start: int, stop: int) -> list[bytes]:
        if first == stop:
            # The verifier has the first tree's root already.
            return [self.range_root(start, stop)] if start else []
        split = split_of(start, stop)
        if first <= split:
            return [*self.subtree_proof(first, start, split), self.range_root(split, stop)]
        return [*self.subtree_proof(first, split, stop), self.range_root(start, split)]


def split_of(start: int, stop: int) -> int:
    """Where RFC 6962 parts leaves [start, stop): after the greatest power of two below their number."""
    return start + (1 << (stop - start - 1).bit_length() - 1)
