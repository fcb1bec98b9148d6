"""A Merkle tree and a signer of checkpoints, written from the RFC and independent of ours."""

from __future__ import annotations

import base64
import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = SIGNER.public_key().public_bytes_raw()
NAME = "bank.example/realm-1"
KEY_ID = hashlib.sha256(NAME.encode() + b"\n\x01" + PUBLIC).digest()[:4]
ENCODED = base64.b64encode(b"\x01" + PUBLIC).decode()
KEY = f"{NAME}+{KEY_ID.hex()}+{ENCODED}"


def sign(size: int, root: bytes, name: str = NAME, extra: str = "") -> str:
    text = f"{name}\n{size}\n{base64.b64encode(root).decode()}\n{extra}"
    signature = base64.b64encode(KEY_ID + SIGNER.sign(text.encode())).decode()
    return f"{text}\n— {name} {signature}\n"


def tree_hash(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, as it is written."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = tree_hash(leaves[:split]), tree_hash(leaves[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 section 2.1.1, as it is written."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*path(index, leaves[:split]), tree_hash(leaves[split:])]
    return [*path(index - split, leaves[split:]), tree_hash(leaves[:split])]
