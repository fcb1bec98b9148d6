# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""A portal's batch of reads in one call: look up, derive, verify, count, one verdict byte per read."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from native.arena cimport KeyArena, arena
from native.cpu cimport choose
from native.tagindex cimport TagIndex, index

from native.arrays import exact_bytes, require
from native.errors import Closed


cdef extern from "pipeline_impl.h":
    cdef struct pipeline_batch:
        index *index
        arena *arena
        int kernel, scheme
        size_t n, width, blocks
        const uint8_t *identities
        const uint8_t *evidence
        const uint8_t *antennas
        const uint8_t *known_antennas
        const uint8_t *channels
        uint32_t channel_count
        const uint8_t *challenge
        uint8_t *verdicts
        uint32_t *numbers
        uint8_t *data
        uint32_t *advanced_numbers
        uint32_t *advanced_counters
        size_t advanced
        uint64_t mark, turn
        uint64_t counts[8]
    int SCHEME_NONE, SCHEME_TAM1, SCHEME_COUNTER_CMAC, SCHEME_TAM2, SCHEME_SUN, SCHEME_COUNTER_CMAC_16
    int VERDICT_GENUINE, VERDICT_UNKNOWN_TAG, VERDICT_BAD_EVIDENCE, VERDICT_REPLAYED, VERDICT_NOT_ACTIVE
    int VERDICT_NO_EVIDENCE, VERDICT_MALFORMED
    int pipeline_evidence_size(int scheme, size_t blocks) nogil
    int pipeline_counts(int scheme) nogil
    int pipeline_verify(pipeline_batch *batch) nogil
    bint index_width_ok(size_t width) nogil

cdef extern from "tam2_impl.h":
    int TAM2_BLOCK, TAM2_BLOCKS_MAX

cdef extern from "sun_impl.h":
    int SUN_UID

# Reads that are judged within some 20 microseconds by the fast kernel, 100 by the portable one.
cdef enum:
    FEW_READS = 256

NONE = SCHEME_NONE
TAM1 = SCHEME_TAM1
COUNTER_CMAC = SCHEME_COUNTER_CMAC
TAM2 = SCHEME_TAM2
SUN = SCHEME_SUN
COUNTER_CMAC_16 = SCHEME_COUNTER_CMAC_16

GENUINE = VERDICT_GENUINE
UNKNOWN_TAG = VERDICT_UNKNOWN_TAG
BAD_EVIDENCE = VERDICT_BAD_EVIDENCE
REPLAYED = VERDICT_REPLAYED
NOT_ACTIVE = VERDICT_NOT_ACTIVE
NO_EVIDENCE = VERDICT_NO_EVIDENCE
MALFORMED = VERDICT_MALFORMED


class BatchVerdicts(NamedTuple):
    """verdicts (N,) uint8; numbers (N,) uint32, 0xFFFFFFFF where MALFORMED or UNKNOWN_TAG; counts (8,) uint64 by
    verdict; for schemes with a counter the counters that advanced, in order of the reads, to be made durable:
    advanced_numbers and advanced_counters (A,) uint32; for TAM2 data (N, 16 * blocks) uint8, what the tag's memory
    holds, zero where the verdict is not GENUINE: confidential, but not authentic beyond the tag's own answer. mark: as
    of which the tags were seen, as TagIndex.put_all() was told. turn: how many batches of schemes with a counter had
    been judged before; of those it is the order."""

    verdicts: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint64]
    advanced_numbers: npt.NDArray[np.uint32]
    advanced_counters: npt.NDArray[np.uint32]
    data: npt.NDArray[np.uint8] | None = None
    mark: int = 0
    turn: int = 0


def evidence_size(scheme, blocks=0):
    """Bytes of evidence per read of a scheme; of TAM2 with `blocks` data blocks, 1 to 4, which others do not have.

    ValueError if there is no such scheme, or not with so many blocks.
    """
    if not isinstance(scheme, int) or not SCHEME_NONE <= scheme <= SCHEME_COUNTER_CMAC_16:
        raise ValueError(f"scheme: expected NONE (1), TAM1 (2), COUNTER_CMAC (3), TAM2 (4), SUN (5) or "
                         f"COUNTER_CMAC_16 (6), got {scheme!r}")
    few = 1 if scheme == SCHEME_TAM2 else 0
    many = TAM2_BLOCKS_MAX if scheme == SCHEME_TAM2 else 0
    if not isinstance(blocks, int) or not few <= blocks <= many:
        raise ValueError(f"blocks: expected {few} to {many} for scheme {scheme}, got {blocks!r}")
    return pipeline_evidence_size(scheme, blocks)


