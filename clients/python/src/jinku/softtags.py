"""Software tags: they answer as a real tag with the same key would. For demonstration and tests.

Byte layouts are written down in docs/formats.md.
"""

from __future__ import annotations

import binascii
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC
from numpy.typing import NDArray

from jinku.columns import Tam2Read
from jinku.durable import locked, read_json, write_json
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import Tam2Profile

TAM1_CONSTANT = bytes.fromhex("96c5")
TAM1_CHALLENGE_SIZE = 10
FRAME_CONSTANT = b"JKCMAC01"
FRAME_TAG_SIZE = 8
FRAME_TAG_SIZES = {
    TagScheme.TAG_SCHEME_COUNTER_CMAC: 8,
    TagScheme.TAG_SCHEME_COUNTER_CMAC_16: 16,
}
SUN_CONSTANT = bytes.fromhex("3cc300010080")
# The cipher's blocks, and those that a command's offset counts.
TAM2_BLOCK, TAM2_OFFSET_BLOCK = 16, 8
COUNTING = frozenset({*FRAME_TAG_SIZES, TagScheme.TAG_SCHEME_SUN})
# Class and designer of a tag that is none; its number follows.
TID_HEADER = bytes.fromhex("e2fff000")
USER_MEMORY = b"jinku soft tag".ljust(64, b"\0")
# Where a counter begins whose file is lost: with the clock, so that it goes on above what it was.
COUNTER_ORIGIN_S = 1_700_000_000
COUNTS_PER_SECOND = 16
SUN_SECONDS_PER_COUNT = 60  # three bytes of minutes last 31 years


@dataclass(frozen=True, slots=True)
class SoftTag:
    """A tag in software. Its key is a secret of the demonstration and of nothing else."""

    identity: bytes
    scheme: TagScheme
    key: bytes


def load(path: Path) -> list[SoftTag]:
    """The tags of a file that `jinkud personalise` wrote."""
    listed = json.loads(path.read_text(encoding="utf-8"))
    return [
        SoftTag(
            bytes.fromhex(row["identity"]),
            getattr(TagScheme, scheme_name(row["scheme"])),
            bytes.fromhex(row["key"]),
        )
        for row in (listed["tags"] if isinstance(listed, dict) else listed)
    ]


def scheme_name(name: str) -> str:
    return name if name.startswith("TAG_SCHEME_") else f"TAG_SCHEME_{name}"


def encrypt(key: bytes, blocks: bytes) -> bytes:
    # One block or independent blocks: this is the tag's own primitive, not a mode for messages.
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(blocks) + encryptor.finalize()


def plain_tam1(challenge: bytes, count: int) -> NDArray[np.uint8]:
    """What `count` tags encrypt to answer one challenge, each with another TRnd: N × 16."""
    if len(challenge) != TAM1_CHALLENGE_SIZE:
        raise ValueError(f"a TAM1 challenge is 10 bytes, not {len(challenge)}")
    plain = np.empty((count, 16), np.uint8)
    plain[:, 0:2] = np.frombuffer(TAM1_CONSTANT, np.uint8)
    plain[:, 2:6] = np.frombuffer(os.urandom(4 * count), np.uint8).reshape(count, 4)
    plain[:, 6:16] = np.frombuffer(challenge, np.uint8)
    return plain


def answer_tam1(tag: SoftTag, challenge: bytes, count: int = 1) -> NDArray[np.uint8]:
    """`count` TAM1 answers (ISO/IEC 29167-10) to one challenge: N × 16."""
    answers = encrypt(tag.key, plain_tam1(challenge, count).tobytes())
    return np.frombuffer(answers, np.uint8).reshape(count, 16)


def answer_tam2(tag: SoftTag, challenge: bytes, memory: bytes) -> bytes:
    """A TAM2 answer with ProtMode 1: TAM1's block, then what was read of the memory, in CBC."""
    if len(memory) % 16 or not 16 <= len(memory) <= 64:
        raise ValueError(f"TAM2 reads 1 to 4 blocks of 16 bytes, not {len(memory)} bytes")
    last = encrypt(tag.key, plain_tam1(challenge, 1).tobytes())
    answer = last
    for at in range(0, len(memory), 16):
        mixed = bytes(a ^ b for a, b in zip(memory[at : at + 16], last, strict=True))
        last = encrypt(tag.key, mixed)
        answer += last
    return answer


