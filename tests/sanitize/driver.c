/* Runs every C entry of native/ under the sanitizers: the vectors on standard input, then
 * pseudo-random work in buffers of exactly the promised size, so that one byte too far is seen.
 * Exits with 0, or says what was wrong.
 *
 * A line of input is a kind and its fields in hexadecimal, "-" for an empty one:
 *   cmac key message mac | an10922 master input key | tam1 key challenge response
 *   tam2 key challenge response | sun key uid evidence | aes_128 key plaintext ciphertext
 *   sha256 message digest -
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aes_impl.h"
#include "an10922_impl.h"
#include "arena_impl.h"
#include "cmac_impl.h"
#include "markset_impl.h"
#include "merkle_impl.h"
#include "pipeline_impl.h"
#include "sha256_impl.h"
#include "sun_impl.h"
#include "tagindex_impl.h"
#include "tam1_impl.h"
#include "tam2_impl.h"
#include "tracks_impl.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static uint64_t random_state = 0x9E3779B97F4A7C15u;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static uint32_t below(uint32_t bound)
{
    return (uint32_t)(random_u64() % bound);
}

/* Exactly size bytes, from the first to the last under the sanitizer's eye. */
static void *exactly(size_t size)
{
    void *buffer = malloc(size);
    CHECK(buffer || size == 0);
    return buffer;
}

static uint8_t *random_bytes(size_t size)
{
    uint8_t *bytes = exactly(size);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)random_u64();
    return bytes;
}

static int has(int kernel)
{
    return cpu_detect() >> kernel & 1;
}

#define EACH_KERNEL(k)                                                                             \
    for (int k = 0; k < CPU_KERNEL_COUNT; k++)                                                     \
        if (has(k))

/* ── vectors ── */

static uint8_t *from_hex(const char *text, size_t *size)
{
    *size = strcmp(text, "-") == 0 ? 0 : strlen(text) / 2;
    uint8_t *bytes = exactly(*size);
    for (size_t i = 0; i < *size; i++) {
        unsigned value;
        CHECK(sscanf(text + 2 * i, "%2x", &value) == 1);
        bytes[i] = (uint8_t)value;
    }
    return bytes;
}

#define EACH_SHA256_KERNEL(k)                                                                      \
    for (int k = 0; k < CPU_SHA256_KERNEL_COUNT; k++)                                              \
        if (cpu_detect_sha256() >> k & 1)

static void check_sha256_vector(const uint8_t *text, size_t size, const uint8_t *digest)
{
    uint8_t *out = exactly(SHA256_SIZE);
    struct sha256 message;
    EACH_SHA256_KERNEL(k)
    for (size_t cut = 0; cut <= size; cut++) {
        sha256_begin(&message, sha256_compress_of(k));
        sha256_add(&message, text, cut);
        sha256_add(&message, text + cut, size - cut);
        sha256_end(&message, out);
        CHECK(memcmp(out, digest, SHA256_SIZE) == 0);
    }
    free(out);
}

static void check_vector(const char *kind, uint8_t *const *field, const size_t *size)
{
    uint8_t *out = exactly(32), *data = exactly(16), outcome;
    struct aes_master *master = exactly(sizeof *master);
    EACH_KERNEL(k)
    {
        const struct aes_kernel *aes = aes_kernel_of(k);
        if (strcmp(kind, "cmac") == 0) {
            cmac_many(k, field[0], size[0], field[1], size[1], out, 1);
            CHECK(memcmp(out, field[2], 16) == 0);
        } else if (strcmp(kind, "an10922") == 0) {
            aes_master_init(master, field[0], size[0]);
            an10922_derive_many(k, master, field[1], size[1], out, 1);
            CHECK(memcmp(out, field[2], size[0]) == 0);
        } else if (strcmp(kind, "tam1") == 0) {
            tam1_verify_many(k, field[0], field[1], 0, field[2], &outcome, 1);
            CHECK(outcome == TAM1_RIGHT);
        } else if (strcmp(kind, "tam2") == 0) {
            tam2_verify_many(k, field[0], field[1], 0, field[2], 1, &outcome, data, 1);
            CHECK(outcome == TAM1_RIGHT);
        } else if (strcmp(kind, "sun") == 0) {
            sun_verify_many(k, field[0], field[1], field[2], &outcome, 1);
            CHECK(outcome == 1);
        } else {
            CHECK(strcmp(kind, "aes_128") == 0);
            aes->encrypt(field[0], field[1], out, 1);
            CHECK(memcmp(out, field[2], 16) == 0);
            aes->decrypt(field[0], field[2], 1, out, 1);
            CHECK(memcmp(out, field[1], 16) == 0);
        }
    }
    free(master);
    free(data);
    free(out);
}

