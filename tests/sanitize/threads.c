/* The tag index under threads: one registers, changes and lets it grow, two read all the time. What
 * a reader sees of a tag is always what was written in one call, and what it saw stays.
 *
 * A tag's scheme, state and key follow from one number, so that two of different calls do not fit.
 */
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tagindex_impl.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum { TAGS = 3000, ROUNDS = 100, BLOCK = 50, WIDTH = 12, READERS = 2, STEP = 16 };

static uint8_t identities[TAGS * WIDTH];
static struct index *tags;
/* How many tags there are for sure, how many readers have seen some, how many the two tables of a
 * growth, and whether the writer is done. */
static uint32_t written;
/* The highest counter that each reader has raised each tag to. */
static uint32_t advanced[READERS][TAGS];
static int reading, midst, done;

static uint8_t scheme_of(uint32_t round)
{
    return (uint8_t)(1 + round % 6);
}
static uint8_t state_of(uint32_t round)
{
    return (uint8_t)(1 + round % 3);
}
static uint8_t key_of(uint32_t round)
{
    return (uint8_t)(7 * round % 251);
}

/* Writes the tags again and again, each time as of another round; the first time they are new. */
static void *write_tags(void *unused)
{
    for (uint32_t round = 0; round < ROUNDS; round++) {
        while (round && __atomic_load_n(&reading, __ATOMIC_ACQUIRE) < READERS)
            sched_yield();
        for (uint32_t at = 0; at < TAGS; at += BLOCK) {
            uint8_t schemes[BLOCK], states[BLOCK], keys[BLOCK];
            uint32_t numbers[BLOCK];
            memset(schemes, scheme_of(round), BLOCK);
            memset(states, state_of(round), BLOCK);
            memset(keys, key_of(round), BLOCK);
            const uint8_t *rows = identities + at * WIDTH;
            /* Now in small steps with readers between, now at once under the lock. */
            while (at / BLOCK % 4 && index_grow_some(tags, BLOCK, STEP))
                while (at > TAGS / 2 && __atomic_load_n(&midst, __ATOMIC_ACQUIRE) < READERS)
                    sched_yield();
            index_write(tags);
            if (at / BLOCK % 2)
                CHECK(index_put_many(tags, rows, WIDTH, schemes, states, keys, BLOCK, numbers) ==
                      BLOCK);
            else
                for (int i = 0; i < BLOCK; i++)
                    CHECK(index_put(tags, rows + i * WIDTH, WIDTH, schemes[i], states[i],
                                    keys[i]) == at + (uint32_t)i);
            index_leave(tags);
            if (round == 0)
                __atomic_store_n(&written, at + BLOCK, __ATOMIC_RELEASE);
        }
    }
    __atomic_store_n(&done, 1, __ATOMIC_RELEASE);
    return unused;
}

static void check_tag(uint32_t number, const uint8_t *identity, uint8_t length, uint8_t scheme,
                      uint8_t state, uint8_t key)
{
    uint32_t round = 0;
    while (round < ROUNDS &&
           (scheme != scheme_of(round) || state != state_of(round) || key != key_of(round)))
        round++;
    CHECK(round < ROUNDS && length == WIDTH);
    CHECK(memcmp(identity, identities + number * WIDTH, WIDTH) == 0);
}

static void *read_tags(void *reader)
{
    uint32_t numbers[TAGS], place = 1, passes = 0, *highest = reader, twos = 0;
    uint8_t rows[BLOCK * INDEX_IDENTITY], columns[4][BLOCK];
    while (!__atomic_load_n(&done, __ATOMIC_ACQUIRE)) {
        const uint32_t sure = __atomic_load_n(&written, __ATOMIC_ACQUIRE);
        index_read(tags);
        CHECK(index_count(tags) >= sure && index_count(tags) <= index_capacity(tags));
        index_find_many(tags, identities, WIDTH, sure, numbers);
        for (uint32_t at = 0; at < sure; at++)
            CHECK(numbers[at] == at);
        for (uint32_t i = 0; sure && i < BLOCK; i++) {
            place = place * 1664525 + 1013904223;
            const uint32_t number = (place >> 8) % sure;
            struct index_slot *slot = index_find(tags, identities + number * WIDTH, WIDTH);
            CHECK(slot && slot == index_slot_of(tags, number) && slot->number == number);
            check_tag(number, slot->identity, slot->length, slot->scheme, slot->state, slot->key);
            if (index_advance(slot, place >> 4))
                highest[number] = place >> 4;
        }
        const int two = index_bytes(tags) > 51 * (uint64_t)index_capacity(tags) + 8192;
        index_leave(tags);
        if (two && !twos++)
            __atomic_fetch_add(&midst, 1, __ATOMIC_ACQ_REL);
        if (sure < BLOCK)
            continue;
        const uint32_t first = (place >> 8) % (sure - BLOCK + 1);
        index_read(tags);
        index_copy(tags, first, BLOCK, rows, columns[0], columns[1], columns[2], columns[3]);
        index_leave(tags);
        for (uint32_t i = 0; i < BLOCK; i++)
            check_tag(first + i, rows + i * INDEX_IDENTITY, columns[0][i], columns[1][i],
                      columns[2][i], columns[3][i]);
        if (!passes++)
            __atomic_fetch_add(&reading, 1, __ATOMIC_ACQ_REL);
    }
    return NULL;
}

int main(void)
{
    for (uint32_t at = 0; at < TAGS; at++)
        memcpy(identities + at * WIDTH, &(uint64_t){at + 1}, sizeof(uint64_t));
    tags = index_new(1, 1);
    CHECK(tags);
    pthread_t writer, readers[READERS];
    pthread_create(&writer, NULL, write_tags, NULL);
    for (int i = 0; i < READERS; i++)
        pthread_create(&readers[i], NULL, read_tags, advanced[i]);
    pthread_join(writer, NULL);
    for (int i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    CHECK(index_count(tags) == TAGS);
    /* No counter that was accepted is lost by a growth. */
    for (uint32_t at = 0; at < TAGS; at++) {
        const uint32_t a = advanced[0][at], b = advanced[1][at];
        CHECK(index_slot_of(tags, at)->counter == (a > b ? a : b));
    }
    index_free(tags);
    puts("ok");
    return 0;
}
