"""Verification of every scheme beyond TAM1 with the tags' keys given, another one for every tag, against
OpenSSL; CMAC and AN10922 with longer keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.native.peers import (
    TAGS,
    Bytes,
    Runner,
    compare,
    one_core,
    openssl_evp,
    random_rows,
    timed,
)
from bench.native.site import CHALLENGE, LABEL, SUN_LABEL, encrypt, joined
from native import an10922, cmac, cpu, sun, tam2

Work = Callable[..., object]


def kernels(work: Work) -> list[Runner]:
    """The work with each kernel, once for every tag."""
    return [Runner(kernel, timed(partial(work, kernel=kernel)), TAGS) for kernel in cpu.available()]


def measure_tam2(blocks: int) -> list[dict[str, Any]]:
    keys, challenge = random_rows(TAGS, 16, 5), np.frombuffer(CHALLENGE, np.uint8)
    plain = b"\x96\xc5" + bytes(4) + CHALLENGE + bytes(range(16)) * blocks
    answers = b"".join(encrypt(key.tobytes(), plain) for key in keys)
    responses = np.frombuffer(answers, np.uint8).reshape(TAGS, -1)
    outcomes, data = tam2.verify_many(keys, challenge, responses)
    assert (outcomes == tam2.RIGHT).all()
    assert (data == np.tile(np.arange(16, dtype=np.uint8), blocks)).all()
    with openssl_evp("decrypt", keys, responses) as evp:
        ours = kernels(partial(tam2.verify_many, keys, challenge, responses))
        return compare("native.tam2", "tags/s", ours, evp, f"{blocks} blocks of data")


def counters() -> Bytes:
    return np.arange(TAGS, dtype="<u4").view(np.uint8).reshape(-1, 4)


def measure_sun() -> list[dict[str, Any]]:
    keys, uids, low = random_rows(TAGS, 16, 5), random_rows(TAGS, 7, 6), counters()[:, :3]
    sessions = cmac.cmac_many(keys, joined(SUN_LABEL, uids, low))
    macs = cmac.cmac_many(sessions, np.empty((TAGS, 0), np.uint8))[:, 1::2]
    evidence = np.concatenate([low, macs], axis=1)
    assert sun.verify_many(keys, uids, evidence).all()
    rows = np.concatenate([uids, evidence], axis=1)
    with openssl_evp("sun", keys, rows) as evp:
        return compare(
            "native.sun", "tags/s", kernels(partial(sun.verify_many, keys, uids, evidence)), evp
        )


def measure_counter_cmac(size: int) -> list[dict[str, Any]]:
    keys, messages = random_rows(TAGS, 16, 5), joined(LABEL, counters())
    macs = np.ascontiguousarray(cmac.cmac_many(keys, messages)[:, :size])
    assert cmac.verify_many(keys, messages, macs).all()
    with openssl_evp("cmac", keys, messages) as evp:
        ours = kernels(partial(cmac.verify_many, keys, messages, macs))
        return compare("native.counter_cmac", "tags/s", ours, evp, f"{size} bytes of MAC")


def measure_long_keys(size: int) -> list[dict[str, Any]]:
    keys, messages = random_rows(TAGS, size, 5), random_rows(TAGS, 16, 6)
    macs = cmac.cmac_many(keys, messages)
    with openssl_evp("cmac", keys, messages) as evp:
        ours = kernels(partial(cmac.verify_many, keys, messages, macs))
        return compare("native.cmac_long_keys", "tags/s", ours, evp, f"AES-{8 * size}")


def measure_derivation(size: int) -> list[dict[str, Any]]:
    master, inputs = random_rows(1, size, 5)[0], random_rows(TAGS, 18, 6)
    ours = kernels(partial(an10922.derive_many, master, inputs))
    note = f"AES-{8 * size} from one master; 18-byte inputs"
    return compare("native.an10922", "keys/s", ours, note=note)


def measure() -> list[dict[str, Any]]:
    with one_core():
        return [
            *(row for blocks in (1, 2, 3, 4) for row in measure_tam2(blocks)),
            *measure_sun(),
            *(row for size in (8, 16) for row in measure_counter_cmac(size)),
            *(row for size in (24, 32) for row in measure_long_keys(size)),
            *(row for size in (16, 24, 32) for row in measure_derivation(size)),
        ]


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