cdef object blocks_of(object scheme, object evidence):
    """How many data blocks the evidence's width means; what does not fit is found when the width is compared."""
    if scheme != SCHEME_TAM2 or getattr(evidence, "ndim", 0) != 2:
        return 1 if scheme == SCHEME_TAM2 else 0
    return min(max(evidence.shape[1] // TAM2_BLOCK - 1, 1), TAM2_BLOCKS_MAX)


def verify_batch(TagIndex index not None, KeyArena arena not None, scheme, identities, evidence, antennas,
                 known_antennas, channels, channel_count, challenge, *, kernel=None):
    """Judge every read of a batch; the rules and their order are in `pipeline_impl.h`.

    identities (N, W) uint8, W 7, 8, 12 or 16, of SUN 7; evidence (N, evidence_size(scheme)) uint8, whose width tells
    TAM2's blocks: (N, 32 | 48 | 64 | 80); antennas, channels (N,) uint8; known_antennas (256,) uint8, not 0 where the antenna is the portal's; channel_count 0 to 256; challenge: for
    TAM1 and TAM2 the 10 bytes of the valid challenge, or None when the quoted one is not valid: then what answers some
    challenge is REPLAYED and the rest BAD_EVIDENCE; None for other schemes. When this returns, counters have advanced
    in memory; making them durable is the caller's.

    ValueError names what does not fit; KernelUnavailable if `kernel` is demanded and absent; Closed if the arena is.
    """
    cdef pipeline_batch batch
    batch.kernel = choose(kernel)
    blocks = blocks_of(scheme, evidence)
    cdef int size = evidence_size(scheme, blocks)
    require(identities, "identities", np.uint8, (None, None))
    if not index_width_ok(identities.shape[1]):
        raise ValueError(f"identities: expected rows of 7, 8, 12 or 16 bytes, got {identities.shape[1]}")
    if scheme == SCHEME_SUN and identities.shape[1] != SUN_UID:
        raise ValueError(f"identities: expected rows of {SUN_UID} bytes for SUN, got {identities.shape[1]}")
    n = identities.shape[0]
    require(evidence, "evidence", np.uint8, (n, size))
    require(antennas, "antennas", np.uint8, (n,))
    require(known_antennas, "known_antennas", np.uint8, (256,))
    require(channels, "channels", np.uint8, (n,))
    if not isinstance(channel_count, int) or not 0 <= channel_count <= 256:
        raise ValueError(f"channel_count: expected 0 to 256, got {channel_count!r}")
    if challenge is not None:
        if scheme not in (SCHEME_TAM1, SCHEME_TAM2):
            raise ValueError(f"challenge: expected None for scheme {scheme}")
        exact_bytes(challenge, "challenge", 10)
    verdicts = np.empty(n, np.uint8)
    numbers = np.empty(n, np.uint32)
    advanced = np.empty((2, n if pipeline_counts(scheme) else 0), np.uint32)
    data = np.empty((n, TAM2_BLOCK * blocks), np.uint8)
    cdef const uint8_t[:, ::1] identity_rows = identities
    cdef const uint8_t[:, ::1] evidence_rows = evidence
    cdef const uint8_t[::1] antenna_column = antennas, known = known_antennas, channel_column = channels
    cdef uint8_t[::1] verdict_column = verdicts
    cdef uint8_t[:, ::1] data_rows = data
    cdef uint32_t[::1] number_column = numbers
    cdef uint32_t[:, ::1] advanced_rows = advanced
    batch.index = index.index
    batch.arena = arena.arena
    batch.scheme = scheme
    batch.n = n
    batch.blocks = blocks
    batch.width = identity_rows.shape[1]
    batch.identities = &identity_rows[0, 0]
    batch.evidence = &evidence_rows[0, 0]
    batch.antennas = &antenna_column[0]
    batch.known_antennas = &known[0]
    batch.channels = &channel_column[0]
    batch.channel_count = channel_count
    batch.challenge = NULL
    if challenge is not None:
        batch.challenge = challenge
    batch.verdicts = &verdict_column[0]
    batch.numbers = &number_column[0]
    batch.data = &data_rows[0, 0]
    batch.advanced_numbers = &advanced_rows[0, 0]
    batch.advanced_counters = &advanced_rows[1, 0]
    cdef int failed
    if n <= FEW_READS:
        # Some microseconds: giving the GIL up costs more than that where other threads want it. Whoever holds the
        # index's write lock meanwhile does not wait for the GIL.
        failed = pipeline_verify(&batch)
    else:
        with nogil:  # held meanwhile: in the call, the arena and the index's read lock; the buffers through their views
            failed = pipeline_verify(&batch)
    if failed:
        raise Closed("the key arena is closed")
    counts = np.array([batch.counts[i] for i in range(8)], np.uint64)
    # Copies: a view would keep room for all reads alive.
    return BatchVerdicts(verdicts, numbers, counts, advanced[0, :batch.advanced].copy(),
                         advanced[1, :batch.advanced].copy(), data if blocks else None, batch.mark, batch.turn)
