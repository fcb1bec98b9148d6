#define _GNU_SOURCE
#include "tagindex_impl.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

_Static_assert(sizeof(struct index_slot) == 32, "two slots fill a cache line");

__extension__ typedef unsigned __int128 wide;

/* First bytes of the mapping. Offsets count from its start, so that it could be mapped anywhere. */
struct header {
    uint64_t magic, bytes;
    uint64_t seed[2];
    uint64_t slots_at, places_at;
    uint32_t slots, capacity, count, reserved;
};

#define MAGIC 0x3130584449474154u /* "TAGIDX01" */

enum { HUGE_PAGE = 2 << 20, SMALL_PAGE = 4096, LINE = 64 };

struct index {
    pthread_rwlock_t lock;
    pthread_mutex_t turn;
    uint64_t mark, turns;
    struct header *header;
    /* While it grows: the table before, of which the tags numbered from `moved` on are still the
     * valid ones. Else NULL. */
    struct header *old;
    uint32_t moved;
};

static struct index_slot *slots_of(const struct header *h)
{
    return (struct index_slot *)(void *)((uint8_t *)(uintptr_t)h + h->slots_at);
}

/* The slot of each number. */
static uint32_t *places_of(const struct header *h)
{
    return (uint32_t *)(void *)((uint8_t *)(uintptr_t)h + h->places_at);
}

