# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""ISO/IEC 29167-10 TAM2, ProtMode 1 (tag authentication with encrypted data) in bulk, another key for every tag."""

import numpy as np

from libc.stdint cimport uint8_t

from native.cpu cimport choose

from native.arrays import require
from native.tam1 import FORGED, OTHER_CHALLENGE, RIGHT


cdef extern from "tam2_impl.h":
    int TAM1_CHALLENGE, TAM2_BLOCK, TAM2_BLOCKS_MAX
    void tam2_verify_many(int kernel, const uint8_t *keys, const uint8_t *challenges, size_t stride,
                          const uint8_t *responses, size_t blocks, uint8_t *outcomes, uint8_t *data,
                          size_t n) noexcept nogil

BLOCKS_MAX = TAM2_BLOCKS_MAX


def verify_many(keys, challenges, responses, *, kernel=None):
    """What each response proves, as `native.tam1` numbers it, and the data that came with it.

    The first 16 bytes are TAM1's block, the others 1 to 4 data blocks in CBC after it. keys (N, 16) uint8, challenges
    (10,) for all or (N, 10) uint8, responses (N, 32 | 48 | 64 | 80) uint8, all C-contiguous; returns verdicts (N,) and
    data (N, 16 * blocks) uint8, zero where the verdict is not RIGHT. Data are confidential, not authentic:
    `tam2_impl.h`. Judged in constant time. ValueError names the argument that does not fit; KernelUnavailable if
    `kernel` is demanded and absent.
    """
    cdef int k = choose(kernel)
    require(keys, "keys", np.uint8, (None, 16))
    cdef bint shared = getattr(challenges, "ndim", 2) == 1
    require(challenges, "challenges", np.uint8, (TAM1_CHALLENGE,) if shared else (keys.shape[0], TAM1_CHALLENGE))
    require(responses, "responses", np.uint8, (keys.shape[0], None))
    if responses.shape[1] not in (32, 48, 64, 80):
        raise ValueError(f"responses: expected 32, 48, 64 or 80 bytes a row, got {responses.shape[1]}")
    cdef size_t blocks = responses.shape[1] // TAM2_BLOCK - 1
    outcomes = np.empty(keys.shape[0], np.uint8)
    data = np.empty((keys.shape[0], TAM2_BLOCK * blocks), np.uint8)
    cdef const uint8_t[:, ::1] key_rows = keys
    cdef const uint8_t[:, ::1] challenge_rows = challenges.reshape(-1, TAM1_CHALLENGE)
    cdef const uint8_t[:, ::1] response_rows = responses
    cdef uint8_t[::1] out = outcomes
    cdef uint8_t[:, ::1] data_rows = data
    cdef size_t stride = 0 if shared else TAM1_CHALLENGE
    with nogil:  # held meanwhile: the five buffers, through their views
        tam2_verify_many(k, &key_rows[0, 0], &challenge_rows[0, 0], stride, &response_rows[0, 0], blocks, &out[0],
                         &data_rows[0, 0], key_rows.shape[0])
    return outcomes, data
