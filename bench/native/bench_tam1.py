"""ISO/IEC 29167-10 TAM1 verification, another key for every tag."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

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
    rows = []
    with one_core():
        few = (
            [row.tobytes() for row in keys[:PEER_ROWS]],
            [row.tobytes() for row in responses[:PEER_ROWS]],
        )
        slow = PEER_ROWS / median_seconds(lambda: cryptography_loop(*few), 7)
        evp, version = openssl_evp("tam1", keys, responses)
        for kernel in cpu.available():
            seconds = median_seconds(
                partial(tam1.verify_many, keys, challenge, responses, kernel=kernel)
            )
            for peer, value, note in (("openssl_evp", evp, version), ("cryptography", slow, "")):
                known = (peer, value) if value else None
                rows.append(result(CLAIM, TAGS / seconds, "tags/s", kernel, note, known))
    return rows


@pytest.mark.parametrize("kernel", cpu.available())
def test_tam1(benchmark: Any, kernel: str) -> None:
    keys, challenge, responses = answers()
    outcomes = benchmark(tam1.verify_many, keys, challenge, responses, kernel=kernel)
    assert (outcomes[:PEER_ROWS] == tam1.RIGHT).all()


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