static void check_vectors(void)
{
    char kind[16], text[3][300];
    int count = 0;
    while (scanf("%15s %299s %299s %299s", kind, text[0], text[1], text[2]) == 4) {
        uint8_t *field[3];
        size_t size[3];
        for (int i = 0; i < 3; i++)
            field[i] = from_hex(text[i], &size[i]);
        if (strcmp(kind, "sha256") == 0)
            check_sha256_vector(field[0], size[0], field[1]);
        else
            check_vector(kind, field, size);
        for (int i = 0; i < 3; i++)
            free(field[i]);
        count++;
    }
    CHECK(count > 0);
}

/* ── bulk kernels ── */

static void check_same(const uint8_t *a, const uint8_t *b, size_t size)
{
    CHECK(size == 0 || memcmp(a, b, size) == 0);
}

/* What every kernel must answer alike. */
enum { OUTPUTS = 9 };

static void bulk_round(size_t n, size_t length, size_t key_size, size_t blocks)
{
    const size_t sizes[OUTPUTS] = {16, 16, 16, 16, 1, 1, 16 * blocks, 1, 1};
    const size_t response = tam2_response_size(blocks);
    uint8_t *keys = random_bytes(n * 16), *in = random_bytes(n * 16),
            *text = random_bytes(n * length), *wide = random_bytes(n * key_size);
    uint8_t *pairs = random_bytes(n * 32), *first[OUTPUTS] = {0},
            *master_key = random_bytes(key_size);
    uint8_t *challenges = random_bytes(n * TAM1_CHALLENGE), *responses = random_bytes(n * response);
    uint8_t *uids = random_bytes(n * SUN_UID), *sun = random_bytes(n * SUN_EVIDENCE);
    uint8_t *odd = random_bytes(n * CMAC_ODD_SIZE);
    struct aes_master *master = exactly(sizeof *master);
    aes_master_init(master, master_key, key_size);
    CHECK(aes_key_size_of(master) == key_size);
    EACH_KERNEL(k)
    {
        const struct aes_kernel *aes = aes_kernel_of(k);
        uint8_t *out[OUTPUTS];
        for (int i = 0; i < OUTPUTS; i++)
            out[i] = exactly(n * sizes[i]);
        aes->encrypt(keys, in, out[0], n);
        aes->decrypt(keys, in, 1, out[1], n);
        aes->cmac(wide, key_size, text, length, out[2], n);
        aes->cbc_two(master, pairs, out[3], n);
        tam1_verify_many(k, keys, challenges, TAM1_CHALLENGE, in, out[4], n);
        tam2_verify_many(k, keys, challenges, TAM1_CHALLENGE, responses, blocks, out[5], out[6], n);
        sun_verify_many(k, keys, uids, sun, out[7], n);
        cmac_verify_many(k, wide, key_size, text, length, odd, CMAC_ODD_SIZE, CMAC_ODD, out[8], n);
        uint8_t *back = exactly(n * 16), *right = exactly(n);
        aes->decrypt(keys, out[0], 1, back, n);
        check_same(back, in, n * 16);
        memcpy(back, in, n ? n * 16 : 0);
        aes->encrypt(keys, back, back, n); /* in place */
        check_same(back, out[0], n * 16);
        cmac_verify_many(k, wide, key_size, text, length, out[2], 16, CMAC_LEFT, right, n);
        for (size_t i = 0; i < n; i++)
            CHECK(right[i] == 1);
        free(right);
        free(back);
        for (int i = 0; i < OUTPUTS; i++) {
            if (first[i]) {
                check_same(first[i], out[i], n * sizes[i]);
                free(out[i]);
            } else {
                first[i] = out[i];
            }
        }
    }
    for (int i = 0; i < OUTPUTS; i++)
        free(first[i]);
    free(master);
    free(odd);
    free(sun);
    free(uids);
    free(responses);
    free(challenges);
    free(master_key);
    free(pairs);
    free(wide);
    free(text);
    free(in);
    free(keys);
}

