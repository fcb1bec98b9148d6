"""Checkpoints as C2SP signed notes (c2sp.org/signed-note, c2sp.org/tlog-checkpoint) with
Ed25519.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_ALGORITHM = b"\x01"  # Ed25519


class NoteInvalid(ValueError):
    """Not a checkpoint that this key signed; says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A signed promise: the first `tree_size` entries have this root hash (32 bytes)."""

    note: str
    tree_size: int
    root_hash: bytes


class NoteSigner:
    """Signs checkpoints of one log. `origin` is both the log's name and the key's."""

    def __init__(self, origin: str, key: Ed25519PrivateKey) -> None:
        self.origin = origin
        self._key = key
        self._public = key.public_key().public_bytes_raw()
        self._id = key_id(origin, self._public)

    @property
    def verifier_key(self) -> str:
        """The public key as C2SP writes it: name+hex(key id)+base64(0x01 ‖ key)."""
        return (
            f"{self.origin}+{self._id.hex()}+{base64.b64encode(_ALGORITHM + self._public).decode()}"
        )

    def sign(self, tree_size: int, root_hash: bytes) -> Checkpoint:
        """The signed checkpoint.

        Ed25519 is deterministic: the same tree always gives the same bytes.
        """
        text = f"{self.origin}\n{tree_size}\n{base64.b64encode(root_hash).decode()}\n"
        signature = base64.b64encode(self._id + self._key.sign(text.encode())).decode()
        return Checkpoint(f"{text}\n— {self.origin} {signature}\n", tree_size, root_hash)


def key_id(name: str, public_key: bytes) -> bytes:
    """C2SP: the first 4 bytes of SHA-256(name ‖ newline ‖ algorithm ‖ key)."""
    return sha256(name.encode() + b"\n" + _ALGORITHM + public_key).digest()[:4]


def parse_note(note: str) -> Checkpoint:
    """What a checkpoint says, whoever signed it. NoteInvalid if it has not the form."""
    try:
        _, size, root = note.split("\n", 3)[:3]
        root_hash = base64.b64decode(root, validate=True)
        if size != str(int(size)) or len(root_hash) != 32:
            raise ValueError
    except ValueError:
        raise NoteInvalid("the note has not the form of a C2SP checkpoint") from None
    return Checkpoint(note, int(size), root_hash)


def open_note(note: str, verifier_key: str) -> Checkpoint:
    """Check a checkpoint against its log's key. Raises NoteInvalid."""
    checkpoint = parse_note(note)
    try:
        name, identifier, encoded = verifier_key.split("+", 2)
        public = base64.b64decode(encoded, validate=True)
        text, signatures = note.split("\n\n", 1)
    except ValueError:
        raise NoteInvalid("the note or the verifier key has not the form of C2SP") from None
    if public[:1] != _ALGORITHM or key_id(name, public[1:]).hex() != identifier:
        raise NoteInvalid("the verifier key is not well formed")
    origin = text.split("\n", 1)[0]
    if origin != name:
        raise NoteInvalid(f"the note is of log {origin!r}, the key of {name!r}")
    for line in signatures.splitlines():
        mark, signer, value = [*line.split(" "), "", ""][:3]
        blob = _decode(value)
        if mark != "—" or signer != name or blob[:4].hex() != identifier:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(public[1:]).verify(blob[4:], text.encode() + b"\n")
        except InvalidSignature:
            raise NoteInvalid("the signature does not fit the note") from None
        return checkpoint
    raise NoteInvalid("no signature of this key")


def _decode(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        return b""
