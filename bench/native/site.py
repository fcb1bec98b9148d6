"""Registered tags of several schemes, and what a random choice of them answers."""

from __future__ import annotations

import struct
import time
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.native.peers import TAGS, Bytes, random_rows
from native import an10922, cmac
from native.arena import KeyArena
from native.pipeline import (
    COUNTER_CMAC,
    COUNTER_CMAC_16,
    GENUINE,
    SUN,
    TAM1,
    TAM2,
    verify_batch,
)
from native.tagindex import ACTIVE, TagIndex

BATCH, REALM = 8192, 7
MASTER = bytes(range(16))
CHALLENGE = b"challenge!"
LABEL = np.frombuffer(b"JKCMAC01" + bytes(4), np.uint8)
SUN_LABEL = np.frombuffer(bytes.fromhex("3cc300010080"), np.uint8)


class Kind(NamedTuple):
    """A scheme as tags have it."""

    name: str
    scheme: int
    width: int = 12  # of the identity
    blocks: int = 0  # of data that TAM2 reads


TAM1_KIND = Kind("TAM1", TAM1)
COUNTER_KIND = Kind("COUNTER_CMAC", COUNTER_CMAC)
KINDS = (
    TAM1_KIND,
    *(Kind(f"TAM2, {blocks} blocks of data", TAM2, 12, blocks) for blocks in (1, 2, 3, 4)),
    Kind("SUN", SUN, 7),
    COUNTER_KIND,
    Kind("COUNTER_CMAC_16", COUNTER_CMAC_16),
)


class Site:
    """`tags` tags, as many of each kind; `reads` reads of one kind are a pass."""

    def __init__(self, tags: int, kinds: tuple[Kind, ...]) -> None:
        self.arena, self.index = KeyArena(), TagIndex()
        # Of many tags so many are read that no cache holds their slots until the next pass.
        self.reads = (96 if tags > TAGS else 24) * BATCH
        key = self.arena.add(REALM, 1, bytearray(MASTER))
        each = tags // len(kinds)
        registered = {kind: random_rows(each, kind.width, 8 + at) for at, kind in enumerate(kinds)}
        for start in range(0, each, 50_000):
            for kind, identities in registered.items():
                rows = identities[start : start + 50_000]
                one = np.ones(len(rows), np.uint8)
                self.index.put_many(rows, one * kind.scheme, one * ACTIVE, one * key)
        self.chosen: dict[Kind, tuple[Bytes, Bytes]] = {}
        for kind, identities in registered.items():
            # Fewer tags than reads are read again.
            order = np.resize(np.random.default_rng(9).permutation(each), self.reads)
            rows = identities[order]
            suffix = np.frombuffer(struct.pack(">I", REALM) + b"JK", np.uint8)
            inputs = np.concatenate([rows, np.tile(suffix, (self.reads, 1))], axis=1)
            master = np.frombuffer(MASTER, np.uint8)
            self.chosen[kind] = rows, an10922.derive_many(master, inputs)
        self.counter = 0

    def evidence(self, kind: Kind) -> Bytes:
        """What the tags answer now; of schemes that count, always above what they sent before."""
        _, keys = self.chosen[kind]
        if kind.scheme in {TAM1, TAM2}:
            plain = b"\x96\xc5" + bytes(4) + CHALLENGE + bytes(range(16)) * kind.blocks
            answers = b"".join(encrypt(key.tobytes(), plain) for key in keys)
            return np.frombuffer(answers, np.uint8).reshape(-1, len(plain))
        # A tag read twice in one pass needs a counter of its own each time.
        counters = np.arange(self.counter + 1, self.counter + 1 + self.reads, dtype="<u4")
        self.counter += self.reads
        low = counters.view(np.uint8).reshape(-1, 4)
        if kind.scheme == SUN:
            return self.sun(kind, low[:, :3])
        macs = cmac.cmac_many(keys, joined(LABEL, low))
        return np.concatenate([low, macs[:, : 8 if kind.scheme == COUNTER_CMAC else 16]], axis=1)

    def sun(self, kind: Kind, low: Bytes) -> Bytes:
        uids, keys = self.chosen[kind]
        sessions = cmac.cmac_many(keys, joined(SUN_LABEL, uids, low))
        macs = cmac.cmac_many(sessions, np.empty((len(sessions), 0), np.uint8))
        return np.concatenate([low, macs[:, 1::2]], axis=1)

    def one_pass(self, kind: Kind, evidence: Bytes, kernel: str) -> float:
        """The processor's seconds for all reads, every one of which must be genuine."""
        identities, _ = self.chosen[kind]
        known, zeros = np.ones(256, np.uint8), np.zeros(BATCH, np.uint8)
        challenge = CHALLENGE if kind.scheme in {TAM1, TAM2} else None
        genuine = 0
        begun = time.thread_time()
        for at in range(0, self.reads, BATCH):
            rows = slice(at, at + BATCH)
            verdicts = verify_batch(
                self.index, self.arena, kind.scheme, identities[rows], evidence[rows], zeros, known,
                zeros, 1, challenge, kernel=kernel,
            )  # fmt: skip
            genuine += int(verdicts.counts[GENUINE])
        seconds = time.thread_time() - begun
        assert genuine == self.reads
        return seconds


def encrypt(key: bytes, plain: bytes) -> bytes:
    """TAM1's block, and behind it what TAM2 reads: CBC from an IV of zeros is both."""
    return Cipher(algorithms.AES128(key), modes.CBC(bytes(16))).encryptor().update(plain)


def joined(label: Bytes, *columns: Bytes) -> Bytes:
    """The label before every row of the columns."""
    return np.concatenate([np.tile(label, (len(columns[0]), 1)), *columns], axis=1)
