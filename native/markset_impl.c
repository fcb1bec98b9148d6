#include "markset_impl.h"

#include <stdlib.h>

__extension__ typedef unsigned __int128 wide;

enum { SLOTS_MIN = 16 };

struct markset {
    uint64_t *slots; /* 0: empty */
    uint64_t slot_count;
    uint64_t used;  /* slots that are not empty */
    uint64_t zeros; /* how often the mark 0 is there, which no slot can hold */
};

static uint64_t slots_for(uint64_t capacity)
{
    const uint64_t slots = capacity + capacity * 3 / 7 + 2;
    return slots < SLOTS_MIN ? SLOTS_MIN : slots;
}

struct markset *markset_new(uint64_t capacity)
{
    if (capacity > MARKSET_CAPACITY_MAX)
        return NULL;
    struct markset *set = calloc(1, sizeof *set);
    if (!set)
        return NULL;
    set->slot_count = slots_for(capacity);
    set->slots = calloc(set->slot_count, sizeof *set->slots);
    if (!set->slots) {
        free(set);
        return NULL;
    }
    return set;
}

void markset_free(struct markset *set)
{
    if (!set)
        return;
    free(set->slots);
    free(set);
}

/* Where the search for a mark begins. Marks lie nearly in order, so that a dump is put into another
 * set from its front to its end. */
static uint64_t home_of(const struct markset *set, uint64_t mark)
{
    return (uint64_t)((wide)mark * set->slot_count >> 64);
}

static uint64_t after(const struct markset *set, uint64_t at)
{
    return at + 1 == set->slot_count ? 0 : at + 1;
}

/* There is an empty slot. */
static void put(struct markset *set, uint64_t mark)
{
    if (!mark) {
        set->zeros++;
        return;
    }
    uint64_t at = home_of(set, mark);
    while (set->slots[at])
        at = after(set, at);
    set->slots[at] = mark;
    set->used++;
}

static int reserve(struct markset *set, uint64_t more)
{
    const uint64_t wanted = set->used + more;
    if (wanted <= set->slot_count / 10 * 7 + set->slot_count % 10 * 7 / 10)
        return 1;
    const uint64_t quarter = set->used + set->used / 4;
    struct markset *grown = markset_new(wanted > quarter ? wanted : quarter);
    if (!grown)
        return 0;
    for (uint64_t at = 0; at < set->slot_count; at++)
        if (set->slots[at])
            put(grown, set->slots[at]);
    free(set->slots);
    set->slots = grown->slots;
    set->slot_count = grown->slot_count;
    free(grown);
    return 1;
}

int markset_add(struct markset *set, const uint64_t *marks, size_t n)
{
    if (!reserve(set, n))
        return 0;
    for (size_t i = 0; i < n; i++)
        put(set, marks[i]);
    return 1;
}

/* Where a mark is; an empty slot if it is nowhere. Not for 0. */
static uint64_t find(const struct markset *set, uint64_t mark)
{
    uint64_t at = home_of(set, mark);
    while (set->slots[at] && set->slots[at] != mark)
        at = after(set, at);
    return at;
}

/* Empties a slot, and moves back what can no longer be found behind it. */
static void empty(struct markset *set, uint64_t hole)
{
    for (uint64_t at = after(set, hole); set->slots[at]; at = after(set, at)) {
        const uint64_t home = home_of(set, set->slots[at]);
        /* It stays if its home lies between the hole and itself, around the end too. */
        if (hole < at ? hole < home && home <= at : hole < home || home <= at)
            continue;
        set->slots[hole] = set->slots[at];
        hole = at;
    }
    set->slots[hole] = 0;
    set->used--;
}

static int take_out(struct markset *set, uint64_t mark)
{
    if (!mark) {
        if (!set->zeros)
            return 0;
        set->zeros--;
        return 1;
    }
    const uint64_t at = find(set, mark);
    if (!set->slots[at])
        return 0;
    empty(set, at);
    return 1;
}

size_t markset_remove(struct markset *set, const uint64_t *marks, size_t n)
{
    size_t missing = 0;
    for (size_t i = 0; i < n; i++)
        missing += !take_out(set, marks[i]);
    return missing;
}

int markset_contains(const struct markset *set, uint64_t mark)
{
    return mark ? set->slots[find(set, mark)] != 0 : set->zeros != 0;
}

size_t markset_first_missing(const struct markset *set, const uint64_t *marks, size_t n)
{
    size_t i = 0;
    while (i < n && markset_contains(set, marks[i]))
        i++;
    return i;
}

void markset_dump(const struct markset *set, uint64_t *marks)
{
    for (uint64_t i = 0; i < set->zeros; i++)
        *marks++ = 0;
    for (uint64_t at = 0; at < set->slot_count; at++)
        if (set->slots[at])
            *marks++ = set->slots[at];
}

uint64_t markset_count(const struct markset *set)
{
    return set->used + set->zeros;
}

uint64_t markset_bytes(const struct markset *set)
{
    return sizeof *set + set->slot_count * sizeof *set->slots;
}
