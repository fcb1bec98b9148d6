/* The pipeline, the index and the arena under threads: batches of two schemes are verified while
 * tags are put, the index grows, marks are set, counters are raised and keys are added; at the end
 * the arena is closed under it all.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline_impl.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum { TAGS = 300, WIDTH = 12, RAISED = 2000, SIZE = 16 };

static struct arena *arena;
static struct index *tags;
static uint8_t identities[TAGS * WIDTH], evidence[TAGS * SIZE];

static void *verify(void *which)
{
    static const uint8_t zeros[TAGS], challenge[10];
    static const int schemes[] = {SCHEME_TAM1, SCHEME_COUNTER_CMAC};
    const int scheme = schemes[*(const int *)which];
    uint8_t known[256], verdicts[TAGS];
    uint32_t numbers[TAGS], advanced[2][TAGS];
    uint64_t mark = 0;
    memset(known, 1, sizeof known);
    for (;;) {
        struct pipeline_batch batch = {
            .index = tags,
            .arena = arena,
            .kernel = CPU_PORTABLE,
            .scheme = scheme,
            .n = TAGS,
            .width = WIDTH,
            .identities = identities,
            .evidence = evidence,
            .antennas = zeros,
            .known_antennas = known,
            .channels = zeros,
            .channel_count = 1,
            .challenge = scheme == SCHEME_TAM1 ? challenge : NULL,
            .verdicts = verdicts,
            .numbers = numbers,
            .advanced_numbers = advanced[0],
            .advanced_counters = advanced[1],
        };
        if (pipeline_verify(&batch) == ARENA_CLOSED)
            return NULL;
        /* A batch sees the tags of one instant: as many as its mark says. */
        CHECK(batch.counts[VERDICT_UNKNOWN_TAG] == TAGS - batch.mark && batch.mark >= mark);
        mark = batch.mark;
    }
}

static void *register_tags(void *unused)
{
    for (uint32_t i = 0; i < TAGS; i++) {
        while (index_grow_some(tags, 1, 4))
            continue;
        index_write(tags);
        CHECK(index_put(tags, identities + i * WIDTH, WIDTH, SCHEME_COUNTER_CMAC, INDEX_ACTIVE,
                        (uint8_t)(i % 4)) == i);
        index_set_mark(tags, i + 1);
        index_leave(tags);
        if (i % 100 == 99)
            CHECK(arena_add(arena, i, 1, identities) == (int)(i / 100 + 1));
    }
    return unused;
}

static void *raise_counters(void *unused)
{
    for (uint32_t i = 1; i <= RAISED; i++) {
        index_read(tags);
        struct index_slot *slot = index_slot_of(tags, 0);
        if (slot) {
            index_advance(slot, i);
            CHECK(index_copy_slot(slot).counter >= i);
        }
        index_leave(tags);
    }
    return unused;
}

int main(void)
{
    for (size_t i = 0; i < sizeof identities; i++)
        identities[i] = (uint8_t)(1 + rand() % 255);
    for (size_t i = 0; i < sizeof evidence; i++)
        evidence[i] = (uint8_t)rand();
    tags = index_new(4, 1);
    arena = arena_new(8);
    CHECK(tags && arena && arena_add(arena, 1, 1, evidence) == 0);
    pthread_t threads[5];
    int which[3] = {0, 1, 1};
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, verify, &which[i]);
    pthread_create(&threads[3], NULL, register_tags, NULL);
    pthread_create(&threads[4], NULL, raise_counters, NULL);
    pthread_join(threads[3], NULL);
    pthread_join(threads[4], NULL);
    arena_close(arena);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK(index_turns(tags) > 0);
    arena_free(arena);
    index_free(tags);
    puts("ok");
    return 0;
}
