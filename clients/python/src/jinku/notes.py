"""C2SP formats, read and checked offline: verifier keys, signed notes, checkpoints, RFC 6962 proofs.

https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint; layouts in docs/formats.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from jinku.errors import JinkuError

ED25519 = b"\x01"
SIGNATURE_PREFIX = "— "
HASH_SIZE = 32


class NoteInvalid(JinkuError):
    """A verifier key, a signed note or a proof is malformed or does not verify."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """Who signs: `name+hex(key id)+base64(0x01 ‖ public key)`."""

    name: str
    key_id: bytes
    public_key: bytes

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        parts = text.strip().split("+", 2)
        if len(parts) != 3 or not parts[0] or any(character.isspace() for character in parts[0]):
            raise NoteInvalid("verifier key: expected name+hex+base64")
        name, key_id, encoded = parts
        key = decode_base64(encoded, "verifier key")
        if len(key) != 33 or key[:1] != ED25519:
            raise NoteInvalid("verifier key: not an Ed25519 key")
        right = make_key_id(name, key[1:])
        if key_id.lower() != right.hex():
            raise NoteInvalid(f"verifier key: id is {key_id}, of this name and key {right.hex()}")
        return cls(name, right, key[1:])

    def __str__(self) -> str:
        encoded = base64.b64encode(ED25519 + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed tree head."""

    origin: str
    tree_size: int
    root_hash: bytes


def make_key_id(name: str, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:4]


def decode_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteInvalid(f"{what}: not base64") from error


def open_checkpoint(note: str, key: VerifierKey) -> Checkpoint:
    """The checkpoint, if `key` signed it; signatures of others (witnesses) are left aside."""
    body, separator, signatures = note.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise NoteInvalid("checkpoint: not a signed note")
    text = body + "\n"
    found = [
        signature[4:]
        for line in signatures.splitlines()
        for name, signature in [split_signature(line)]
        if name == key.name and signature[:4] == key.key_id
    ]
    if not found:
        raise NoteInvalid(f"checkpoint: no signature of {key.name} ({key.key_id.hex()})")
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(found[0], text.encode())
    except InvalidSignature as error:
        raise NoteInvalid(f"checkpoint: the signature of {key.name} is wrong") from error
    return parse_checkpoint(text)


def split_signature(line: str) -> tuple[str, bytes]:
    name, _, encoded = line.removeprefix(SIGNATURE_PREFIX).rpartition(" ")
    if not line.startswith(SIGNATURE_PREFIX) or not name:
        raise NoteInvalid("checkpoint: malformed signature line")
    return name, decode_base64(encoded, "checkpoint signature")


def parse_checkpoint(text: str) -> Checkpoint:
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0]:
        raise NoteInvalid("checkpoint: origin, size and root are not all there")
    size, root = lines[1], decode_base64(lines[2], "checkpoint root")
    if not (size.isascii() and size.isdecimal()) or (len(size) > 1 and size.startswith("0")):
        raise NoteInvalid(f"checkpoint: size {size!r} is no number")
    if len(root) != HASH_SIZE:
        raise NoteInvalid(f"checkpoint: root of {len(root)} bytes")
    return Checkpoint(lines[0], int(size), root)


def hash_leaf(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def compute_root(leaf_hash: bytes, index: int, tree_size: int, proof: Sequence[bytes]) -> bytes:
    """The root that the proof leads to (RFC 9162 section 2.1.3.2); wrong lengths raise."""
    if not 0 <= index < tree_size:
        raise NoteInvalid(f"proof: entry {index} is outside a tree of {tree_size}")
    node, last, result = index, tree_size - 1, leaf_hash
    for sibling in proof:
        if len(sibling) != HASH_SIZE:
            raise NoteInvalid(f"proof: a hash of {len(sibling)} bytes")
        if last == 0:
            raise NoteInvalid("proof: too long")
        if node & 1 or node == last:
            result = hash_node(sibling, result)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            result = hash_node(result, sibling)
        node >>= 1
        last >>= 1
    if last:
        raise NoteInvalid("proof: too short")
    return result