static void check_derivation(size_t n, size_t size, size_t key_size)
{
    uint8_t *key = random_bytes(key_size), *inputs = random_bytes(n * size), *first = NULL;
    struct aes_master *master = exactly(sizeof *master);
    aes_master_init(master, key, key_size);
    EACH_KERNEL(k)
    {
        uint8_t *keys = exactly(n * key_size);
        an10922_derive_many(k, master, inputs, size, keys, n);
        if (first)
            check_same(first, keys, n * key_size);
        else
            first = keys;
        if (first != keys)
            free(keys);
    }
    free(first);
    free(master);
    free(inputs);
    free(key);
}

static void check_bulk(void)
{
    static const size_t lengths[] = {0, 1, 15, 16, 17, 31, 32, 33, 64, 4096};
    for (size_t n = 0; n < 70; n++)
        bulk_round(n, lengths[n % 10], 16 + n % 3 * 8, 1 + n % 4);
    for (size_t i = 0; i < 30; i++)
        bulk_round(19, lengths[i % 10], 16 + i / 10 * 8, 1 + i % 4);
    for (size_t size = 1; size <= AN10922_INPUT_MAX; size++)
        for (size_t key_size = 16; key_size <= 32; key_size += 8)
            check_derivation(size * 3, size, key_size);
}

/* ── arena ── */

static void check_arena(void)
{
    CHECK(!arena_new(0) && errno == EINVAL);
    CHECK(!arena_new(257) && errno == EINVAL);
    arena_free(NULL);
    uint8_t *key = random_bytes(16), *other = random_bytes(16);
    struct arena *arena = arena_new(3);
    CHECK(arena);
    CHECK(arena_add(arena, 1, 1, key) == 0 && arena_add(arena, 1, 2, key) == 1);
    CHECK(arena_add(arena, 1, 1, key) == 0 && arena_add(arena, 1, 1, other) == ARENA_CONFLICT);
    CHECK(arena_add(arena, 2, 1, other) == 2 && arena_add(arena, 3, 1, other) == ARENA_FULL);
    CHECK(arena_find(arena, 2, 1) == 2 && arena_find(arena, 2, 2) == ARENA_NOT_FOUND);
    const struct arena_entry *entries;
    CHECK(arena_enter(arena, &entries) == 3 && entries[2].realm == 2);
    CHECK(memcmp(entries[2].master.round_keys[0], other, 16) == 0);
    arena_leave(arena);
    arena_close(arena);
    arena_close(arena);
    CHECK(arena_enter(arena, &entries) == ARENA_CLOSED && arena_count(arena) == ARENA_CLOSED);
    CHECK(arena_add(arena, 1, 1, key) == ARENA_CLOSED && arena_find(arena, 1, 1) == ARENA_CLOSED);
    arena_free(arena);
    free(other);
    free(key);
}

/* ── pipeline over the index ── */

static void put_tags(struct index *index, const uint8_t *identities, size_t width, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        /* Now and then a growth is left half done, and tags are put and found in the midst of it. */
        if (below(4) == 0)
            index_grow_some(index, below(40), below(40));
        index_write(index);
        const uint32_t before = index_count(index);
        const uint32_t number =
            index_put(index, identities + i * width, width, (uint8_t)(1 + below(6)),
                      (uint8_t)(1 + below(3)), (uint8_t)below(5));
        CHECK(number <= before && index_count(index) <= index_capacity(index));
        const struct index_slot *slot = index_slot_of(index, number);
        CHECK(slot && slot->number == number);
        CHECK(slot == index_find(index, identities + i * width, width));
        CHECK(!index_slot_of(index, index_count(index)));
        index_leave(index);
    }
}

