"""RFC 6962 Merkle tree hashing over a store of complete subtrees.

A node is named (level, index): level 0 holds the leaves' hashes, node (l, i) covers the leaves
from i·2^l on. Only complete subtrees are stored; what lies on the right edge is made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

HASH_SIZE = 32
EMPTY_ROOT = sha256(b"").digest()

# The stored hash of a complete subtree.
Fetch = Callable[[int, int], bytes]


def leaf_hash(leaf: bytes) -> bytes:
    """RFC 6962 section 2.1: SHA-256(0x00 ‖ leaf), 32 bytes."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962 section 2.1: SHA-256(0x01 ‖ left ‖ right), 32 bytes."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The complete subtrees along the right edge, greatest first.

    Enough to append and to know the root.
    """

    def __init__(self, size: int, fetch: Fetch) -> None:
        self.size = size
        self._subtrees: list[tuple[int, bytes]] = [
            (level, fetch(level, start >> level)) for start, level in complete_subtrees(0, size)
        ]

    def append(self, hashed: bytes) -> list[tuple[int, int, bytes]]:
        """Append one leaf hash; gives what `extend` gives."""
        return self.extend([hashed])

    def extend(self, hashes: list[bytes]) -> list[tuple[int, int, bytes]]:
        """Append leaf hashes.

        Gives the nodes (level, index, hash) that became complete, in order: the leaves first.
        """
        made: list[tuple[int, int, bytes]] = []
        edge = dict(self._subtrees)
        level, first = 0, self.size
        self.size += len(hashes)
        while hashes:
            made += [(level, index, hashed) for index, hashed in enumerate(hashes, first)]
            if first % 2:
                first -= 1
                hashes = [edge.pop(level), *hashes]
            if len(hashes) % 2:
                edge[level] = hashes[-1]
            pairs = zip(hashes[::2], hashes[1::2], strict=False)
            hashes = [node_hash(left, right) for left, right in pairs]
            level, first = level + 1, first // 2
        self._subtrees = sorted(edge.items(), reverse=True)
        return made

    def root(self) -> bytes:
        """The root hash of the tree as it is."""
        return _fold(h for _, h in reversed(self._subtrees)) if self._subtrees else EMPTY_ROOT


def complete_subtrees(start: int, stop: int) -> list[tuple[int, int]]:
    """(first leaf, level) of the largest complete subtrees that cover leaves [start, stop),
    left to right.
    """
    pieces = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        pieces.append((start, level))
        start += 1 << level
    return pieces


def _fold(right_to_left: Iterable[bytes]) -> bytes:
    hashes = iter(right_to_left)
    result = next(hashes)
    for left in hashes:
        result = node_hash(left, result)
    return result


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """The hash of a complete subtree from those of some level below it: 1, 2, 4 … of them."""
    while len(hashes) > 1:
        pairs = zip(hashes[::2], hashes[1::2], strict=True)
        hashes = [node_hash(left, right) for left, right in pairs]
    return hashes[0]


def _range_root(start: int, stop: int, fetch: Fetch) -> bytes:
    pieces = complete_subtrees(start, stop)
    return _fold(fetch(level, first >> level) for first, level in reversed(pieces))


def root_at(size: int, fetch: Fetch) -> bytes:
    """The root hash of the first `size` leaves."""
    return _range_root(0, size, fetch) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, fetch: Fetch) -> list[bytes]:
    """RFC 6962 section 2.1.1: the audit path of leaf `index` in the tree of `size` leaves, leaf's
    sibling first.

    Raises ValueError unless 0 ≤ index < size.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves")
    path: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        split = start + (1 << ((stop - start - 1).bit_length() - 1))
        if index < split:
            path.append(_range_root(split, stop, fetch))
            stop = split
        else:
            path.append(_range_root(start, split, fetch))
            start = split
    path.reverse()
    return path


def path_root(hashed: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that an audit path of `inclusion_proof` leads to from leaf hash `hashed`
    (RFC 9162 section 2.1.3.2).
    """
    last = size - 1
    for sibling in path:
        if index & 1 or index == last:
            hashed = node_hash(sibling, hashed)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            hashed = node_hash(hashed, sibling)
        index, last = index >> 1, last >> 1
    return hashed


def consistency_proof(first: int, second: int, fetch: Fetch) -> list[bytes]:
    """RFC 6962 section 2.1.2: that the first `first` leaves begin the tree of `second` leaves.

    Raises ValueError unless 0 < first ≤ second: from the empty tree there is nothing to prove.
    """
    if not 0 < first <= second:
        raise ValueError(f"no proof from {first} to {second} leaves")
    path: list[bytes] = []
    start, stop, whole = 0, second, True
    while first < stop:
        split = start + (1 << ((stop - start - 1).bit_length() - 1))
        if first <= split:
            path.append(_range_root(split, stop, fetch))
            stop = split
        else:
            path.append(_range_root(start, split, fetch))
            start, whole = split, False
    if not whole:
        path.append(_range_root(start, stop, fetch))
    path.reverse()
    return path


def consistency_roots(
    first: int, second: int, first_root: bytes, path: Sequence[bytes]
) -> tuple[bytes, bytes]:
    """The roots of both trees that a path of `consistency_proof` leads to, if the first is
    `first_root`: where its tree is a node of the second, the path leaves it out
    (RFC 9162 section 2.1.4.2).
    """
    index, last = first - 1, second - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    hashes = iter(path)
    left = right = next(hashes, first_root) if first & (first - 1) else first_root
    for sibling in hashes:
        if index & 1 or index == last:
            left, right = node_hash(sibling, left), node_hash(sibling, right)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            right = node_hash(right, sibling)
        index, last = index >> 1, last >> 1
    return left, right
