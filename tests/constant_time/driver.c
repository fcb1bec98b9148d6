/* Runs every C entry of native/ that sees a secret, for every kernel, under valgrind's memcheck
 * with keys, masters and what is made of them marked as undefined: a branch or an address that
 * depends on one is then reported as one that depends on uninitialised memory. What becomes public
 * is marked where it does, by cpu_make_public in native/. Compiled with CONTROL it looks a key byte
 * up in a table, which must be reported.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <valgrind/memcheck.h>

#include "aes_impl.h"
#include "an10922_impl.h"
#include "arena_impl.h"
#include "cmac_impl.h"
#include "pipeline_impl.h"
#include "sun_impl.h"
#include "tagindex_impl.h"
#include "tam1_impl.h"
#include "tam2_impl.h"

enum { ROWS = 21, TAGS = 150 }; /* neither fills the lanes of any kernel */

static uint64_t state = 0x9E3779B97F4A7C15u;

static uint8_t *random_bytes(size_t size)
{
    uint8_t *bytes = malloc(size + 1);
    if (!bytes)
        exit(1);
    for (size_t i = 0; i < size; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[i] = (uint8_t)state;
    }
    return bytes;
}

static uint8_t *secret_bytes(size_t size)
{
    uint8_t *bytes = random_bytes(size);
    (void)VALGRIND_MAKE_MEM_UNDEFINED(bytes, size);
    return bytes;
}

/* What leaves a function is a secret or was made of one: it must not be defined by mistake. */
static void expect_secret(const uint8_t *bytes, size_t size)
{
    uint8_t *undefined = calloc(size, 1);
    if (!undefined || VALGRIND_GET_VBITS(bytes, undefined, size) != 1)
        exit(1);
    for (size_t i = 0; i < size; i++)
        if (undefined[i] == 0) {
            fprintf(stderr, "byte %zu of an output is defined: the test tests nothing\n", i);
            exit(2);
        }
    free(undefined);
}

static void run_blocks(int k)
{
    const struct aes_kernel *aes = aes_kernel_of(k);
    uint8_t *keys = secret_bytes(ROWS * 16), *in = random_bytes(ROWS * 32);
    uint8_t *out = random_bytes(ROWS * 32);
    aes->encrypt(keys, in, out, ROWS);
    expect_secret(out, ROWS * 16);
    aes->decrypt(keys, in, 2, out, ROWS);
    expect_secret(out, ROWS * 16);
    for (size_t size = 16; size <= 32; size += 8) {
        uint8_t *wide = secret_bytes(ROWS * size), *odd = random_bytes(ROWS * 8);
        struct aes_master master;
        aes_master_init(&master, wide, size);
        aes->cbc_two(&master, in, out, ROWS);
        an10922_derive_many(k, &master, in, 20, out, ROWS);
        expect_secret(out, ROWS * size);
        an10922_derive_many(k, &master, in, AN10922_INPUT_MAX, out, ROWS);
        for (size_t length = 0; length <= 32; length += 8) {
            cmac_many(k, wide, size, in, length, out, ROWS);
            expect_secret(out, ROWS * 16);
            cmac_verify_many(k, wide, size, in, length, in, 16, CMAC_LEFT, out, ROWS);
            cmac_verify_many(k, wide, size, in, length, odd, 8, CMAC_ODD, out, ROWS);
            cmac_verify_many(k, wide, size, in, length, odd, 5, CMAC_LEFT, out, ROWS);
        }
        free(odd);
        free(wide);
    }
    free(out);
    free(in);
    free(keys);
}

