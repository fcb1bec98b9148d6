# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""What one portal has seen of each tag: accumulated from genuine reads, handed over when the tag has gone quiet."""

import numpy as np

cimport cython
from libc.stdint cimport int16_t, int64_t, uint8_t, uint32_t, uint64_t

from native.arrays import require


cdef extern from "tracks_impl.h":
    uint32_t TRACKS_CAPACITY_MAX
    int64_t TRACKS_BASE_MAX
    int SIDE_NONE, SIDE_INNER, SIDE_OUTER
    cdef struct tracks:
        pass
    cdef struct track_row:
        pass
    tracks *tracks_new(uint32_t capacity) nogil
    void tracks_free(tracks *tracks) nogil
    size_t tracks_update(tracks *tracks, size_t n, const uint32_t *numbers, const uint8_t *verdicts,
                         const uint8_t *antennas, const uint8_t *sides, const int16_t *rssi_cdbm,
                         const uint32_t *time_us, int64_t base_time_ns, uint32_t *first_seen) nogil
    size_t tracks_quiet(const tracks *tracks, int64_t quiet_before_ns) nogil
    void tracks_finish(tracks *tracks, int64_t quiet_before_ns, track_row *rows) nogil
    uint32_t tracks_count(const tracks *tracks) nogil
    uint64_t tracks_overflow(const tracks *tracks) nogil

INNER = SIDE_INNER
OUTER = SIDE_OUTER
NO_PEAK = -32768

TRACK = np.dtype({
    "names": ["first_ns", "last_ns", "mean_inner_ns", "mean_outer_ns", "number", "reads_inner", "reads_outer",
              "peak_inner_cdbm", "peak_outer_cdbm", "first_side", "last_side"],
    "formats": ["<i8", "<i8", "<i8", "<i8", "<u4", "<u4", "<u4", "<i2", "<i2", "u1", "u1"],
    "offsets": [0, 8, 16, 24, 32, 36, 40, 44, 46, 48, 49],
    "itemsize": 56,
})


@cython.final
cdef class Tracks:
    """Accumulates the GENUINE reads of up to `capacity` tags at a time for one portal; deterministic, integers only.

    One thread at a time: calls of the same object keep each other out by the GIL, which each gives up for nothing.
    """

    cdef tracks *tracks

    def __cinit__(self, capacity):
        if not isinstance(capacity, int) or not 1 <= capacity <= TRACKS_CAPACITY_MAX:
            raise ValueError(f"capacity: expected 1 to {TRACKS_CAPACITY_MAX}, got {capacity!r}")
        self.tracks = tracks_new(capacity)
        if self.tracks is NULL:
            raise MemoryError(f"no memory for {capacity} tracks")

    def __dealloc__(self):
        tracks_free(self.tracks)

    def update(self, numbers, verdicts, antennas, sides, rssi_cdbm, time_us, base_time_ns):
        """Add the reads whose verdict is GENUINE; the rows (uint32) of those that opened a new track, in order.

        numbers (N,) uint32, verdicts and antennas (N,) uint8, sides (256,) uint8 by antenna (0 none, 1 inner,
        2 outer), rssi_cdbm (N,) int16 in hundredths of a dBm, time_us (N,) uint32 after base_time_ns (UTC ns). Reads
        may come in any order of time. A new tag without a free track is left out and counted in `overflow`.
        """
        require(numbers, "numbers", np.uint32, (None,))
        cdef size_t n = numbers.shape[0], opened
        require(verdicts, "verdicts", np.uint8, (n,))
        require(antennas, "antennas", np.uint8, (n,))
        require(sides, "sides", np.uint8, (256,))
        require(rssi_cdbm, "rssi_cdbm", np.int16, (n,))
        require(time_us, "time_us", np.uint32, (n,))
        if sides.max() > SIDE_OUTER:
            raise ValueError("sides: expected 0 (none), 1 (inner) or 2 (outer) for every antenna")
        if not isinstance(base_time_ns, int) or not 0 <= base_time_ns <= TRACKS_BASE_MAX:
            raise ValueError(f"base_time_ns: expected 0 to {TRACKS_BASE_MAX}, got {base_time_ns!r}")
        first_seen = np.empty(n, np.uint32)
        cdef const uint32_t[::1] of_number = numbers, of_time = time_us
        cdef const uint8_t[::1] of_verdict = verdicts, of_antenna = antennas, of_side = sides
        cdef const int16_t[::1] of_rssi = rssi_cdbm
        cdef uint32_t[::1] rows = first_seen
        # The GIL is kept: it is what keeps two threads out of one accumulator, and a batch takes well under 1 ms.
        opened = tracks_update(self.tracks, n, &of_number[0], &of_verdict[0], &of_antenna[0], &of_side[0], &of_rssi[0],
                               &of_time[0], base_time_ns, &rows[0])
        return first_seen[:opened].copy()

    def finish(self, quiet_before_ns):
        """Remove the tracks whose last read is before `quiet_before_ns` and return them, in order of appearance.

        A structured array of dtype TRACK: number; first_ns, last_ns (all reads); reads_inner, reads_outer;
        mean_inner_ns, mean_outer_ns (every read weighs the same, rounded down; 0 without reads); first_side,
        last_side (of the earliest and latest read that has a side, else 0); peak_inner_cdbm, peak_outer_cdbm (NO_PEAK
        without reads). Times are UTC ns.
        """
        if not isinstance(quiet_before_ns, int) or not -2**63 <= quiet_before_ns < 2**63:
            raise ValueError(f"quiet_before_ns: expected a number of 64 bits, got {quiet_before_ns!r}")
        finished = np.zeros(tracks_quiet(self.tracks, quiet_before_ns), TRACK)
        cdef uint8_t[::1] rows = finished.view(np.uint8)
        tracks_finish(self.tracks, quiet_before_ns, <track_row *>&rows[0])  # the GIL is kept, as in update
        return finished

    @property
    def overflow(self):
        """Genuine reads left out because every track was taken, since the beginning."""
        return tracks_overflow(self.tracks)

    def __len__(self):
        return tracks_count(self.tracks)
