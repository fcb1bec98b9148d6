# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""ISO/IEC 29167-10 TAM1 (tag authentication, AES-128) in bulk, another key for every tag."""

import numpy as np

from libc.stdint cimport uint8_t

from native.cpu cimport choose

from native.arrays import require


cdef extern from "tam1_impl.h":
    int TAM1_FORGED, TAM1_RIGHT, TAM1_OTHER_CHALLENGE, TAM1_CHALLENGE
    void tam1_verify_many(int kernel, const uint8_t *keys, const uint8_t *challenges, size_t stride,
                          const uint8_t *responses, uint8_t *outcomes, size_t n) noexcept nogil

FORGED = TAM1_FORGED
RIGHT = TAM1_RIGHT
OTHER_CHALLENGE = TAM1_OTHER_CHALLENGE


def verify_many(keys, challenges, responses, *, kernel=None):
    """What each response proves: FORGED (0), RIGHT (1), OTHER_CHALLENGE (2: right key, another IChallenge).

    AES-DEC(key, response) must be 96C5 || TRnd (4 bytes) || IChallenge (10 bytes). keys (N, 16) uint8, challenges
    (10,) for all or (N, 10) uint8, responses (N, 16) uint8, all C-contiguous; returns (N,) uint8. Judged in constant
    time. ValueError names the argument that does not fit; KernelUnavailable if `kernel` is demanded and absent.
    """
    cdef int k = choose(kernel)
    require(keys, "keys", np.uint8, (None, 16))
    cdef bint shared = getattr(challenges, "ndim", 2) == 1
    require(challenges, "challenges", np.uint8, (TAM1_CHALLENGE,) if shared else (keys.shape[0], TAM1_CHALLENGE))
    require(responses, "responses", np.uint8, (keys.shape[0], 16))
    outcomes = np.empty(keys.shape[0], np.uint8)
    cdef const uint8_t[:, ::1] key_rows = keys
    cdef const uint8_t[:, ::1] challenge_rows = challenges.reshape(-1, TAM1_CHALLENGE)
    cdef const uint8_t[:, ::1] response_rows = responses
    cdef uint8_t[::1] out = outcomes
    cdef size_t stride = 0 if shared else TAM1_CHALLENGE
    with nogil:  # held meanwhile: the four buffers, through their views
        tam1_verify_many(k, &key_rows[0, 0], &challenge_rows[0, 0], stride, &response_rows[0, 0], &out[0],
                         key_rows.shape[0])
    return outcomes
