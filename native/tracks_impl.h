/* What one portal has seen of each tag since it came into the field: times, counts and peaks by
 * side.
 *
 * Bounded: a read of a new tag when all tracks are taken is counted as overflow and left out.
 * Deterministic: integers only, tracks in order of appearance. Not locked: one portal's stream, one
 * thread at a time.
 */
#ifndef NATIVE_TRACKS_IMPL_H
#define NATIVE_TRACKS_IMPL_H

#include <stddef.h>
#include <stdint.h>

#define TRACKS_CAPACITY_MAX 0x10000000u
/* Times are ns since 1970, from 0 to this; a read's time is the base plus up to 2^32 µs. */
#define TRACKS_BASE_MAX 0x7000000000000000

enum tracks_side { SIDE_NONE = 0, SIDE_INNER = 1, SIDE_OUTER = 2, SIDE_COUNT = 3 };

/* One finished track: packed, without padding, in this order. */
struct track_row {
    int64_t first_ns, last_ns; /* earliest and latest read, whatever the side */
    int64_t mean_inner_ns,
        mean_outer_ns; /* every read weighs the same; rounded down; 0 without reads */
    uint32_t number;
    uint32_t reads_inner, reads_outer;
    int16_t peak_inner_cdbm, peak_outer_cdbm; /* -32768 without reads */
    uint8_t first_side,
        last_side; /* of the earliest and the latest read that has a side; 0 without one */
    uint8_t reserved[6];
};

struct tracks;

/* Room for capacity (1 .. TRACKS_CAPACITY_MAX) tags at a time. NULL when memory is refused.
 * tracks_free frees (NULL too). */
struct tracks *tracks_new(uint32_t capacity);
void tracks_free(struct tracks *tracks);

/* Adds the n reads whose verdict is 1 (GENUINE). sides has 256 entries (0..2) by antenna. Writes to
 * first_seen (room for n) the rows that opened a track; returns how many. At equal times,
 * first_side keeps the row that came first and last_side takes the one that came last. */
size_t tracks_update(struct tracks *tracks, size_t n, const uint32_t *numbers,
                     const uint8_t *verdicts, const uint8_t *antennas, const uint8_t *sides,
                     const int16_t *rssi_cdbm, const uint32_t *time_us, int64_t base_time_ns,
                     uint32_t *first_seen);

/* How many tracks have their last read before quiet_before_ns. */
size_t tracks_quiet(const struct tracks *tracks, int64_t quiet_before_ns);

/* Removes these tracks and writes them to rows (room for tracks_quiet), in order of appearance. */
void tracks_finish(struct tracks *tracks, int64_t quiet_before_ns, struct track_row *rows);

uint32_t tracks_count(const struct tracks *tracks);
/* Reads left out since the beginning. */
uint64_t tracks_overflow(const struct tracks *tracks);

#endif
