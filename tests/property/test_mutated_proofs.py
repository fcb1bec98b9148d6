"""Proofs of every kind, changed in every way we could think of: none is accepted.

The controls must fail: what was not changed is accepted, and each verifier with one of its checks
taken out accepts some of the same mutations.
"""

from __future__ import annotations

import base64
import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from jinku import notes, receipts
from jinku.event.v1.entry_pb2 import EntryHeader, Outcome
from jinku.event.v1.event_pb2 import Event, Events, TagFrozen
from jinku.tiles import WIDTH, Tile, TileTree
from jinku.v1.common_pb2 import Receipt
from signed_tree import KEY, consistency, cosign, path, sign, tree_hash, witness_key
from soak import how_many

WITNESS, SEED = "witness.example/w1", b"w" * 32
WITNESS_KEY = notes.VerifierKey.parse(witness_key(WITNESS, SEED), notes.COSIGNATURE)
LOG_KEY = notes.VerifierKey.parse(KEY)
SIZE_MAX = 70
LEAVES = [b"%d" % number for number in range(SIZE_MAX)]
ROOTS = [hashlib.sha256(b"").digest(), *(tree_hash(LEAVES[:n]) for n in range(1, SIZE_MAX + 1))]


# -- ways to change something


def flip(value: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(value))
    return value[:at] + bytes([value[at] ^ 1 << draw.randrange(8)]) + value[at + 1 :]


def resize(value: bytes, draw: random.Random) -> bytes:
    return value[:-1] if draw.random() < 0.5 else value + draw.randbytes(1)


def mutate_list(hashes: Sequence[bytes], draw: random.Random) -> list[bytes]:
    """The list with one thing wrong; it is never the same list."""
    changed = list(hashes)
    at = draw.randrange(len(changed)) if changed else 0
    kind = (
        draw.choice(["flip", "cut", "grow", "drop", "add", "double", "swap"]) if changed else "add"
    )
    if kind in {"flip", "cut", "grow"}:
        how = flip if kind == "flip" else resize
        changed[at] = how(changed[at], draw)
    elif kind == "drop":
        del changed[at]
    elif kind == "add":
        changed.insert(draw.randint(0, len(changed)), draw.randbytes(32))
    elif kind == "double":
        changed.insert(at, changed[at])
    else:
        other = draw.randrange(len(changed))
        changed[at], changed[other] = changed[other], changed[at]
    return changed if changed != list(hashes) else [*changed, bytes(32)]


def mutate_text(text: str, draw: random.Random) -> str:
    """The text with a bit flipped, or a character or a line gone, twice there or elsewhere."""
    while True:
        raw = bytearray(text.encode())
        at, other = draw.randrange(len(raw)), draw.randrange(len(raw))
        kind = draw.choice(
            ["flip", "flip", "flip", "drop", "add", "double", "swap", "case", "line", "spare"]
        )
        if kind == "flip":
            raw[at] ^= 1 << draw.randrange(8)
        elif kind == "drop":
            del raw[at]
        elif kind == "add":
            raw.insert(at, draw.randrange(256))
        elif kind == "double":
            raw.insert(at, raw[at])
        elif kind == "swap":
            raw[at], raw[other] = raw[other], raw[at]
        elif kind == "case":
            raw[at : at + 1] = bytes(raw[at : at + 1]).swapcase()
        elif kind == "line":
            lines = text.split("\n")
            del lines[draw.randrange(len(lines))]
            raw = bytearray("\n".join(lines).encode())
        else:
            # Base64's unused bits: other characters for the same bytes.
            ends = [i for i in range(1, len(raw)) if raw[i : i + 1] == b"=" != raw[i - 1 : i]]
            end = draw.choice(ends) - 1
            raw[end] = raw[end] + 1 if chr(raw[end] + 1).isalnum() else raw[end] - 1
        try:
            changed = raw.decode()
        except UnicodeDecodeError:
            continue
        if changed != text:
            return changed


# -- kinds of proofs


class Family(ABC):
    """Makes proofs that are right, changes them, and says whether one is accepted."""

    @abstractmethod
    def make(self, draw: random.Random) -> Any: ...

    @abstractmethod
    def mutate(self, proof: Any, draw: random.Random) -> Any: ...

    @abstractmethod
    def accepts(self, proof: Any) -> bool: ...

    @abstractmethod
    def weaken(self, patch: pytest.MonkeyPatch) -> None:
        """Take one check out of the verifier."""


