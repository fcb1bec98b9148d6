#include "tracks_impl.h"

#include <stdlib.h>
#include <string.h>

__extension__ typedef __int128 wide;

_Static_assert(sizeof(struct track_row) == 56, "finished tracks are read as packed records");

enum { GENUINE = 1, NO_PEAK = INT16_MIN };
#define FREE UINT32_MAX

struct track {
    wide sum[SIDE_COUNT]; /* of read times; wide, so that no run of reads overflows it */
    int64_t first_ns, last_ns;
    int64_t first_sided_ns, last_sided_ns;
    uint32_t number;
    uint32_t reads[SIDE_COUNT];
    int16_t peak[SIDE_COUNT];
    uint8_t first_side, last_side;
};

struct tracks {
    struct track *tracks; /* count, in order of appearance */
    uint32_t *places;     /* hash table: positions in tracks, FREE where none */
    uint32_t capacity, count, slots;
    uint64_t overflow;
};

struct tracks *tracks_new(uint32_t capacity)
{
    if (capacity < 1 || capacity > TRACKS_CAPACITY_MAX)
        return NULL;
    struct tracks *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->capacity = capacity;
    t->slots = capacity + capacity / 2 + 1;
    t->tracks = calloc(capacity, sizeof *t->tracks);
    t->places = malloc(t->slots * sizeof *t->places);
    if (!t->tracks || !t->places) {
        tracks_free(t);
        return NULL;
    }
    memset(t->places, 0xFF, t->slots * sizeof *t->places);
    return t;
}

void tracks_free(struct tracks *t)
{
    if (!t)
        return;
    free(t->tracks);
    free(t->places);
    free(t);
}

/* The place of a number's track, or the free place where it would go. Numbers are dense and given
 * out by the server, so a plain multiplicative hash does. */
static uint32_t *place_of(const struct tracks *t, uint32_t number)
{
    const uint32_t hash = number * 0x9E3779B1u;
    for (uint32_t at = (uint32_t)((uint64_t)hash * t->slots >> 32);;
         at = at + 1 == t->slots ? 0 : at + 1)
        if (t->places[at] == FREE || t->tracks[t->places[at]].number == number)
            return &t->places[at];
}

/* A new track, or NULL when all are taken. */
static struct track *open_track(struct tracks *t, uint32_t *place, uint32_t number, int64_t time)
{
    if (t->count == t->capacity)
        return NULL;
    *place = t->count++;
    struct track *track = &t->tracks[*place];
    *track = (struct track){
        .number = number, .first_ns = time, .last_ns = time, .peak = {NO_PEAK, NO_PEAK, NO_PEAK}};
    return track;
}

static void add_read(struct track *track, int64_t time, uint8_t side, int16_t rssi)
{
    if (time < track->first_ns)
        track->first_ns = time;
    if (time > track->last_ns)
        track->last_ns = time;
    if (side == SIDE_NONE)
        return;
    if (!track->first_side || time < track->first_sided_ns) {
        track->first_side = side;
        track->first_sided_ns = time;
    }
    if (!track->last_side || time >= track->last_sided_ns) {
        track->last_side = side;
        track->last_sided_ns = time;
    }
    track->reads[side]++;
    track->sum[side] += time;
    if (rssi > track->peak[side])
        track->peak[side] = rssi;
}

size_t tracks_update(struct tracks *t, size_t n, const uint32_t *numbers, const uint8_t *verdicts,
                     const uint8_t *antennas, const uint8_t *sides, const int16_t *rssi_cdbm,
                     const uint32_t *time_us, int64_t base_time_ns, uint32_t *first_seen)
{
    size_t opened = 0;
    for (size_t i = 0; i < n; i++) {
        if (verdicts[i] != GENUINE)
            continue;
        const int64_t time = base_time_ns + (int64_t)time_us[i] * 1000;
        uint32_t *place = place_of(t, numbers[i]);
        struct track *track;
        if (*place != FREE) {
            track = &t->tracks[*place];
        } else {
            track = open_track(t, place, numbers[i], time);
            if (!track) {
                t->overflow++;
                continue;
            }
            first_seen[opened++] = (uint32_t)i;
        }
        add_read(track, time, sides[antennas[i]], rssi_cdbm[i]);
    }
    return opened;
}

size_t tracks_quiet(const struct tracks *t, int64_t quiet_before_ns)
{
    size_t quiet = 0;
    for (uint32_t i = 0; i < t->count; i++)
        quiet += t->tracks[i].last_ns < quiet_before_ns;
    return quiet;
}

static int64_t mean_ns(const struct track *track, int side)
{
    return track->reads[side] ? (int64_t)(track->sum[side] / track->reads[side]) : 0;
}

static void write_row(struct track_row *row, const struct track *track)
{
    *row = (struct track_row){
        .first_ns = track->first_ns,
        .last_ns = track->last_ns,
        .mean_inner_ns = mean_ns(track, SIDE_INNER),
        .mean_outer_ns = mean_ns(track, SIDE_OUTER),
        .number = track->number,
        .reads_inner = track->reads[SIDE_INNER],
        .reads_outer = track->reads[SIDE_OUTER],
        .peak_inner_cdbm = track->peak[SIDE_INNER],
        .peak_outer_cdbm = track->peak[SIDE_OUTER],
        .first_side = track->first_side,
        .last_side = track->last_side,
    };
}

void tracks_finish(struct tracks *t, int64_t quiet_before_ns, struct track_row *rows)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        if (t->tracks[i].last_ns < quiet_before_ns)
            write_row(rows++, &t->tracks[i]);
        else
            t->tracks[kept++] = t->tracks[i];
    }
    if (kept == t->count)
        return;
    /* With linear probing, rebuilding is simpler than deleting, and those that stay are few. */
    t->count = kept;
    memset(t->places, 0xFF, t->slots * sizeof *t->places);
    for (uint32_t i = 0; i < kept; i++) {
        uint32_t *place = place_of(t, t->tracks[i].number);
        *place = i;
    }
}

uint32_t tracks_count(const struct tracks *t)
{
    return t->count;
}
uint64_t tracks_overflow(const struct tracks *t)
{
    return t->overflow;
}
