"""AES-128-CMAC of a 16-byte message, another key for every tag, and the same after AN10922 diversification."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
from Crypto.Cipher import AES
from Crypto.Hash import CMAC as PYCRYPTODOME_CMAC
from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.cmac import CMAC

from bench.native.peers import (
    PEER_ROWS,
    TAGS,
    Bytes,
    median_seconds,
    one_core,
    openssl_evp,
    random_rows,
    result,
)
from native import an10922, cmac, cpu

DISTINCT, DIVERSIFIED = "native.cmac_distinct_keys", "native.cmac_diversified"


def shuffled_tags() -> tuple[Bytes, Bytes, Bytes]:
    """Keys, messages and right MACs of TAGS tags, in random order."""
    order = np.random.default_rng(1).permutation(TAGS)
    keys, messages = random_rows(TAGS, 16, 2)[order], random_rows(TAGS, 16, 3)[order]
    return keys, messages, cmac.cmac_many(keys, messages)


def cryptography_loop(keys: list[bytes], messages: list[bytes]) -> None:
    for key, message in zip(keys, messages, strict=True):
        mac = CMAC(algorithms.AES128(key))
        mac.update(message)
        mac.finalize()


def pycryptodome_loop(keys: list[bytes], messages: list[bytes]) -> None:
    for key, message in zip(keys, messages, strict=True):
        PYCRYPTODOME_CMAC.new(key, message, ciphermod=AES).digest()


def diversified(master: Bytes, inputs: Bytes, messages: Bytes, macs: Bytes, kernel: str) -> Bytes:
    return cmac.verify_many(
        an10922.derive_many(master, inputs, kernel=kernel), messages, macs, kernel=kernel
    )


def measure() -> list[dict[str, Any]]:
    keys, messages, macs = shuffled_tags()
    rows = []
    with one_core():
        few = (
            [row.tobytes() for row in keys[:PEER_ROWS]],
            [row.tobytes() for row in messages[:PEER_ROWS]],
        )
        tenth = few[0][: PEER_ROWS // 10], few[1][: PEER_ROWS // 10]
        evp, version = openssl_evp("cmac", keys, messages)
        peers = [
            (
                "cryptography",
                PEER_ROWS / median_seconds(lambda: cryptography_loop(*few), 7),
                backend.openssl_version_text(),
            ),
            (
                "pycryptodome",
                PEER_ROWS / 10 / median_seconds(lambda: pycryptodome_loop(*tenth), 7),
                "",
            ),
            ("openssl_evp", evp, version),
        ]
        for kernel in cpu.available():
            seconds = median_seconds(partial(cmac.verify_many, keys, messages, macs, kernel=kernel))
            for peer, value, note in peers:
                known = (peer, value) if value else None
                rows.append(result(DISTINCT, TAGS / seconds, "tags/s", kernel, note, known))
        master, inputs = keys[0].copy(), random_rows(TAGS, 18, 4)
        derived = an10922.derive_many(master, inputs)
        right = cmac.cmac_many(derived, messages)
        for kernel in cpu.available():
            seconds = median_seconds(partial(diversified, master, inputs, messages, right, kernel))
            rows.append(result(DIVERSIFIED, TAGS / seconds, "tags/s", kernel, "18-byte inputs"))
    return rows


@pytest.mark.parametrize("kernel", cpu.available())
def test_cmac_distinct_keys(benchmark: Any, kernel: str) -> None:
    keys, messages, macs = shuffled_tags()
    verdicts = benchmark(cmac.verify_many, keys, messages, macs, kernel=kernel)
    assert verdicts.all()


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