/* All tags from one number on, copied into another index, which grows while they are put. */
static void copy_tags(struct index *index, size_t width)
{
    index_read(index);
    const uint32_t first = below(index_count(index) + 1);
    const size_t n = index_count(index) - first;
    uint8_t *padded = exactly(n * INDEX_IDENTITY), *packed = exactly(n * width);
    uint8_t *lengths = exactly(n), *schemes = exactly(n), *states = exactly(n), *keys = exactly(n);
    uint32_t *numbers = exactly(n * 4);
    index_copy(index, first, n, padded, lengths, schemes, states, keys);
    for (size_t i = 0; i < n; i++) {
        const struct index_slot *slot = index_slot_of(index, first + (uint32_t)i);
        CHECK(slot->length == lengths[i] && slot->scheme == schemes[i]);
        CHECK(slot->state == states[i] && slot->key == keys[i]);
        CHECK(memcmp(slot->identity, padded + i * INDEX_IDENTITY, INDEX_IDENTITY) == 0);
        memcpy(packed + i * width, padded + i * INDEX_IDENTITY, width);
    }
    index_leave(index);
    struct index *other = index_new(1 + below(80), random_u64());
    for (int again = 0; again < 2; again++) {
        index_write(other);
        CHECK(index_put_many(other, packed, width, schemes, states, keys, n, numbers) == n);
        CHECK(index_count(other) == n);
        for (size_t i = 0; i < n; i++) {
            const struct index_slot *slot = index_find(other, packed + i * width, width);
            CHECK(numbers[i] == i && slot == index_slot_of(other, numbers[i]));
            CHECK(slot->scheme == schemes[i] && slot->state == states[i] && slot->key == keys[i]);
        }
        index_leave(other);
    }
    index_free(other);
    free(padded), free(packed), free(lengths), free(schemes), free(states), free(keys);
    free(numbers);
}

static struct pipeline_batch random_batch(struct index *index, struct arena *arena,
                                          const uint8_t *tags, size_t width, size_t tag_count,
                                          size_t n, int scheme)
{
    if (scheme == SCHEME_SUN && width != SUN_UID)
        scheme = SCHEME_COUNTER_CMAC_16;
    const size_t blocks = scheme == SCHEME_TAM2 ? 1 + below(TAM2_BLOCKS_MAX) : 0;
    const size_t evidence = (size_t)pipeline_evidence_size(scheme, blocks);
    const int challenged = scheme == SCHEME_TAM1 || scheme == SCHEME_TAM2;
    uint8_t *identities = exactly(n * width);
    for (size_t i = 0; i < n; i++)
        memcpy(identities + i * width, tags + below((uint32_t)tag_count) * width, width);
    uint8_t *known = random_bytes(256);
    return (struct pipeline_batch){
        .index = index,
        .arena = arena,
        .scheme = scheme,
        .n = n,
        .width = width,
        .blocks = blocks,
        .identities = identities,
        .evidence = random_bytes(n * evidence),
        .antennas = random_bytes(n),
        .known_antennas = known,
        .channels = random_bytes(n),
        .channel_count = 200,
        .challenge = challenged && below(2) ? random_bytes(TAM1_CHALLENGE) : NULL,
    };
}

static void run_batch(struct pipeline_batch *batch)
{
    uint8_t *first = NULL;
    EACH_KERNEL(k)
    {
        batch->kernel = k;
        batch->verdicts = exactly(batch->n);
        batch->numbers = exactly(batch->n * sizeof(uint32_t));
        batch->advanced_numbers = exactly(batch->n * sizeof(uint32_t));
        batch->advanced_counters = exactly(batch->n * sizeof(uint32_t));
        batch->data = exactly(batch->n * batch->blocks * TAM2_BLOCK);
        CHECK(pipeline_verify(batch) == 0);
        free(batch->data);
        uint64_t total = 0;
        for (int verdict = 1; verdict < VERDICT_COUNT; verdict++)
            total += batch->counts[verdict];
        CHECK(total == batch->n && batch->counts[0] == 0);
        free(batch->numbers);
        free(batch->advanced_numbers);
        free(batch->advanced_counters);
        if (first) {
            check_same(first, batch->verdicts, batch->n);
            free(batch->verdicts);
        } else {
            first = batch->verdicts;
        }
    }
    free(first);
    free((void *)(uintptr_t)batch->identities);
    free((void *)(uintptr_t)batch->evidence);
    free((void *)(uintptr_t)batch->antennas);
    free((void *)(uintptr_t)batch->known_antennas);
    free((void *)(uintptr_t)batch->channels);
    free((void *)(uintptr_t)batch->challenge);
}

