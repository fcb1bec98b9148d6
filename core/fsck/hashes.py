"""The quick half: every entry, every Merkle node, every checkpoint and its signature.

Entries are hashed in the order of the journal, a block of 65,536 at a time, and each level of nodes
is made from the one below it. So every entry is included, and every checkpoint is consistent with
every other, because all of them are roots of the one tree that is rebuilt here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from core.errors import LedgerCorrupt
from core.kernels import leaf_hashes, node_hashes, split_fields
from core.ledger import layout
from core.ledger.ledger import Ledger
from core.ledger.merkle import HASH_SIZE, root_at
from core.ledger.note import Checkpoint, NoteInvalid, open_note
from jinku.event.v1.entry_pb2 import EntryHeader

Progress = Callable[[str, int, int], None]
Hashes = npt.NDArray[np.uint8]

_BLOCK_LEVEL: Final = 16
_BLOCK: Final = 1 << _BLOCK_LEVEL
_TELL_EVERY: Final = 4096


def verify_hashes(ledger: Ledger, progress: Progress) -> int:
    """Verify journal, nodes and checkpoints of a ledger that nobody writes; how many checkpoints.

    Raises LedgerCorrupt naming the first entry, node or checkpoint that is not what it must be.
    """
    _Tree(ledger, progress).verify()
    checkpoints = _verify_checkpoints(ledger, progress)
    _verify_witnessed(ledger)
    return checkpoints


class _Tree:
    """The tree of all entries, rebuilt and compared with the stored nodes."""

    def __init__(self, ledger: Ledger, progress: Progress) -> None:
        self._ledger = ledger
        self._progress = progress
        self._decided_at_ns = 0
        # Roots of the blocks that are complete.
        self._roots: list[Hashes] = []

    def verify(self) -> None:
        """Everything, from the entries up."""
        size = self._ledger.size
        done = following = told = 0
        waiting: list[Hashes] = []
        for first, packed in self._ledger.packed():
            if first > following:
                raise LedgerCorrupt(f"entry {following}", "is missing")
            if first < following:
                raise LedgerCorrupt(f"entry {first}", "is stored twice")
            waiting.append(self._hash(first, packed))
            following = first + len(waiting[-1])
            if first - told >= _TELL_EVERY:
                told = first
                self._progress("hashes", first, size)
            if following - done >= _BLOCK:
                hashes = np.concatenate(waiting)
                self._verify_block(done, hashes[:_BLOCK])
                done += _BLOCK
                waiting = [hashes[_BLOCK:]]
        if waiting:
            hashes = np.concatenate(waiting)
            self._verify_block(done, hashes)
            done += len(hashes)
        if done != size:
            raise LedgerCorrupt("the journal", f"ends at {done}, not at {size}")
        if self._roots:
            self._verify_level(_BLOCK_LEVEL, 0, np.concatenate(self._roots))
        self._progress("hashes", size, size)

    def _hash(self, first: int, packed: bytes) -> Hashes:
        """The leaf hashes of one commit, whose entries all stand where they say."""
        try:
            fields = split_fields(packed)
            hashes = leaf_hashes(packed, fields)
        except ValueError as error:
            raise LedgerCorrupt(f"journal from {first}", str(error)) from None
        realm, decided_at_ns = self._ledger.realm, self._decided_at_ns
        for index, (start, end) in enumerate(fields[::2].tolist(), first):
            try:
                header = EntryHeader.FromString(packed[start:end])
            except DecodeError:
                raise LedgerCorrupt(f"entry {index}", "has a header that is none") from None
            if header.index != index or header.realm != realm:
                where = f"entry {header.index} of realm {header.realm}"
                raise LedgerCorrupt(f"entry {index}", f"is the place where {where} stands")
            if header.decided_at_ns < decided_at_ns:
                raise LedgerCorrupt(f"entry {index}", "was decided before the one before it")
            decided_at_ns = header.decided_at_ns
        self._decided_at_ns = decided_at_ns
        return hashes

    def _verify_block(self, start: int, leaves: Hashes) -> None:
        """The nodes of a block of leaves; its root is kept if it is complete."""
        self._verify_leaves(start, leaves)
        root = self._verify_level(0, start, leaves)
        if len(leaves) == _BLOCK:
            self._roots.append(root)

    def _verify_leaves(self, start: int, leaves: Hashes) -> None:
        stored = self._stored(0, start, len(leaves))
        at = _first_difference(stored, leaves)
        if at is None:
            return
        index = start + at
        # Whoever is right fits the node above. It is the last entry's, if there is none.
        pair = at & ~1
        if pair + 1 < len(leaves):
            above = self._stored(1, index >> 1, 1)
            if _first_difference(above, node_hashes(leaves[pair : pair + 2])) is None:
                raise LedgerCorrupt(f"Merkle node 0/{index}", f"is not the hash of entry {index}")
        raise LedgerCorrupt(f"entry {index}", "is not what was hashed when it was written")

    def _verify_level(self, level: int, index: int, hashes: Hashes) -> Hashes:
        """All complete levels above these hashes; the hashes of the last."""
        while len(hashes) > 1:
            hashes = node_hashes(hashes[: len(hashes) // 2 * 2])
            level, index = level + 1, index >> 1
            at = _first_difference(self._stored(level, index, len(hashes)), hashes)
            if at is not None:
                first = (index + at) << level
                what = f"does not fit the entries {first} to {first + (1 << level) - 1} below it"
                raise LedgerCorrupt(f"Merkle node {level}/{index + at}", what)
        return hashes

    def _stored(self, level: int, index: int, count: int) -> Hashes:
        """The stored hashes of this level from `index` on."""
        rows = self._ledger.rows_from(layout.NODES, layout.node_key(level, index), count)
        hashes = b"".join(value for _, value in rows)
        if len(rows) == count and len(hashes) == count * HASH_SIZE:
            keys = b"".join(key for key, _ in rows)
            if keys == _node_keys(level, index, count):
                return np.frombuffer(hashes, np.uint8).reshape(count, HASH_SIZE)
        right = [layout.node_key(level, at) for at in range(index, index + count)]
        fits = (key == k and len(v) == HASH_SIZE for key, (k, v) in zip(right, rows, strict=False))
        at = index + sum(itertools.takewhile(bool, fits))
        raise LedgerCorrupt(f"Merkle node {level}/{at}", f"is missing or not {HASH_SIZE} bytes")


def _node_keys(level: int, index: int, count: int) -> bytes:
    """The keys of `count` nodes, as they lie."""
    keys = np.empty(count, np.dtype([("level", "u1"), ("index", ">u8")]))
    keys["level"] = level
    keys["index"] = np.arange(index, index + count, dtype=np.uint64)
    return keys.tobytes()


def _first_difference(one: Hashes, other: Hashes) -> int | None:
    """The first row that differs of two arrays of one shape."""
    if one.tobytes() == other.tobytes():
        return None
    return int(np.flatnonzero((one != other).any(axis=1))[0])


def _verify_checkpoints(ledger: Ledger, progress: Progress) -> int:
    """One checkpoint at the end of every commit, because an entry's receipt is made with that of its
    own; each is signed, and its root is that of the nodes.
    """
    total = ledger.count(layout.CHECKPOINTS)
    ends = itertools.chain(
        itertools.islice(ledger.commits(), 1, None), [ledger.size] if ledger.size else []
    )
    count = 0
    with ledger.nodes() as fetch:
        for end, checkpoint in itertools.zip_longest(ends, ledger.checkpoints()):
            if checkpoint is None or (end is not None and end < checkpoint.tree_size):
                raise LedgerCorrupt(f"checkpoint {end}", "is missing")
            if end is None or end != checkpoint.tree_size:
                raise LedgerCorrupt(f"checkpoint {checkpoint.tree_size}", "is of no commit")
            root = root_at(end, fetch)
            if root != checkpoint.root_hash:
                raise LedgerCorrupt(f"checkpoint {end}", "has another root hash than the entries")
            _verify_signature(ledger, checkpoint)
            count += 1
            if count % _TELL_EVERY == 0:
                progress("checkpoints", count, total)
    progress("checkpoints", count, total)
    return count


def _verify_signature(ledger: Ledger, checkpoint: Checkpoint) -> None:
    # Ed25519 signs deterministically, and to sign again takes a third of the time of verifying.
    if ledger.sign(checkpoint.tree_size, checkpoint.root_hash).note == checkpoint.note:
        return
    try:
        open_note(checkpoint.note, ledger.verifier_key)
    except NoteInvalid as error:
        raise LedgerCorrupt(f"checkpoint {checkpoint.tree_size}", str(error)) from None


def _verify_witnessed(ledger: Ledger) -> None:
    """What witnesses cosigned last is still in this ledger."""
    kept = ledger.witnessed.load()
    if kept is None:
        return
    where = f"the checkpoint of {kept.tree_size} entries that witnesses cosigned"
    try:
        open_note(kept.note, ledger.verifier_key)
    except NoteInvalid as error:
        raise LedgerCorrupt(where, str(error)) from None
    if kept.tree_size > ledger.size:
        raise LedgerCorrupt(where, f"is of a later journal: this one, of {ledger.size}, is older")
    if kept.root_hash != ledger.root(kept.tree_size):
        raise LedgerCorrupt(where, "has another root hash than the entries")
