# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""NTAG 424 DNA secure unique NFC messages (AN12196) in bulk, another key for every tag."""

import numpy as np

from libc.stdint cimport uint8_t

from native.cpu cimport choose

from native.arrays import require


cdef extern from "sun_impl.h":
    int SUN_UID, SUN_EVIDENCE
    void sun_verify_many(int kernel, const uint8_t *keys, const uint8_t *uids, const uint8_t *evidence, uint8_t *right,
                         size_t n) noexcept nogil


def verify_many(keys, uids, evidence, *, kernel=None):
    """1 for each row whose MAC is right, else 0, compared in constant time.

    keys (N, 16), uids (N, 7), evidence (N, 11) uint8: counter (3 bytes, little-endian) || MAC (8); all C-contiguous.
    Whether a counter is fresh is the caller's to say. Returns (N,) uint8. ValueError names the argument that does not
    fit; KernelUnavailable if `kernel` is demanded and absent.
    """
    cdef int k = choose(kernel)
    require(keys, "keys", np.uint8, (None, 16))
    require(uids, "uids", np.uint8, (keys.shape[0], SUN_UID))
    require(evidence, "evidence", np.uint8, (keys.shape[0], SUN_EVIDENCE))
    right = np.empty(keys.shape[0], np.uint8)
    cdef const uint8_t[:, ::1] key_rows = keys, uid_rows = uids, evidence_rows = evidence
    cdef uint8_t[::1] verdicts = right
    with nogil:  # held meanwhile: the four buffers, through their views
        sun_verify_many(k, &key_rows[0, 0], &uid_rows[0, 0], &evidence_rows[0, 0], &verdicts[0], key_rows.shape[0])
    return right