static void check_pipeline(void)
{
    static const size_t widths[] = {7, 8, 12, 16};
    CHECK(!index_new(0, 1) && !index_width_ok(9));
    index_free(NULL);
    struct arena *arena = arena_new(4);
    CHECK(arena);
    for (uint32_t realm = 0; realm < 4; realm++) {
        uint8_t *key = random_bytes(16);
        CHECK(arena_add(arena, realm, 1, key) == (int)realm);
        free(key);
    }
    for (int w = 0; w < 4; w++) {
        enum { TAGS = 3000 };
        uint8_t *tags = random_bytes(TAGS * widths[w]);
        memset(tags, 0, widths[w]);
        struct index *index = index_new(1 + below(100), random_u64());
        put_tags(index, tags, widths[w], TAGS - 500); /* the rest stay unknown */
        for (size_t n = 0; n < 300; n += 1 + below(20)) {
            struct pipeline_batch batch =
                random_batch(index, arena, tags, widths[w], TAGS, n, 1 + (int)below(6));
            run_batch(&batch);
        }
        CHECK(index_bytes(index) > 0);
        for (int round = 0; round < 5; round++)
            copy_tags(index, widths[w]);
        index_free(index);
        free(tags);
    }
    arena_close(arena);
    struct index *index = index_new(1, 1);
    struct pipeline_batch batch = {
        .index = index, .arena = arena, .width = 7, .scheme = SCHEME_NONE};
    CHECK(pipeline_verify(&batch) == ARENA_CLOSED);
    index_free(index);
    arena_free(arena);
}

/* ── tracks ── */

static void check_tracks(void)
{
    CHECK(!tracks_new(0));
    tracks_free(NULL);
    struct tracks *tracks = tracks_new(50);
    uint8_t *sides = exactly(256);
    for (int i = 0; i < 256; i++)
        sides[i] = (uint8_t)below(3);
    for (int round = 0; round < 200; round++) {
        const size_t n = below(60);
        uint32_t *numbers = exactly(n * 4), *times = exactly(n * 4), *first = exactly(n * 4);
        int16_t *rssi = exactly(n * 2);
        uint8_t *verdicts = exactly(n), *antennas = random_bytes(n);
        for (size_t i = 0; i < n; i++) {
            numbers[i] = below(70) * 0x01000001u + (uint32_t)round / 4;
            times[i] = (uint32_t)random_u64();
            rssi[i] = (int16_t)random_u64();
            verdicts[i] = (uint8_t)(1 + below(4) / 3);
        }
        const uint32_t before = tracks_count(tracks);
        const size_t opened = tracks_update(tracks, n, numbers, verdicts, antennas, sides, rssi,
                                            times, TRACKS_BASE_MAX - below(1000), first);
        CHECK(tracks_count(tracks) == before + opened && tracks_count(tracks) <= 50);
        const int64_t quiet = TRACKS_BASE_MAX + (int64_t)below(4000000) * 1000000;
        const size_t done = tracks_quiet(tracks, quiet);
        struct track_row *rows = exactly(done * sizeof *rows);
        tracks_finish(tracks, quiet, rows);
        CHECK(tracks_quiet(tracks, quiet) == 0 && tracks_count(tracks) == before + opened - done);
        free(rows);
        free(antennas);
        free(verdicts);
        free(rssi);
        free(first);
        free(times);
        free(numbers);
    }
    CHECK(tracks_overflow(tracks) > 0);
    free(sides);
    tracks_free(tracks);
}

/* ── Merkle trees ── */

/* n random fields, packed; *size says how many bytes that makes. */
static uint8_t *pack_fields(size_t n, size_t *size)
{
    uint8_t *lengths = random_bytes(n);
    *size = 0;
    for (size_t i = 0; i < n; i++)
        *size += 4 + lengths[i];
    uint8_t *packed = random_bytes(*size), *at = packed;
    for (size_t i = 0; i < n; at += 4 + lengths[i++]) {
        memset(at, 0, 3);
        at[3] = lengths[i];
    }
    free(lengths);
    return packed;
}

