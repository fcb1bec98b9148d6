# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""The hashes of a Merkle tree (RFC 6962) in bulk: a commit's entries in one call, a level's nodes in another."""

import numpy as np

from libc.stdint cimport uint8_t, uint64_t

from native.cpu cimport choose_sha256

from native.arrays import require


cdef extern from "merkle_impl.h":
    int MERKLE_HASH
    size_t MERKLE_MALFORMED
    cdef struct merkle_field:
        uint64_t start, end
    size_t merkle_count(const uint8_t *packed, size_t size) nogil
    void merkle_split(const uint8_t *packed, size_t size, merkle_field *fields) nogil
    bint merkle_fields_fit(const merkle_field *fields, size_t n, size_t size) nogil
    void merkle_leaves(int kernel, const uint8_t *packed, const merkle_field *fields, uint8_t *hashes, size_t n) nogil
    void merkle_nodes(int kernel, const uint8_t *children, uint8_t *parents, size_t n) nogil

HASH_SIZE = MERKLE_HASH


cdef bytes whole(object packed):
    if not isinstance(packed, bytes):  # which nobody changes meanwhile
        raise ValueError(f"packed: expected bytes, got {type(packed).__name__}")
    return packed


def split(packed):
    """Where the fields of `packed` lie: (N, 2) uint64 of start and end, in order.

    packed: bytes, each field u32 big-endian size ‖ bytes. ValueError if the sizes do not add up.
    """
    cdef const uint8_t[::1] view = whole(packed)
    cdef size_t size = view.shape[0], count
    with nogil:  # held meanwhile: the buffer, through its view
        count = merkle_count(&view[0], size)
    if count == MERKLE_MALFORMED:
        raise ValueError("packed: a size is cut off, or what it announces is")
    fields = np.empty((count, 2), np.uint64)
    cdef uint64_t[:, ::1] rows = fields
    with nogil:  # held meanwhile: both buffers, through their views
        merkle_split(&view[0], size, <merkle_field *>&rows[0, 0])
    return fields


def leaf_hashes(packed, fields, *, kernel=None):
    """RFC 6962's leaf hash of each entry, (N, 32) uint8: SHA-256(00 ‖ header ‖ SHA-256(events)).

    fields (2N, 2) uint64 C-contiguous: where header and events of each entry lie in `packed`, as split() gives it.
    ValueError if a header has no events, or a field does not lie in `packed`; KernelUnavailable if `kernel` is
    demanded and absent.
    """
    cdef int k = choose_sha256(kernel)
    require(fields, "fields", np.uint64, (None, 2))
    cdef const uint8_t[::1] view = whole(packed)
    cdef size_t size = view.shape[0], n = fields.shape[0]
    cdef bint fit
    if n % 2:
        raise ValueError(f"fields: expected two rows for each entry, got {n} rows")
    hashes = np.empty((n // 2, MERKLE_HASH), np.uint8)
    cdef uint8_t[:, ::1] out = hashes
    # A copy: what was found to fit is what is used, whoever writes to `fields` meanwhile.
    cdef const uint64_t[:, ::1] rows = fields.copy()
    with nogil:  # held meanwhile: the three buffers, through their views
        fit = merkle_fields_fit(<const merkle_field *>&rows[0, 0], n, size)
        if fit:
            merkle_leaves(k, &view[0], <const merkle_field *>&rows[0, 0], &out[0, 0], n // 2)
    if not fit:
        raise ValueError(f"fields: one does not lie in the {size} bytes of packed")
    return hashes


def node_hashes(children, *, kernel=None):
    """RFC 6962's hash of each pair of nodes, (N, 32) uint8: SHA-256(01 ‖ left ‖ right).

    children (2N, 32) uint8, C-contiguous. ValueError if it is not; KernelUnavailable if `kernel` is demanded and absent.
    """
    cdef int k = choose_sha256(kernel)
    require(children, "children", np.uint8, (None, MERKLE_HASH))
    cdef const uint8_t[:, ::1] rows = children
    cdef size_t n = rows.shape[0] // 2
    if rows.shape[0] % 2:
        raise ValueError(f"children: expected pairs, got {rows.shape[0]} rows")
    parents = np.empty((n, MERKLE_HASH), np.uint8)
    cdef uint8_t[:, ::1] out = parents
    with nogil:  # held meanwhile: both buffers, through their views
        merkle_nodes(k, &rows[0, 0], &out[0, 0], n)
    return parents