class Inclusion(Family):
    """leaf hash, index, size, proof, root. The size stays: only the checkpoint's signature binds it."""

    def make(self, draw: random.Random) -> tuple[bytes, int, int, list[bytes], bytes]:
        size = draw.randint(1, SIZE_MAX)
        index = draw.randrange(size)
        proof = path(index, LEAVES[:size])
        return notes.hash_leaf(LEAVES[index]), index, size, proof, ROOTS[size]

    def mutate(self, proof: Any, draw: random.Random) -> Any:
        leaf, index, size, hashes, root = proof
        kind = draw.choice(["leaf", "index", "proof", "proof", "proof", "root"])
        if kind == "leaf":
            leaf = draw.choice([flip, resize])(leaf, draw)
        elif kind == "index":
            moved = [index + 1, index - 1, index ^ 2, draw.randrange(size), -index, size]
            index = draw.choice([one for one in moved if one != index])
        elif kind == "proof":
            hashes = mutate_list(hashes, draw)
        else:
            root = draw.choice([flip, resize])(root, draw)
        return leaf, index, size, hashes, root

    def accepts(self, proof: Any) -> bool:
        leaf, index, size, hashes, root = proof
        try:
            return notes.compute_root(leaf, index, size, hashes) == root
        except notes.NoteInvalid:
            return False

    def weaken(self, patch: pytest.MonkeyPatch) -> None:
        """Hashes of another length are let pass, and the last part of a longer proof is not read."""
        right = notes.compute_root

        def lax(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
            for length in range(len(proof), -1, -1):
                try:
                    return right(leaf, index, size, proof[:length])
                except notes.NoteInvalid:
                    continue
            raise notes.NoteInvalid("nothing")

        patch.setattr(notes, "compute_root", lax)


class Consistency(Family):
    """Sizes, roots, proof. The sizes stay, as above."""

    def make(self, draw: random.Random) -> tuple[int, int, bytes, bytes, list[bytes]]:
        second = draw.randint(2, SIZE_MAX)
        first = draw.randint(1, second)
        return first, second, ROOTS[first], ROOTS[second], consistency(first, LEAVES[:second])

    def mutate(self, proof: Any, draw: random.Random) -> Any:
        first, second, first_root, second_root, hashes = proof
        kind = draw.choice(["first", "second", "swap", "proof", "proof", "proof", "zero"])
        if kind == "first":
            first_root = draw.choice([flip, resize])(first_root, draw)
        elif kind == "second":
            second_root = draw.choice([flip, resize])(second_root, draw)
        elif kind == "swap" and first_root != second_root:
            first_root, second_root = second_root, first_root
        elif kind == "zero":
            first, first_root, hashes = 0, ROOTS[0], draw.choice([[], hashes])
        else:
            hashes = mutate_list(hashes, draw)
        return first, second, first_root, second_root, hashes

    def accepts(self, proof: Any) -> bool:
        try:
            notes.check_consistency(*proof)
        except notes.NoteInvalid:
            return False
        return True

    def weaken(self, patch: pytest.MonkeyPatch) -> None:
        """The old root is believed, whatever it is."""
        right = notes.check_consistency

        def lax(first: int, second: int, _: bytes, second_root: bytes, proof: list[bytes]) -> None:
            right(first, second, ROOTS[first], second_root, proof)

        patch.setattr(notes, "check_consistency", lax)


class Tiles(Family):
    """A tile on an entry's way to the root, with one thing wrong in it."""

    size = 700

    def __init__(self) -> None:
        leaves = [notes.hash_leaf(b"%d" % number) for number in range(self.size)]
        full = self.size // WIDTH
        self.tiles = {
            Tile(0, n, min(WIDTH, self.size - n * WIDTH)): leaves[n * WIDTH : (n + 1) * WIDTH]
            for n in range(full + 1)
        }
        above = [fold(leaves[n * WIDTH : (n + 1) * WIDTH]) for n in range(full)]
        self.tiles[Tile(1, 0, full)] = above
        self.leaves = leaves
        tree = TileTree(self.size, lambda tile: b"".join(self.tiles[tile]))
        self.root = tree.root()

    def make(self, draw: random.Random) -> tuple[int, Tile, bytes]:
        above = draw.random() < 0.3
        # Every hash of the tile has to be on the way: of the level above, both, for the last entries.
        index = draw.randrange(self.size // WIDTH * WIDTH if above else 0, self.size)
        level, number = (1, 0) if above else (0, index // WIDTH)
        tile = next(one for one in self.tiles if (one.level, one.index) == (level, number))
        return index, tile, b"".join(self.tiles[tile])

    def mutate(self, proof: Any, draw: random.Random) -> Any:
        index, tile, content = proof
        hashes = [content[at : at + 32] for at in range(0, len(content), 32)]
        return index, tile, b"".join(mutate_list(hashes, draw))

    def accepts(self, proof: Any) -> bool:
        index, changed, content = proof
        tree = TileTree(
            self.size, lambda tile: content if tile == changed else b"".join(self.tiles[tile])
        )
        try:
            leaf = tree.leaf_hash(index)
            root = notes.compute_root(leaf, index, self.size, tree.inclusion_proof(index))
        except notes.NoteInvalid:
            return False
        return leaf == self.leaves[index] and root == self.root

    def weaken(self, patch: pytest.MonkeyPatch) -> None:
        """A tile may be longer than it is wide."""
        patch.setattr(TileTree, "read", lambda tree, tile: tree.fetch(tile))


class Receipts(Family):
    """A receipt with one of its parts changed, or some bytes of the file that holds it."""

    def __init__(self) -> None:
        self.receipts = [self.build(index, size) for index, size in ((0, 1), (5, 9), (33, 64))]

    def build(self, index: int, size: int) -> Receipt:
        events = Events(events=[Event(tag_frozen=TagFrozen(tag_id=b"t" * 16, note="遗失"))])
        packed = events.SerializeToString()
        header = EntryHeader(
            realm=1, index=index, salt=b"s" * 16, command="jinku.v1.FreezeTagRequest",
            outcome=Outcome.OUTCOME_ACCEPTED,
        ).SerializeToString()  # fmt: skip
        digest = hashlib.sha256(packed).digest()
        leaves = [*LEAVES[:index], header + digest, *LEAVES[index + 1 : size]]
        return Receipt(
            header=header, events_digest=digest, events=packed,
            inclusion_proof=path(index, leaves), checkpoint=sign(size, tree_hash(leaves)),
        )  # fmt: skip

    def make(self, draw: random.Random) -> tuple[Receipt, Receipt]:
        right = draw.choice(self.receipts)
        return right, right

    def mutate(self, proof: Any, draw: random.Random) -> Any:
        right, _ = proof
        changed = Receipt()
        changed.CopyFrom(right)
        part = draw.choice(
            ["header", "events_digest", "events", "inclusion_proof", "checkpoint", "file"]
        )
        if part == "inclusion_proof":
            del changed.inclusion_proof[:]
            changed.inclusion_proof.extend(mutate_list(right.inclusion_proof, draw))
        elif part == "checkpoint":
            changed.checkpoint = mutate_text(right.checkpoint, draw)
        elif part == "file":
            return right, self.mutate_file(right, draw)
        else:
            how = draw.choice([flip, resize])
            setattr(changed, part, how(getattr(changed, part), draw))
        return right, changed

    def mutate_file(self, right: Receipt, draw: random.Random) -> Receipt:
        """Until it says something else: a field of another number is no change of the proof."""
        while True:
            raw = right.SerializeToString()
            raw = flip(raw, draw) if draw.random() < 0.7 else raw[: draw.randrange(len(raw))]
            try:
                changed = Receipt.FromString(raw)
            except DecodeError:
                continue
            changed.DiscardUnknownFields()  # type: ignore[no-untyped-call]
            without = Receipt()
            without.CopyFrom(right)
            # A receipt may be without its events.
            without.ClearField("events")
            if changed not in (right, without):
                return changed

    def accepts(self, proof: Any) -> bool:
        try:
            receipts.verify(proof[1], KEY)
        except receipts.ReceiptInvalid:
            return False
        return True

    def weaken(self, patch: pytest.MonkeyPatch) -> None:
        """Events are believed without their digest."""
        patch.setattr(receipts, "open_events", lambda _: None)


class Notes(Family):
    """A signed checkpoint, changed anywhere."""

    def make(self, draw: random.Random) -> str:
        size = draw.randint(1, SIZE_MAX)
        return sign(size, ROOTS[size])

    def mutate(self, proof: Any, draw: random.Random) -> Any:
        return mutate_text(proof, draw)

    def accepts(self, proof: Any) -> bool:
        try:
            notes.open_checkpoint(proof, LOG_KEY)
        except notes.NoteInvalid:
            return False
        return True

    def weaken(self, patch: pytest.MonkeyPatch) -> None:
        """Any signature is believed."""
        patch.setattr(notes, "is_signed", lambda *_: True)


class LaxBase64(Notes):
    """The same, for the check that base64 is written in one way only."""

    def weaken(self, patch: pytest.MonkeyPatch) -> None:
        def lax(text: str, what: str) -> bytes:
            try:
                return base64.b64decode(text, validate=True)
            except ValueError as error:
                raise notes.NoteInvalid(what) from error

        patch.setattr(notes, "decode_base64", lax)


class Cosignatures(Family):
    """A checkpoint with a witness's cosignature, of which one is changed."""

    def make(self, draw: random.Random) -> str:
        size = draw.randint(1, SIZE_MAX)
        note = sign(size, ROOTS[size])
        return note + cosign(note, WITNESS, SEED, draw.randrange(1 << 33))

    def mutate(self, proof: Any, draw: random.Random) -> Any:
        if draw.random() < 0.5:
            return mutate_text(proof, draw)
        note = notes.Note.parse(proof)
        right = note.signatures[1]
        value = draw.choice([flip, resize])(right.value, draw)
        changed = notes.Signature(right.name, right.key_id, value)
        return str(notes.Note(note.text, (note.signatures[0], changed)))

    def accepts(self, proof: Any) -> bool:
        try:
            notes.open_checkpoint(proof, LOG_KEY)
            notes.require_quorum(proof, [WITNESS_KEY], 1)
        except notes.NoteInvalid:
            return False
        return True

    def weaken(self, patch: pytest.MonkeyPatch) -> None:
        """What says to be a cosignature is believed."""
        right = notes.is_signed

        def lax(key: bytes, signature: bytes, message: bytes) -> bool:
            return message.startswith(b"cosignature/v1\n") or right(key, signature, message)

        patch.setattr(notes, "is_signed", lax)


def fold(hashes: list[bytes]) -> bytes:
    while len(hashes) > 1:
        hashes = [notes.hash_node(*hashes[at : at + 2]) for at in range(0, len(hashes), 2)]
    return hashes[0]


# Kind → how many of 1,000,000.
FAMILIES: dict[Callable[[], Family], int] = {
    Inclusion: 380_000,
    Consistency: 340_000,
    Tiles: 40_000,
    Receipts: 80_000,
    Notes: 80_000,
    Cosignatures: 80_000,
}


def find_accepted(family: Family, count: int, seed: int) -> list[Any]:
    """Mutations that are accepted, of `count`; every proof that they are made of is."""
    draw = random.Random(seed)
    accepted = []
    for number in range(count):
        if number % 16 == 0:
            proof = family.make(draw)
            assert family.accepts(proof)
        changed = family.mutate(proof, draw)
        if family.accepts(changed):
            accepted.append(changed)
    return accepted


def test_the_campaign_is_a_million() -> None:
    assert sum(FAMILIES.values()) >= 1_000_000


@pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.__name__)
def test_no_mutation_is_accepted(kind: Callable[[], Family]) -> None:
    assert find_accepted(kind(), FAMILIES[kind] // 50, seed=1) == []


@pytest.mark.parametrize("kind", [*FAMILIES, LaxBase64], ids=lambda kind: kind.__name__)
def test_a_weaker_verifier_accepts_some(
    kind: Callable[[], Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = kind()
    family.weaken(monkeypatch)
    assert find_accepted(family, 800, seed=2)


@pytest.mark.soak
@pytest.mark.parametrize("kind", FAMILIES, ids=lambda kind: kind.__name__)
def test_soak_no_mutation_of_a_million_is_accepted(kind: Callable[[], Family]) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    assert find_accepted(kind(), how_many(FAMILIES[kind]), seed) == []