static void check_merkle(void)
{
    for (size_t n = 0; n < 40; n++) {
        size_t size, fields_size = 2 * n * sizeof(struct merkle_field);
        uint8_t *packed = pack_fields(2 * n, &size), *first[2] = {0};
        struct merkle_field *fields = exactly(fields_size);
        CHECK(merkle_count(packed, size) == 2 * n);
        merkle_split(packed, size, fields);
        CHECK(merkle_fields_fit(fields, 2 * n, size));
        CHECK(n == 0 ||
              (fields[2 * n - 1].end == size && !merkle_fields_fit(fields, 2 * n, size - 1)));
        for (size_t cut = 1; cut <= 4 && n; cut++)
            CHECK(merkle_count(packed, size - cut) == MERKLE_MALFORMED ||
                  merkle_count(packed, size - cut) < 2 * n);
        EACH_SHA256_KERNEL(k)
        {
            uint8_t *leaves = exactly(n * MERKLE_HASH), *nodes = exactly(n / 2 * MERKLE_HASH);
            merkle_leaves(k, packed, fields, leaves, n);
            merkle_nodes(k, leaves, nodes, n / 2);
            if (first[0]) {
                check_same(first[0], leaves, n * MERKLE_HASH);
                check_same(first[1], nodes, n / 2 * MERKLE_HASH);
                merkle_nodes(k, leaves, leaves, n / 2); /* in place */
                check_same(leaves, nodes, n / 2 * MERKLE_HASH);
                free(leaves);
                free(nodes);
            } else {
                first[0] = leaves;
                first[1] = nodes;
            }
        }
        free(first[0]);
        free(first[1]);
        free(fields);
        free(packed);
    }
}

/* ── marks ── */

static void check_marks(void)
{
    CHECK(!markset_new(MARKSET_CAPACITY_MAX + 1));
    markset_free(NULL);
    enum { KINDS = 40 };
    uint64_t kinds[KINDS] = {0, 1, 2, UINT64_MAX, UINT64_MAX - 1}, held[KINDS] = {0}, total = 0;
    for (int i = 5; i < KINDS; i++)
        kinds[i] = random_u64() >> (i % 2 ? 60 : 0);
    struct markset *set = markset_new(below(20));
    CHECK(set);
    for (int round = 0; round < 3000; round++) {
        const size_t n = below(12);
        uint64_t *marks = exactly(n * sizeof *marks);
        const int adding = round % 1000 < 500;
        size_t missing = 0;
        for (size_t i = 0; i < n; i++) {
            marks[i] = kinds[below(KINDS)];
            for (int k = 0; k < KINDS; k++) {
                if (kinds[k] != marks[i])
                    continue;
                missing += !adding && !held[k];
                total += adding ? 1 : (uint64_t)-(held[k] > 0);
                held[k] += adding ? 1 : (uint64_t)-(held[k] > 0);
                break;
            }
        }
        CHECK(adding ? markset_add(set, marks, n) : markset_remove(set, marks, n) == missing);
        free(marks);
        for (int k = 0; k < KINDS; k++) {
            int first = 0;
            while (kinds[first] != kinds[k])
                first++;
            CHECK(markset_contains(set, kinds[k]) == (held[first] > 0));
            CHECK(markset_first_missing(set, &kinds[k], 1) == (held[first] > 0));
        }
        CHECK(markset_count(set) == total && markset_bytes(set) > total * sizeof *marks);
    }
    uint64_t *dumped = exactly(total * sizeof *dumped);
    markset_dump(set, dumped);
    CHECK(markset_remove(set, dumped, total) == 0 && markset_count(set) == 0);
    free(dumped);
    markset_free(set);
}

int main(void)
{
    CHECK(strcmp(cpu_sha256_kernel_name(0), "portable") == 0 && !cpu_sha256_kernel_name(99) &&
          !cpu_sha256_kernel_name(-1));
    CHECK(strcmp(cpu_kernel_name(0), "portable") == 0 && !cpu_kernel_name(99) &&
          !cpu_kernel_name(-1));
    check_vectors();
    check_bulk();
    check_arena();
    check_pipeline();
    check_tracks();
    check_marks();
    check_merkle();
    CHECK(arena_disable_core_dumps() == 0);
    puts("ok");
    return 0;
}
