# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""AES key diversification as NXP AN10922 describes it, in bulk."""

import numpy as np

from libc.stdint cimport uint8_t

from native.cpu cimport choose

from native.arrays import require


cdef extern from "an10922_impl.h":
    int AN10922_INPUT_MAX
    cdef struct aes_master:
        pass
    void aes_master_init(aes_master *master, const uint8_t *key, size_t key_size) noexcept nogil
    void an10922_derive_many(int kernel, const aes_master *master, const uint8_t *inputs, size_t size,
                             uint8_t *keys, size_t n) noexcept nogil
    void cpu_wipe(void *buffer, size_t size) noexcept nogil


def derive_many(master, inputs, *, kernel=None):
    """The diversified key of each diversification input, of the master's own size; `an10922_impl.h` has the formulas.

    master (16 | 24 | 32,) uint8: AES-128, -192, -256; inputs (N, L) uint8 with 1 <= L <= 31, C-contiguous; returns
    (N, 16 | 24 | 32) uint8. The expanded master is wiped before this returns; `master` itself remains the caller's to
    wipe. ValueError names the argument
    that does not fit; KernelUnavailable if `kernel` is demanded and absent.
    """
    cdef int k = choose(kernel)
    require(master, "master", np.uint8, (None,))
    if master.shape[0] not in (16, 24, 32):
        raise ValueError(f"master: expected 16, 24 or 32 bytes, got {master.shape[0]}")
    require(inputs, "inputs", np.uint8, (None, None))
    if not 1 <= inputs.shape[1] <= AN10922_INPUT_MAX:
        raise ValueError(f"inputs: expected 1 to {AN10922_INPUT_MAX} bytes a row, got {inputs.shape[1]}")
    keys = np.empty((inputs.shape[0], master.shape[0]), np.uint8)
    cdef aes_master expanded
    cdef const uint8_t[::1] key = master
    cdef const uint8_t[:, ::1] rows = inputs
    cdef uint8_t[:, ::1] out = keys
    with nogil:  # held meanwhile: the three buffers, through their views
        aes_master_init(&expanded, &key[0], key.shape[0])
        an10922_derive_many(k, &expanded, &rows[0, 0], rows.shape[1], &out[0, 0], rows.shape[0])
        cpu_wipe(&expanded, sizeof(expanded))
    return keys
