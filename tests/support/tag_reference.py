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

NONE, TAM1, COUNTER_CMAC, TAM2, SUN, COUNTER_CMAC_16 = range(1, 7)
CHALLENGED = (TAM1, TAM2)
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
    mac = CMAC(algorithms.AES(key))
    mac.update(message)
    return mac.finalize()


def aes_encrypt(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def aes_decrypt(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES128(key), modes.ECB()).decryptor().update(block)


def double(block: bytes) -> bytes:
    shifted = int.from_bytes(block, "big") << 1
    if shifted >> 128:
        shifted = shifted & (1 << 128) - 1 ^ 0x87
    return shifted.to_bytes(16, "big")


def an10922_part(master: bytes, constant: int, data: bytes) -> bytes:
    """AN10922 by hand: the padding always makes two blocks, so a stock CMAC of constant || M is not it."""
    k1 = double(aes_encrypt(master, bytes(16)))
    full = len(data) == 31
    padded = (bytes([constant]) + data + (b"" if full else b"\x80")).ljust(32, b"\0")
    subkey = k1 if full else double(k1)
    second = bytes(a ^ b for a, b in zip(padded[16:], subkey, strict=True))
    cbc = Cipher(algorithms.AES(master), modes.CBC(bytes(16))).encryptor()
    return cbc.update(padded[:16] + second)[16:]


def an10922(master: bytes, data: bytes) -> bytes:
    if len(master) == 16:
        return an10922_part(master, 0x01, data)
    if len(master) == 24:
        one, two = an10922_part(master, 0x11, data), an10922_part(master, 0x12, data)
        return one[:8] + bytes(a ^ b for a, b in zip(one[8:], two[:8], strict=True)) + two[8:]
    return an10922_part(master, 0x41, data) + an10922_part(master, 0x42, data)


def tag_key(master: bytes, identity: bytes, realm: int) -> bytes:
    return an10922(master, identity + struct.pack(">I", realm) + b"JK")


def tam1_response(key: bytes, challenge: bytes, nonce: bytes = b"\1\2\3\4") -> bytes:
    return aes_encrypt(key, b"\x96\xc5" + nonce + challenge)


def tam2_response(key: bytes, challenge: bytes, data: bytes, nonce: bytes = b"\1\2\3\4") -> bytes:
    """TAM2, ProtMode 1: the tag runs CBC backwards, so that AES-ENC makes what AES-DEC XOR reads."""
    blocks = [tam1_response(key, challenge, nonce)]
    for at in range(0, len(data), 16):
        mixed = bytes(a ^ b for a, b in zip(data[at : at + 16], blocks[-1], strict=True))
        blocks.append(aes_encrypt(key, mixed))
    return b"".join(blocks)


def tam2_data(key: bytes, response: bytes) -> bytes:
    cbc = Cipher(algorithms.AES128(key), modes.CBC(response[:16])).decryptor()
    return cbc.update(response[16:])


def counter_evidence(key: bytes, counter: int, size: int = 8) -> bytes:
    low = struct.pack("<I", counter)
    return low + cmac(key, b"JKCMAC01" + bytes(4) + low)[:size]


def sun_evidence(key: bytes, uid: bytes, counter: int) -> bytes:
    low = struct.pack("<I", counter)[:3]
    session = cmac(key, bytes.fromhex("3cc300010080") + uid + low)
    return low + cmac(session, b"")[1::2]


def evidence_for(scheme: int, key: bytes, identity: bytes, counter: int, challenge: bytes) -> bytes:
    """What a tag of the scheme gives for evidence; of TAM2, two data blocks made of its identity."""
    if scheme == TAM1:
        return tam1_response(key, challenge)
    if scheme == TAM2:
        return tam2_response(key, challenge, memory_of(identity))
    if scheme == SUN:
        return sun_evidence(key, identity, counter)
    if scheme in {COUNTER_CMAC, COUNTER_CMAC_16}:
        return counter_evidence(key, counter, 8 if scheme == COUNTER_CMAC else 16)
    return b""


def memory_of(identity: bytes) -> bytes:
    return identity.ljust(16, b"\xd0") * 2


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
        if scheme in CHALLENGED:
            plain = aes_decrypt(self.key_of(identity), evidence[:16])
            if plain[:2] != b"\x96\xc5":
                return BAD_EVIDENCE, tag.number, None
            if challenge is None or plain[6:] != challenge:
                return REPLAYED, tag.number, None
            return (GENUINE if tag.state == 1 else NOT_ACTIVE), tag.number, None
        counter = int.from_bytes(evidence[: 3 if scheme == SUN else 4], "little")
        if evidence != evidence_for(scheme, self.key_of(identity), identity, counter, b""):
            return BAD_EVIDENCE, tag.number, None
        if counter <= tag.counter:
            return REPLAYED, tag.number, None
        tag.counter = counter
        return (GENUINE if tag.state == 1 else NOT_ACTIVE), tag.number, (tag.number, counter)
