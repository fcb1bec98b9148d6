"""ISO/IEC 29167-10 TAM1 verification, another key for every tag."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

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
from native import cpu, tam1

CLAIM = "native.tam1"


def answers() -> tuple[Bytes, Bytes, Bytes]:
    """Keys, the challenge, and responses, of which the first PEER_ROWS are right."""
    keys, challenge, responses = (
        random_rows(TAGS, 16, 5),
        random_rows(1, 10, 6)[0],
        random_rows(TAGS, 16, 7),
    )
    for row in range(PEER_ROWS):
        block = b"\x96\xc5" + bytes(4) + challenge.tobytes()
        cipher = Cipher(algorithms.AES128(keys[row].tobytes()), modes.ECB())
        responses[row] = np.frombuffer(cipher.encryptor().update(block), np.uint8)
    return keys, challenge, responses


def cryptography_loop(keys: list[bytes], responses: list[bytes]) -> None:
    for key, response in zip(keys, responses, strict=True):
        Cipher(algorithms.AES128(key), modes.ECB()).decryptor().update(response)


def measure() -> list[dict[str, Any]]:
    keys, challenge, responses = answers()
    few = (
        [row.tobytes() for row in keys[:PEER_ROWS]],
        [row.tobytes() for row in responses[:PEER_ROWS]],
    )
    with one_core(), openssl_evp("decrypt", keys, responses) as evp:
        ours = [
            Runner(
                kernel,
                timed(partial(tam1.verify_many, keys, challenge, responses, kernel=kernel)),
                TAGS,
            )
            for kernel in cpu.available()
        ]
        loop = timed(partial(cryptography_loop, *few))
        peers = [*evp, Runner("cryptography", loop, PEER_ROWS, backend.openssl_version_text())]
        return compare(CLAIM, "tags/s", ours, peers)


@pytest.mark.parametrize("kernel", cpu.available())
def test_tam1(benchmark: Any, kernel: str) -> None:
    keys, challenge, responses = answers()
    outcomes = benchmark(tam1.verify_many, keys, challenge, responses, kernel=kernel)
    assert (outcomes[:PEER_ROWS] == tam1.RIGHT).all()


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
