"""What the native kernels should answer, in plain Python over `cryptography`: slow, and written apart from them."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

Bytes = npt.NDArray[np.uint8]
VECTORS = Path(__file__).resolve().parents[1] / "vectors"

NONE, TAM1, COUNTER_CMAC = 1, 2, 3
GENUINE, UNKNOWN_TAG, BAD_EVIDENCE, REPLAYED, NOT_ACTIVE, NO_EVIDENCE, MALFORMED = range(1, 8)
NOBODY = 0xFFFFFFFF


def vectors(name: str) -> list[dict[str, Any]]:
    """The rows of tests/vectors/<name>.json; every value but `name` is hexadecimal."""
    rows: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())
    return [{k: v if k == "name" else bytes.fromhex(v) for k, v in row.items()} for row in rows]


def rows_of(*values: bytes) -> Bytes:
    """Byte strings of one length as the rows of an array."""
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1).copy()


def cmac(key: bytes, message: bytes) -> bytes:
    mac = CMAC(algorithms.AES128(key))
    mac.update(message)
    return mac.finalize()


def aes_encrypt(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES128(key), modes.ECB()).encryptor().update(block)


def aes_decrypt(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES128(key), modes.ECB()).decryptor().update(block)


def double(block: bytes) -> bytes:
    shifted = int.from_bytes(block, "big") << 1
    if shifted >> 128:
        shifted = shifted & (1 << 128) - 1 ^ 0x87
    return shifted.to_bytes(16, "big")


def an10922(master: bytes, data: bytes) -> bytes:
    """AN10922 by hand: the padding always makes two blocks, so a stock CMAC of 0x01 || M is not it."""
    k1 = double(aes_encrypt(master, bytes(16)))
    full = len(data) == 31
    padded = (b"\x01" + data + (b"" if full else b"\x80")).ljust(32, b"\0")
    subkey = k1 if full else double(k1)
    second = bytes(a ^ b for a, b in zip(padded[16:], subkey, strict=True))
    cbc = Cipher(algorithms.AES128(master), modes.CBC(bytes(16))).encryptor()
    return cbc.update(padded[:16] + second)[16:]


def tag_key(master: bytes, identity: bytes, realm: int) -> bytes:
    return an10922(master, identity + struct.pack(">I", realm) + b"JK")


def tam1_response(key: bytes, challenge: bytes, nonce: bytes = b"\1\2\3\4") -> bytes:
    return aes_encrypt(key, b"\x96\xc5" + nonce + challenge)


def counter_evidence(key: bytes, counter: int) -> bytes:
    low = struct.pack("<I", counter)
    return low + cmac(key, b"JKCMAC01" + bytes(4) + low)[:8]


@dataclass
class Tag:
    number: int
    scheme: int
    state: int
    key: int
    counter: int = 0


@dataclass
class Portal:
    """The pipeline's rules, read by read."""

    masters: list[tuple[int, bytes]] = field(default_factory=list)  # realm, key; by key number
    tags: dict[bytes, Tag] = field(default_factory=dict)

    def put(self, identity: bytes, scheme: int, state: int, key: int) -> int:
        tag = self.tags.get(identity)
        if tag is None:
            tag = self.tags[identity] = Tag(len(self.tags), scheme, state, key)
        tag.scheme, tag.state, tag.key = scheme, state, key
        return tag.number

    def key_of(self, identity: bytes) -> bytes:
        realm, master = self.masters[self.tags[identity].key]
        return tag_key(master, identity, realm)

    def judge(
        self,
        scheme: int,
        identity: bytes,
        evidence: bytes,
        challenge: bytes | None,
        *,
        placed: bool,
    ) -> tuple[int, int, tuple[int, int] | None]:
        """Verdict, number, and the counter that advanced."""
        if not placed or not any(identity):
            return MALFORMED, NOBODY, None
        tag = self.tags.get(identity)
        if tag is None:
            return UNKNOWN_TAG, NOBODY, None
        if scheme == NONE or not any(evidence):
            return NO_EVIDENCE, tag.number, None
        if tag.scheme != scheme or tag.key >= len(self.masters):
            return BAD_EVIDENCE, tag.number, None
        if scheme == TAM1:
            plain = aes_decrypt(self.key_of(identity), evidence)
            if plain[:2] != b"\x96\xc5":
                return BAD_EVIDENCE, tag.number, None
            if challenge is None or plain[6:] != challenge:
                return REPLAYED, tag.number, None
            return (GENUINE if tag.state == 1 else NOT_ACTIVE), tag.number, None
        (counter,) = struct.unpack("<I", evidence[:4])
        if evidence != counter_evidence(self.key_of(identity), counter):
            return BAD_EVIDENCE, tag.number, None
        if counter <= tag.counter:
            return REPLAYED, tag.number, None
        tag.counter = counter
        return (GENUINE if tag.state == 1 else NOT_ACTIVE), tag.number, (tag.number, counter)
