"""The kernels against independent implementations, many times over.

JINKU_SOAK_CASES (1000000, of pycryptodome) and JINKU_SOAK_BLOCKS (20000000, of `cryptography`) say how many.
"""

from __future__ import annotations

import numpy as np
import pytest
from Crypto.Cipher import AES
from Crypto.Hash import CMAC
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from native import cmac, cpu, tam2
from soak import how_many

CASES = how_many(1_000_000, "JINKU_SOAK_CASES")
BLOCKS = how_many(20_000_000, "JINKU_SOAK_BLOCKS")
STEP = 10_000
PER_KEY = 1_000
pytestmark = pytest.mark.soak


@pytest.mark.parametrize("kernel", cpu.available())
def test_cmacs_against_pycryptodome(kernel: str) -> None:
    """Another key, key size and message length every time."""
    rng = np.random.default_rng(31)
    for done in range(0, CASES, STEP):
        width, size = (16, 24, 32)[done // STEP % 3], int(rng.integers(0, 80))
        keys = rng.integers(0, 256, (STEP, width), np.uint8)
        messages = rng.integers(0, 256, (STEP, size), np.uint8)
        macs = cmac.cmac_many(keys, messages, kernel=kernel)
        for key, message, mac in zip(keys, messages, macs, strict=True):
            other = CMAC.new(key.tobytes(), message.tobytes(), ciphermod=AES)
            assert mac.tobytes() == other.digest()


@pytest.mark.parametrize("kernel", cpu.available())
def test_blocks_against_openssl(kernel: str) -> None:
    """CBC decryption of TAM2's four blocks, a thousand answers to each random key."""
    rng = np.random.default_rng(32)
    for done in range(0, BLOCKS, 5 * STEP):
        keys = np.repeat(rng.integers(0, 256, (STEP // PER_KEY, 16), np.uint8), PER_KEY, axis=0)
        plain = rng.integers(0, 256, (STEP, 80), np.uint8)
        plain[:, :2] = 0x96, 0xC5
        mixed = b"".join(
            Cipher(algorithms.AES128(keys[at].tobytes()), modes.ECB())
            .encryptor()
            .update(plain[at : at + PER_KEY].tobytes())
            for at in range(0, STEP, PER_KEY)
        )
        responses = np.frombuffer(mixed, np.uint8).reshape(STEP, 80)
        verdicts, data = tam2.verify_many(keys, plain[:, 6:16].copy(), responses, kernel=kernel)
        assert (verdicts == tam2.RIGHT).all(), done
        assert (data == plain[:, 16:] ^ responses[:, :64]).all(), done
