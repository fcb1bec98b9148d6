/* The tag index: a hash table of fixed 32-byte slots in one anonymous mapping that holds offsets,
 * no pointers.
 *
 * Tags get dense numbers 0, 1, 2 .. as they are inserted and are never removed. Linear probing
 * under a keyed hash; any number of slots; at most 7/10 full, then grown by a quarter, so that a
 * table that has grown costs 50 to 63 bytes per tag. While it grows there are two tables, and tags
 * are moved from the one to the other a few at a time. Identities of different length are
 * different. Callers hold the lock: index_read for what reads slots or advances counters (atomic,
 * many threads at once), index_write for what inserts or changes a state.
 */
#ifndef NATIVE_TAGINDEX_IMPL_H
#define NATIVE_TAGINDEX_IMPL_H

#include <stddef.h>
#include <stdint.h>

enum { INDEX_IDENTITY = 16 };
#define INDEX_NONE 0xFFFFFFFFu
#define INDEX_CAPACITY_MAX 0xB0000000u

enum index_state { INDEX_ACTIVE = 1, INDEX_FROZEN = 2, INDEX_RETIRED = 3 };

struct index_slot {
    uint8_t identity[INDEX_IDENTITY]; /* zero-padded */
    uint32_t counter;                 /* highest accepted; only index_advance writes it */
    uint32_t number;
    uint8_t length; /* of the identity: 7, 8, 12 or 16; 0: empty slot */
    uint8_t scheme, state, key;
    uint8_t reserved[4]; /* zero */
};

struct index;

/* A new index that takes `capacity` tags before it grows; NULL when memory is refused. */
struct index *index_new(uint32_t capacity, uint64_t seed);
void index_free(struct index *index); /* NULL is allowed */
void index_read(struct index *index);
void index_write(struct index *index);
void index_leave(struct index *index);

/* Width is 7, 8, 12 or 16 in every call below: index_width_ok(width). */
int index_width_ok(size_t width);

/* Where the search for an identity begins; valid until the lock is left. */
struct index_probe {
    uint64_t low, high; /* the zero-padded identity */
    uint32_t place;
};

/* Read lock. A look-up in two steps, so that memory is fetched while other work is done: n packed
 * identities -> probes, whose slots are prefetched; later, probes -> slots, NULL for unknown. Slots
 * stay until the lock is left. */
void index_probe_many(struct index *index, const uint8_t *identities, size_t width, size_t n,
                      struct index_probe *probes);
void index_seek_many(struct index *index, const struct index_probe *probes, size_t width, size_t n,
                     struct index_slot **slots);

/* Read lock. n packed identities -> numbers, INDEX_NONE for unknown. */
void index_find_many(struct index *index, const uint8_t *identities, size_t width, size_t n,
                     uint32_t *numbers);

/* Read lock. The slot of one identity; the slot of a number; NULL if there is none. */
struct index_slot *index_find(struct index *index, const uint8_t *identity, size_t width);
struct index_slot *index_slot_of(struct index *index, uint32_t number);

/* Read lock. Raises the slot's counter to `counter` if that is greater. 1 if this call did; of
 * several threads with equal counters exactly one gets 1. */
int index_advance(struct index_slot *slot, uint32_t counter);

/* Read lock. The slot as it is, the counter that others may advance at the moment included. */
struct index_slot index_copy_slot(const struct index_slot *slot);

/* No lock, which it takes. Before `more` tags are put: a step of the growth that the index needs
 * for them, in which `most` of its tags are moved; between the steps everybody goes on as ever. 1,
 * or 0 when there is room or memory is used up. */
int index_grow_some(struct index *index, size_t more, uint32_t most);

/* Write lock. Grows all at once where there is no room. Inserts, or replaces scheme, state and key
 * and keeps counter and number. The number, or INDEX_NONE when memory or numbers are used up (then
 * nothing changed). */
uint32_t index_put(struct index *index, const uint8_t *identity, size_t width, uint8_t scheme,
                   uint8_t state, uint8_t key);

/* Write lock. index_put of n packed rows, in their order, the slots fetched ahead; numbers n. How
 * many were put: fewer than n when memory or numbers are used up. */
size_t index_put_many(struct index *index, const uint8_t *identities, size_t width,
                      const uint8_t *schemes, const uint8_t *states, const uint8_t *keys, size_t n,
                      uint32_t *numbers);

/* Read lock. The tags numbered first .. first + n - 1, which are there: identities n * 16,
 * zero-padded; their lengths, schemes, states and keys n each. No counters. */
void index_copy(struct index *index, uint32_t first, size_t n, uint8_t *identities,
                uint8_t *lengths, uint8_t *schemes, uint8_t *states, uint8_t *keys);

/* What the tags are as of: a number that its owner sets together with what it puts. 0 at first.
 * Write lock to set it, read lock to read it. */
void index_set_mark(struct index *index, uint64_t mark);
uint64_t index_mark(const struct index *index);

/* Read lock. Whoever advances the counters of a batch takes a turn, one thread at a time: what it
 * returns is how many there were before, and the batches' order. Of two turns the earlier one saw
 * no greater mark. */
uint64_t index_turn_begin(struct index *index);
void index_turn_end(struct index *index);
/* Any or no lock: turns ended so far; go on from another number (nobody has a turn meanwhile). */
uint64_t index_turns(const struct index *index);
void index_start_turns(struct index *index, uint64_t turns);

/* Read lock. Counters of the tags numbered first .. first + n - 1, which are there. */
void index_copy_counters(struct index *index, uint32_t first, size_t n, uint32_t *counters);

/* Read lock. Tags held; tags that fit before the next growth; bytes mapped. */
uint32_t index_count(const struct index *index);
uint32_t index_capacity(const struct index *index);
uint64_t index_bytes(const struct index *index);

#endif
