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


def consistency(first: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 section 2.1.2, as it is written."""

    def subproof(size: int, rest: list[bytes], known: bool) -> list[bytes]:
        if size == len(rest):
            return [] if known else [tree_hash(rest)]
        split = 1 << (len(rest) - 1).bit_length() - 1
        if size <= split:
            return [*subproof(size, rest[:split], known), tree_hash(rest[split:])]
        return [*subproof(size - split, rest[split:], False), tree_hash(rest[:split])]

    return subproof(first, leaves, True)


def cosign(note: str, name: str, seed: bytes, time_s: int) -> str:
    """c2sp.org/tlog-cosignature: the line that a witness adds."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    body = note[: note.rindex("\n\n") + 1]
    signed = key.sign(f"cosignature/v1\ntime {time_s}\n{body}".encode())
    key_id = hashlib.sha256(
        f"{name}\n\x04".encode() + key.public_key().public_bytes_raw()
    ).digest()[:4]
    line = base64.b64encode(key_id + time_s.to_bytes(8, "big") + signed).decode()
    return f"— {name} {line}\n"


def witness_key(name: str, seed: bytes) -> str:
    """The verifier key of that witness."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    key_id = hashlib.sha256(f"{name}\n\x04".encode() + public).digest()[:4]
    return f"{name}+{key_id.hex()}+{base64.b64encode(bytes([4]) + public).decode()}"
