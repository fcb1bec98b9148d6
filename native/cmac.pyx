# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""AES-CMAC (RFC 4493, NIST SP 800-38B) in bulk, another key for every message."""

import numpy as np

from libc.stdint cimport uint8_t

from native.cpu cimport choose

from native.arrays import require


cdef extern from "cmac_impl.h":
    int CMAC_MAC_MIN, CMAC_MAC_MAX
    int CMAC_LEFT, CMAC_ODD, CMAC_ODD_SIZE
    void c_cmac_many "cmac_many"(int kernel, const uint8_t *keys, size_t key_size, const uint8_t *messages,
                                 size_t length, uint8_t *macs, size_t n) noexcept nogil
    void cmac_verify_many(int kernel, const uint8_t *keys, size_t key_size, const uint8_t *messages, size_t length,
                          const uint8_t *macs, size_t mac_size, int truncation, uint8_t *right, size_t n) noexcept nogil

MESSAGE_MAX = 4096


cdef object check(object keys, object messages):
    require(keys, "keys", np.uint8, (None, None))
    if keys.shape[1] not in (16, 24, 32):
        raise ValueError(f"keys: expected 16, 24 or 32 bytes a row, got {keys.shape[1]}")
    require(messages, "messages", np.uint8, (keys.shape[0], None))
    if messages.shape[1] > MESSAGE_MAX:
        raise ValueError(f"messages: expected at most {MESSAGE_MAX} bytes a row, got {messages.shape[1]}")


def cmac_many(keys, messages, *, kernel=None):
    """AES-CMAC of each row of `messages` under the key in the same row of `keys`.

    keys (N, 16 | 24 | 32) uint8: AES-128, -192, -256; messages (N, L) uint8 with 0 <= L <= 4096, both C-contiguous;
    returns (N, 16) uint8.
    ValueError names the argument that does not fit; KernelUnavailable if `kernel` is demanded and absent.
    """
    cdef int k = choose(kernel)
    check(keys, messages)
    macs = np.empty((keys.shape[0], 16), np.uint8)
    cdef const uint8_t[:, ::1] key_rows = keys
    cdef const uint8_t[:, ::1] message_rows = messages
    cdef uint8_t[:, ::1] mac_rows = macs
    cdef size_t length = message_rows.shape[1]
    with nogil:  # held meanwhile: the three buffers, through their views
        c_cmac_many(k, &key_rows[0, 0], key_rows.shape[1], &message_rows[0, 0], length, &mac_rows[0, 0], key_rows.shape[0])
    return macs


def verify_many(keys, messages, macs, *, truncation="left", kernel=None):
    """1 for each row whose MAC is right, else 0, compared in constant time.

    keys (N, 16 | 24 | 32) uint8, messages (N, L) uint8 with 0 <= L <= 4096, macs (N, T) uint8: with truncation "left"
    the left T bytes of the CMAC, 4 <= T <= 16; with "odd" the 8 with odd index; all C-contiguous. Returns (N,) uint8. ValueError names the argument that does not fit;
    KernelUnavailable if `kernel` is demanded and absent.
    """
    cdef int k = choose(kernel)
    check(keys, messages)
    require(macs, "macs", np.uint8, (keys.shape[0], None))
    if truncation not in ("left", "odd"):
        raise ValueError(f"truncation: expected 'left' or 'odd', got {truncation!r}")
    cdef int which = CMAC_ODD if truncation == "odd" else CMAC_LEFT
    if which == CMAC_ODD and macs.shape[1] != CMAC_ODD_SIZE:
        raise ValueError(f"macs: expected {CMAC_ODD_SIZE} bytes a row, got {macs.shape[1]}")
    if not CMAC_MAC_MIN <= macs.shape[1] <= CMAC_MAC_MAX:
        raise ValueError(f"macs: expected {CMAC_MAC_MIN} to {CMAC_MAC_MAX} bytes a row, got {macs.shape[1]}")
    right = np.empty(keys.shape[0], np.uint8)
    cdef const uint8_t[:, ::1] key_rows = keys
    cdef const uint8_t[:, ::1] message_rows = messages
    cdef const uint8_t[:, ::1] mac_rows = macs
    cdef uint8_t[::1] verdicts = right
    with nogil:  # held meanwhile: the four buffers, through their views
        cmac_verify_many(k, &key_rows[0, 0], key_rows.shape[1], &message_rows[0, 0], message_rows.shape[1],
                         &mac_rows[0, 0], mac_rows.shape[1], which, &verdicts[0], key_rows.shape[0])
    return right