def memory_of(tag: SoftTag, read: Tam2Read) -> bytes:
    """What TAM2 reads of a software tag: cipher blocks from an offset, zeros where nothing is.

    The EPC bank is StoredCRC, PC and EPC, as UHF Gen2 lays it out.
    """
    if read.profile == Tam2Profile.TAM2_PROFILE_EPC:
        epc = tag.identity.ljust((len(tag.identity) + 1) // 2 * 2, b"\0")
        words = (len(epc) // 2 << 11 | 1 << 10).to_bytes(2, "big") + epc
        bank = (binascii.crc_hqx(words, 0xFFFF) ^ 0xFFFF).to_bytes(2, "big") + words
    elif read.profile == Tam2Profile.TAM2_PROFILE_TID:
        bank = TID_HEADER + sha256(tag.identity).digest()[:8]
    else:
        bank = USER_MEMORY
    start, size = TAM2_OFFSET_BLOCK * read.offset, TAM2_BLOCK * read.block_count
    return bank[start : start + size].ljust(size, b"\0")


def sign(key: bytes, message: bytes) -> bytes:
    mac = CMAC(algorithms.AES(key))
    mac.update(message)
    return mac.finalize()


def make_sun(tag: SoftTag, counter: int) -> bytes:
    """What an NTAG 424 DNA mirrors: u24 counter, then the 8 bytes with odd index of a CMAC."""
    number = counter.to_bytes(3, "little")
    session = sign(tag.key, SUN_CONSTANT + tag.identity + number)
    return number + sign(session, b"")[1::2]


def make_frame(tag: SoftTag, counter: int) -> bytes:
    """The frame an active tag sends: u32 counter, then 8 or 16 bytes of CMAC over it."""
    number = counter.to_bytes(4, "little")
    mac = sign(tag.key, FRAME_CONSTANT + bytes(4) + number)
    return number + mac[: FRAME_TAG_SIZES.get(tag.scheme, FRAME_TAG_SIZE)]


def make_frames(tag: SoftTag, counters: Iterable[int]) -> NDArray[np.uint8]:
    """One frame per counter: N × 12, or 20 with a whole CMAC."""
    frames = b"".join(make_frame(tag, counter) for counter in counters)
    size = 4 + FRAME_TAG_SIZES.get(tag.scheme, FRAME_TAG_SIZE)
    return np.frombuffer(frames, np.uint8).reshape(-1, size)


class TagCounters:
    """Counters of software tags, kept in a file as a tag keeps its own: none is given out twice.

    Reserved in blocks before they are used: a kill leaves a gap. Safe to use from many threads.
    """

    def __init__(self, path: Path, block: int = 256) -> None:
        self.path = path
        self.block = block
        self.lock = threading.Lock()
        self.drawn: dict[bytes, range] = {}

    def draw(self, tag: SoftTag) -> int:
        """The tag's next counter; durable as used when this returns."""
        with self.lock:
            left = self.drawn.get(tag.identity) or self.reserve(tag)
            self.drawn[tag.identity] = left[1:]
            return left[0]

    def reserve(self, tag: SoftTag) -> range:
        seconds = time.time() - COUNTER_ORIGIN_S
        sun = tag.scheme == TagScheme.TAG_SCHEME_SUN
        least = seconds / SUN_SECONDS_PER_COUNT if sun else seconds * COUNTS_PER_SECOND
        with locked(self.path):
            stored = read_json(self.path) or {}
            first = max(int(stored.get(tag.identity.hex(), 0)), int(least))
            write_json(self.path, {**stored, tag.identity.hex(): first + self.block})
        return range(first, first + self.block)


def count_many(
    tags: Sequence[SoftTag], which: NDArray[np.intp], counters: TagCounters
) -> NDArray[np.uint8]:
    """What the tags `which[i]`, all of one counting scheme, send one after the other."""
    sent = []
    for number in which.tolist():
        tag = tags[number]
        make = make_sun if tag.scheme == TagScheme.TAG_SCHEME_SUN else make_frame
        sent.append(make(tag, counters.draw(tag)))
    return np.frombuffer(b"".join(sent), np.uint8).reshape(len(sent), -1)


def answer_many_tam2(
    tags: Sequence[SoftTag], which: NDArray[np.intp], challenge: bytes, read: Tam2Read
) -> NDArray[np.uint8]:
    """TAM2 answers of the tags `which[i]`: N × 32 to 80."""
    answers = [
        answer_tam2(tags[number], challenge, memory_of(tags[number], read))
        for number in which.tolist()
    ]
    return np.frombuffer(b"".join(answers), np.uint8).reshape(len(answers), -1)


def answer_many(
    tags: Sequence[SoftTag], which: NDArray[np.intp], challenge: bytes
) -> NDArray[np.uint8]:
    """TAM1 answers of the tags `which[i]`, batched by tag: N × 16 in the order of `which`."""
    order = np.argsort(which, kind="stable")
    numbers, starts = np.unique(which[order], return_index=True)
    ends = [*starts[1:].tolist(), len(which)]
    plain = plain_tam1(challenge, len(which)).tobytes()
    answers = b"".join(
        encrypt(tags[number].key, plain[16 * start : 16 * end])
        for number, start, end in zip(numbers.tolist(), starts.tolist(), ends, strict=True)
    )
    evidence = np.empty((len(which), 16), np.uint8)
    evidence[order] = np.frombuffer(answers, np.uint8).reshape(-1, 16)
    return evidence