static void *map(size_t bytes)
{
    const size_t spare = bytes >= HUGE_PAGE ? HUGE_PAGE : 0;
    uint8_t *at = mmap(NULL, bytes + spare, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    if (spare) {
        /* Huge pages need an aligned start; what was mapped too much goes back. */
        const size_t before = (HUGE_PAGE - (uintptr_t)at % HUGE_PAGE) % HUGE_PAGE;
        if (before)
            munmap(at, before);
        at += before;
        if (spare - before)
            munmap(at + bytes, spare - before);
#if defined(MADV_HUGEPAGE)
        (void)madvise(at, bytes, MADV_HUGEPAGE); /* advice: smaller pages are slower, not wrong */
#endif
    }
    return at;
}

static void unmap(struct header *h) /* NULL is allowed */
{
    if (h)
        munmap(h, h->bytes);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static struct header *new_table(uint32_t capacity, const uint64_t *seed)
{
    const uint64_t slots = (uint64_t)capacity + (uint64_t)capacity * 3 / 7 + 1;
    const uint64_t places_at = LINE * 2 + slots * sizeof(struct index_slot);
    uint64_t bytes = places_at + (uint64_t)capacity * sizeof(uint32_t);
    bytes = (bytes + SMALL_PAGE - 1) / SMALL_PAGE * SMALL_PAGE;
    if (slots > UINT32_MAX)
        return NULL;
    struct header *h = map(bytes);
    if (!h)
        return NULL;
    *h = (struct header){.magic = MAGIC,
                         .bytes = bytes,
                         .seed = {seed[0], seed[1]},
                         .slots_at = LINE * 2,
                         .places_at = places_at,
                         .slots = (uint32_t)slots,
                         .capacity = capacity};
    return h;
}

struct index *index_new(uint32_t capacity, uint64_t seed)
{
    if (capacity < 1 || capacity > INDEX_CAPACITY_MAX)
        return NULL;
    struct index *index = calloc(1, sizeof *index);
    if (!index)
        return NULL;
    const uint64_t seeds[2] = {mix(seed + 0x9E3779B97F4A7C15u), mix(seed + 0x3C6EF372FE94F82Au)};
    index->header = new_table(capacity, seeds);
    if (!index->header) {
        free(index);
        return NULL;
    }
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
#if defined(__GLIBC__)
    /* Batches overlap without end; an insertion must not wait for a pause. */
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
#endif
    pthread_rwlock_init(&index->lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    pthread_mutex_init(&index->turn, NULL);
    return index;
}

void index_free(struct index *index)
{
    if (!index)
        return;
    unmap(index->old);
    unmap(index->header);
    pthread_rwlock_destroy(&index->lock);
    pthread_mutex_destroy(&index->turn);
    free(index);
}

void index_read(struct index *index)
{
    pthread_rwlock_rdlock(&index->lock);
}
void index_write(struct index *index)
{
    pthread_rwlock_wrlock(&index->lock);
}
void index_leave(struct index *index)
{
    pthread_rwlock_unlock(&index->lock);
}

int index_width_ok(size_t width)
{
    return width == 7 || width == 8 || width == 12 || width == 16;
}

static uint64_t multiply_fold(uint64_t a, uint64_t b)
{
    const wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Where probing begins. The seeds keep a stranger who chooses identities from choosing where they
 * collide. */
static uint32_t place_of(const struct header *h, uint64_t low, uint64_t high, size_t width)
{
    const uint64_t once = multiply_fold(low ^ h->seed[0], high ^ h->seed[1]);
    const uint64_t hash = multiply_fold(once ^ h->seed[0], 0x9E3779B97F4A7C15u ^ (uint64_t)width);
    return (uint32_t)((wide)hash * h->slots >> 64);
}

static inline struct index_probe probe_of(const struct header *h, const uint8_t *identity,
                                          size_t width)
{
    uint64_t words[2] = {0, 0};
    memcpy(words, identity, width);
    return (struct index_probe){words[0], words[1], place_of(h, words[0], words[1], width)};
}

/* The slot that holds the identity, or the empty one where it would go: some slot is always empty.
 */
static inline struct index_slot *seek(const struct header *h, const struct index_probe *p,
                                      size_t width)
{
    struct index_slot *const slots = slots_of(h);
    for (uint32_t place = p->place;; place = place + 1 == h->slots ? 0 : place + 1) {
        uint64_t words[2];
        memcpy(words, slots[place].identity, sizeof words);
        /* One branch for a match: three would each be guessed wrong now and then. */
        if (((words[0] ^ p->low) | (words[1] ^ p->high) | (slots[place].length ^ width)) == 0 ||
            slots[place].length == 0)
            return &slots[place];
    }
}

/* The same of the index. A tag that is about to be moved is in the table before, and one that was
 * moved is in both: the new one is asked first. */
static inline struct index_slot *seek_tag(const struct index *index, const struct index_probe *p,
                                          size_t width)
{
    struct index_slot *slot = seek(index->header, p, width);
    if (slot->length || !index->old)
        return slot;
    const uint32_t place = place_of(index->old, p->low, p->high, width);
    struct index_slot *before =
        seek(index->old, &(struct index_probe){p->low, p->high, place}, width);
    return before->length ? before : slot;
}

/* The slot of a number that was given out. */
static inline struct index_slot *slot_at(const struct index *index, uint32_t number)
{
    const int before = index->old && number >= index->moved && number < index->old->count;
    const struct header *h = before ? index->old : index->header;
    return &slots_of(h)[places_of(h)[number]];
}

static inline void probe_many(const struct header *h, const uint8_t *identities, size_t width,
                              size_t n, struct index_probe *probes)
{
    for (size_t i = 0; i < n; i++) {
        probes[i] = probe_of(h, identities + i * width, width);
        const struct index_slot *slot = &slots_of(h)[probes[i].place];
        __builtin_prefetch(slot, 1);
        __builtin_prefetch(
            slot + 1, 1); /* the next line, where the tag begins its run in the last slot of one */
    }
}

void index_probe_many(struct index *index, const uint8_t *identities, size_t width, size_t n,
                      struct index_probe *probes)
{
    /* A constant width makes the copy of an identity two moves. */
    switch (width) {
    case 7:
        probe_many(index->header, identities, 7, n, probes);
        break;
    case 8:
        probe_many(index->header, identities, 8, n, probes);
        break;
    case 12:
        probe_many(index->header, identities, 12, n, probes);
        break;
    default:
        probe_many(index->header, identities, 16, n, probes);
    }
}

void index_seek_many(struct index *index, const struct index_probe *probes, size_t width, size_t n,
                     struct index_slot **slots)
{
    for (size_t i = 0; i < n; i++) {
        struct index_slot *slot = seek_tag(index, &probes[i], width);
        slots[i] = slot->length ? slot : NULL;
    }
}

struct index_slot *index_find(struct index *index, const uint8_t *identity, size_t width)
{
    const struct index_probe p = probe_of(index->header, identity, width);
    struct index_slot *slot = seek_tag(index, &p, width);
    return slot->length ? slot : NULL;
}

void index_find_many(struct index *index, const uint8_t *identities, size_t width, size_t n,
                     uint32_t *numbers)
{
    enum { BLOCK = 64 };
    struct index_probe probes[2][BLOCK];
    struct index_slot *slots[BLOCK];
    size_t size = n < BLOCK ? n : BLOCK;
    index_probe_many(index, identities, width, size, probes[0]);
    for (size_t turn = 0; n; turn ^= 1) {
        const size_t after = n - size < BLOCK ? n - size : BLOCK;
        identities += size * width;
        index_probe_many(index, identities, width, after, probes[turn ^ 1]);
        index_seek_many(index, probes[turn], width, size, slots);
        for (size_t i = 0; i < size; i++)
            *numbers++ = slots[i] ? slots[i]->number : INDEX_NONE;
        n -= size;
        size = after;
    }
}

struct index_slot *index_slot_of(struct index *index, uint32_t number)
{
    return number < index->header->count ? slot_at(index, number) : NULL;
}

int index_advance(struct index_slot *slot, uint32_t counter)
{
    uint32_t seen = __atomic_load_n(&slot->counter, __ATOMIC_RELAXED);
    while (counter > seen)
        if (__atomic_compare_exchange_n(&slot->counter, &seen, counter, 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED))
            return 1;
    return 0;
}

struct index_slot index_copy_slot(const struct index_slot *slot)
{
    struct index_slot copy = {
        .counter = __atomic_load_n(&slot->counter, __ATOMIC_RELAXED),
        .number = slot->number,
        .length = slot->length,
        .scheme = slot->scheme,
        .state = slot->state,
        .key = slot->key,
    };
    memcpy(copy.identity, slot->identity, sizeof copy.identity);
    return copy;
}

/* A table for `more` tags than there are, at least a quarter larger; NULL when memory or numbers
 * are used up. */
static struct header *larger_table(const struct header *h, size_t more)
{
    const uint64_t quarter = (uint64_t)h->capacity + h->capacity / 4 + 1;
    const uint64_t needed = (uint64_t)h->count + more;
    const uint64_t capacity = quarter > needed ? quarter : needed;
    return capacity <= INDEX_CAPACITY_MAX ? new_table((uint32_t)capacity, h->seed) : NULL;
}

/* Nothing is growing, and no tag is moved yet. */
static void begin_growth(struct index *index, struct header *larger)
{
    larger->count = index->header->count;
    index->old = index->header;
    index->header = larger;
    index->moved = 0;
}

/* Moves up to `most` tags in the order of their numbers. The table before, once none is left in it;
 * else NULL. */
static struct header *move(struct index *index, uint32_t most)
{
    enum { AHEAD = 16 };
    struct header *const old = index->old, *const h = index->header;
    struct index_slot *const from = slots_of(old);
    const uint32_t left = old->count - index->moved;
    const uint32_t end = index->moved + (most < left ? most : left);
    for (uint32_t number = index->moved; number < end; number++) {
        if (number + AHEAD < old->count)
            __builtin_prefetch(&from[places_of(old)[number + AHEAD]]);
        const struct index_slot *tag = &from[places_of(old)[number]];
        struct index_probe at = probe_of(h, tag->identity, INDEX_IDENTITY);
        at.place = place_of(h, at.low, at.high, tag->length);
        struct index_slot *to = seek(h, &at, tag->length);
        *to = *tag;
        places_of(h)[number] = (uint32_t)(to - slots_of(h));
    }
    index->moved = end;
    if (end < old->count)
        return NULL;
    index->old = NULL;
    return old;
}

int index_grow_some(struct index *index, size_t more, uint32_t most)
{
    struct header *larger = NULL;
    index_read(index);
    const struct header *const h = index->header;
    const int growing = index->old != NULL;
    const int full = (uint64_t)h->count + more > h->capacity;
    if (!growing && full)
        larger = larger_table(h, more);
    index_leave(index);
    if (!growing && !larger)
        return 0;
    /* Its pages come before anybody waits for them. */
    for (size_t at = SMALL_PAGE; larger && at < larger->bytes; at += SMALL_PAGE)
        ((volatile uint8_t *)larger)[at] = 0;
    struct header *unused = larger;
    index_write(index);
    if (larger && !index->old && index->header->capacity < larger->capacity) {
        begin_growth(index, larger);
        unused = NULL;
    }
    if (index->old && !unused)
        unused = move(index, most);
    index_leave(index);
    unmap(unused);
    return 1;
}

/* All at once, for who holds the write lock and finds no room. */
static int grow(struct index *index)
{
    if (index->old)
        unmap(move(index, UINT32_MAX));
    struct header *larger = larger_table(index->header, 1);
    if (!larger)
        return 0;
    begin_growth(index, larger);
    unmap(move(index, UINT32_MAX));
    return 1;
}

/* As index_put. Of `at` only the identity counts after a growth: places are the old table's. */
static uint32_t put(struct index *index, struct index_probe at, size_t width, uint8_t scheme,
                    uint8_t state, uint8_t key)
{
    struct index_slot *slot = seek_tag(index, &at, width);
    if (!slot->length) {
        if (index->header->count == index->header->capacity) {
            if (!grow(index))
                return INDEX_NONE;
            at.place = place_of(index->header, at.low, at.high, width);
            slot = seek(index->header, &at, width);
        }
        struct header *h = index->header;
        memcpy(slot->identity, &at.low, sizeof at.low);
        memcpy(slot->identity + sizeof at.low, &at.high, sizeof at.high);
        slot->length = (uint8_t)width;
        slot->number = h->count++;
        places_of(h)[slot->number] = (uint32_t)(slot - slots_of(h));
    }
    slot->scheme = scheme;
    slot->state = state;
    slot->key = key;
    return slot->number;
}

uint32_t index_put(struct index *index, const uint8_t *identity, size_t width, uint8_t scheme,
                   uint8_t state, uint8_t key)
{
    return put(index, probe_of(index->header, identity, width), width, scheme, state, key);
}

size_t index_put_many(struct index *index, const uint8_t *identities, size_t width,
                      const uint8_t *schemes, const uint8_t *states, const uint8_t *keys, size_t n,
                      uint32_t *numbers)
{
    enum { BLOCK = 64 };
    struct index_probe probes[BLOCK];
    for (size_t start = 0; start < n; start += BLOCK) {
        const size_t size = n - start < BLOCK ? n - start : BLOCK;
        index_probe_many(index, identities + start * width, width, size, probes);
        const uint32_t slots = index->header->slots;
        for (size_t i = 0; i < size; i++) {
            const size_t row = start + i;
            if (index->header->slots != slots) /* it grew: the places are of the table before */
                probes[i] = probe_of(index->header, identities + row * width, width);
            numbers[row] = put(index, probes[i], width, schemes[row], states[row], keys[row]);
            if (numbers[row] == INDEX_NONE)
                return row;
        }
    }
    return n;
}

void index_copy(struct index *index, uint32_t first, size_t n, uint8_t *identities,
                uint8_t *lengths, uint8_t *schemes, uint8_t *states, uint8_t *keys)
{
    enum { AHEAD = 16 };
    for (size_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            __builtin_prefetch(slot_at(index, first + (uint32_t)(i + AHEAD)));
        const struct index_slot *slot = slot_at(index, first + (uint32_t)i);
        memcpy(identities + i * INDEX_IDENTITY, slot->identity, INDEX_IDENTITY);
        lengths[i] = slot->length;
        schemes[i] = slot->scheme;
        states[i] = slot->state;
        keys[i] = slot->key;
    }
}

void index_copy_counters(struct index *index, uint32_t first, size_t n, uint32_t *counters)
{
    for (size_t i = 0; i < n; i++)
        counters[i] =
            __atomic_load_n(&slot_at(index, first + (uint32_t)i)->counter, __ATOMIC_RELAXED);
}

void index_set_mark(struct index *index, uint64_t mark)
{
    index->mark = mark;
}

uint64_t index_mark(const struct index *index)
{
    return index->mark;
}

uint64_t index_turn_begin(struct index *index)
{
    pthread_mutex_lock(&index->turn);
    return index_turns(index);
}

void index_turn_end(struct index *index)
{
    __atomic_fetch_add(&index->turns, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&index->turn);
}

uint64_t index_turns(const struct index *index)
{
    return __atomic_load_n(&index->turns, __ATOMIC_RELAXED);
}

void index_start_turns(struct index *index, uint64_t turns)
{
    __atomic_store_n(&index->turns, turns, __ATOMIC_RELAXED);
}

uint32_t index_count(const struct index *index)
{
    return index->header->count;
}
uint32_t index_capacity(const struct index *index)
{
    return index->header->capacity;
}
uint64_t index_bytes(const struct index *index)
{
    return index->header->bytes + (index->old ? index->old->bytes : 0);
}
