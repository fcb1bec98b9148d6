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
    Runner,
    compare,
    one_core,
    openssl_evp,
    random_rows,
    timed,
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


def peers_in_python(keys: Bytes, messages: Bytes) -> list[Runner]:
    """Fewer rows: a loop in Python is slow, and its rate does not depend on how many there are."""
    few = [row.tobytes() for row in keys[:PEER_ROWS]], [row.tobytes() for row in messages]
    tenth = few[0][: PEER_ROWS // 10], few[1][: PEER_ROWS // 10]
    quick = timed(partial(cryptography_loop, few[0], few[1][:PEER_ROWS]))
    slow = timed(partial(pycryptodome_loop, *tenth))
    return [
        Runner("cryptography", quick, PEER_ROWS, backend.openssl_version_text()),
        Runner("pycryptodome", slow, PEER_ROWS // 10),
    ]


def measure() -> list[dict[str, Any]]:
    keys, messages, macs = shuffled_tags()
    with one_core(), openssl_evp("cmac", keys, messages) as evp:
        ours = [
            Runner(
                kernel, timed(partial(cmac.verify_many, keys, messages, macs, kernel=kernel)), TAGS
            )
            for kernel in cpu.available()
        ]
        rows = compare(DISTINCT, "tags/s", ours, [*evp, *peers_in_python(keys, messages)])
    master, inputs = keys[0].copy(), random_rows(TAGS, 18, 4)
    right = cmac.cmac_many(an10922.derive_many(master, inputs), messages)
    with one_core():
        ours = [
            Runner(
                kernel,
                timed(partial(diversified, master, inputs, messages, right, kernel)),
                TAGS,
            )
            for kernel in cpu.available()
        ]
        return [*rows, *compare(DIVERSIFIED, "tags/s", ours, note="18-byte inputs")]


@pytest.mark.parametrize("kernel", cpu.available())
def test_cmac_distinct_keys(benchmark: Any, kernel: str) -> None:
    keys, messages, macs = shuffled_tags()
    verdicts = benchmark(cmac.verify_many, keys, messages, macs, kernel=kernel)
    assert verdicts.all()


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
