"""The whole read pipeline: look-up, diversification, verification, counter, verdict, in batches of 8,192 reads."""

from __future__ import annotations

import json
import statistics
import struct
import time
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.native.peers import RUNS, TAGS, Bytes, one_core, random_rows, result
from native import an10922, cmac, cpu
from native.arena import KeyArena
from native.pipeline import COUNTER_CMAC, GENUINE, TAM1, evidence_size, verify_batch
from native.tagindex import ACTIVE, TagIndex

BATCH, WIDTH, REALM = 8192, 12, 7
MANY_TAGS = 5_000_000
MASTER = bytes(range(16))
CHALLENGE = b"challenge!"
LABEL = b"JKCMAC01" + bytes(4)
COUNTER_TAGS, TAM1_TAGS = 0, 1


class Site:
    """Registered tags, and what a random choice of them answers."""

    def __init__(self, tags: int) -> None:
        self.arena, self.index = KeyArena(), TagIndex()
        # Of many tags so many are read that no cache holds their slots until the next pass.
        self.reads = (96 if tags > TAGS else 24) * BATCH
        key = self.arena.add(REALM, 1, bytearray(MASTER))
        identities = random_rows(tags, WIDTH, 8)
        for start in range(0, tags, 100_000):
            rows = identities[start : start + 100_000]
            one = np.ones(len(rows), np.uint8)
            # Every other tag has each scheme; a batch reads tags of one.
            schemes = np.where(np.arange(len(rows)) % 2 == TAM1_TAGS, TAM1, COUNTER_CMAC)
            self.index.put_many(rows, schemes.astype(np.uint8), one * ACTIVE, one * key)
        self.chosen: dict[int, tuple[Bytes, Bytes]] = {}
        for scheme, offset in ((COUNTER_CMAC, COUNTER_TAGS), (TAM1, TAM1_TAGS)):
            # Fewer tags than reads are read again.
            order = np.random.default_rng(9).permutation(tags // 2)
            order = np.resize(order, self.reads) * 2 + offset
            rows = identities[order]
            suffix = np.frombuffer(struct.pack(">I", REALM) + b"JK", np.uint8)
            inputs = np.concatenate([rows, np.tile(suffix, (self.reads, 1))], axis=1)
            self.chosen[scheme] = rows, an10922.derive_many(np.frombuffer(MASTER, np.uint8), inputs)
        self.counter = 0

    def evidence(self, scheme: int) -> Bytes:
        _, keys = self.chosen[scheme]
        if scheme == TAM1:
            block = np.frombuffer(b"\x96\xc5" + bytes(4) + CHALLENGE, np.uint8)
            answers = [
                Cipher(algorithms.AES128(key.tobytes()), modes.ECB())
                .encryptor()
                .update(block.tobytes())
                for key in keys
            ]
            return np.frombuffer(b"".join(answers), np.uint8).reshape(-1, 16)
        # A tag read twice in one pass needs a counter of its own each time.
        counters = np.arange(self.counter + 1, self.counter + 1 + self.reads, dtype="<u4")
        self.counter += self.reads
        low = counters.view(np.uint8).reshape(-1, 4)
        messages = np.concatenate(
            [np.tile(np.frombuffer(LABEL, np.uint8), (self.reads, 1)), low], axis=1
        )
        macs = cmac.cmac_many(keys, messages)
        return np.concatenate([low, macs[:, :8]], axis=1)

    def one_pass(self, scheme: int, evidence: Bytes, kernel: str) -> float:
        """Seconds for all reads, every one of which must be genuine."""
        identities, _ = self.chosen[scheme]
        known, zeros = np.ones(256, np.uint8), np.zeros(BATCH, np.uint8)
        challenge = CHALLENGE if scheme == TAM1 else None
        genuine = 0
        start = time.perf_counter()
        for at in range(0, self.reads, BATCH):
            rows = slice(at, at + BATCH)
            verdicts = verify_batch(
                self.index, self.arena, scheme, identities[rows], evidence[rows], zeros, known, zeros, 1,
                challenge, kernel=kernel,
            )  # fmt: skip
            genuine += int(verdicts.counts[GENUINE])
        seconds = time.perf_counter() - start
        assert genuine == self.reads
        return seconds


def rate(site: Site, scheme: int, kernel: str) -> float:
    fixed = site.evidence(TAM1) if scheme == TAM1 else None
    passes = [
        site.one_pass(scheme, site.evidence(scheme) if fixed is None else fixed, kernel)
        for _ in range(RUNS + 1)
    ]
    return site.reads / statistics.median(passes[1:])


def measure(*, many: bool = True) -> list[dict[str, Any]]:
    rows = []
    with one_core():
        for claim, tags in (("native.pipeline_200k", TAGS), ("native.pipeline_5m", MANY_TAGS)):
            if tags == MANY_TAGS and not many:
                continue
            site = Site(tags)
            for kernel in cpu.available():
                for name, scheme in (("TAM1", TAM1), ("COUNTER_CMAC", COUNTER_CMAC)):
                    note = f"{name}, batches of {BATCH}"
                    rows.append(result(claim, rate(site, scheme, kernel), "reads/s", kernel, note))
            note = f"after growth to {tags} tags"
            rows.append(result("native.bytes_per_tag", site.index.bytes_per_tag, "bytes", "", note))
    return rows


@pytest.mark.parametrize("kernel", cpu.available())
def test_pipeline_200k_tam1(benchmark: Any, kernel: str) -> None:
    site = Site(TAGS)
    evidence = site.evidence(TAM1)
    assert evidence.shape[1] == evidence_size(TAM1)
    benchmark(site.one_pass, TAM1, evidence, kernel)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