static void run_schemes(int k)
{
    uint8_t *keys = secret_bytes(ROWS * 16), *challenges = random_bytes(ROWS * TAM1_CHALLENGE);
    uint8_t *in = random_bytes(ROWS * 80), *right = random_bytes(ROWS);
    uint8_t *data = random_bytes(ROWS * 64);
    tam1_verify_many(k, keys, challenges, TAM1_CHALLENGE, in, right, ROWS);
    expect_secret(right, ROWS);
    for (size_t blocks = 1; blocks <= TAM2_BLOCKS_MAX; blocks++) {
        tam2_verify_many(k, keys, challenges, 0, in, blocks, right, data, ROWS);
        expect_secret(right, ROWS);
    }
    sun_verify_many(k, keys, challenges, in, right, ROWS);
    expect_secret(right, ROWS);
    free(data);
    free(right);
    free(in);
    free(challenges);
    free(keys);
}

static void run_pipeline(int k, int scheme, size_t blocks)
{
    const size_t width = scheme == SCHEME_SUN ? SUN_UID : 12;
    uint8_t *identities = random_bytes(TAGS * width), *one = secret_bytes(16);
    uint8_t *other = secret_bytes(16);
    const size_t size = (size_t)pipeline_evidence_size(scheme, blocks);
    struct arena *arena = arena_new(3);
    struct index *index = index_new(TAGS, 1);
    if (!arena || !index || arena_add(arena, 1, 1, one) != 0 || arena_add(arena, 2, 1, other) != 1)
        exit(1);
    if (arena_add(arena, 1, 1, one) != 0 || arena_add(arena, 1, 1, other) != ARENA_CONFLICT)
        exit(1);
    index_write(index);
    for (size_t i = 0; i < TAGS; i++)
        index_put(index, identities + i * width, width, (uint8_t)scheme, (uint8_t)(1 + i % 3),
                  (uint8_t)(i % 3));
    index_leave(index);
    uint8_t known[256], *evidence = random_bytes(TAGS * size), *zeros = calloc(TAGS, 1);
    uint8_t *verdicts = malloc(TAGS), *data = malloc(TAGS * 64), challenge[TAM1_CHALLENGE] = {0};
    uint32_t *numbers = malloc(TAGS * 4), *advanced = malloc(TAGS * 8);
    memset(known, 1, sizeof known);
    struct pipeline_batch batch = {
        .index = index,
        .arena = arena,
        .kernel = k,
        .scheme = scheme,
        .n = TAGS,
        .width = width,
        .blocks = blocks,
        .identities = identities,
        .evidence = evidence,
        .antennas = zeros,
        .known_antennas = known,
        .channels = zeros,
        .channel_count = 1,
        .challenge = challenge,
        .verdicts = verdicts,
        .numbers = numbers,
        .data = data,
        .advanced_numbers = advanced,
        .advanced_counters = advanced + TAGS,
    };
    if (pipeline_verify(&batch))
        exit(1);
    for (size_t i = 0; i < TAGS; i++)
        if (verdicts[i] == 0) /* a branch on what is public, or this is reported too */
            exit(1);
    arena_close(arena);
    arena_free(arena);
    index_free(index);
    free(advanced);
    free(numbers);
    free(data);
    free(verdicts);
    free(zeros);
    free(evidence);
    free(other);
    free(one);
    free(identities);
}

#if defined(CONTROL)
static void look_up(void)
{
    uint8_t *table = random_bytes(256), *key = secret_bytes(16);
    volatile uint8_t taken = table[key[3]];
    (void)taken;
    free(key);
    free(table);
}
#endif

int main(void)
{
#if defined(CONTROL)
    look_up();
    return 0;
#endif
    for (int k = 0; k < CPU_KERNEL_COUNT; k++) {
        if (!(cpu_detect() >> k & 1))
            continue;
        run_blocks(k);
        run_schemes(k);
        for (int scheme = SCHEME_NONE; scheme <= SCHEME_COUNTER_CMAC_16; scheme++)
            for (size_t blocks = 0; blocks <= TAM2_BLOCKS_MAX; blocks++)
                if (scheme == SCHEME_TAM2 ? blocks > 0 : blocks == 0)
                    run_pipeline(k, scheme, blocks);
        printf("%s\n", cpu_kernel_name(k));
    }
    return 0;
}
