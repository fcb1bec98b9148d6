/* Batches over an index of tags of every scheme: some evidence right, some as the input has it; all
 * kernels alike in verdicts, numbers, counters and data. */
#include "common.h"

#include "an10922_impl.h"
#include "cmac_impl.h"
#include "pipeline_impl.h"
#include "sun_impl.h"
#include "tam2_impl.h"

enum { TAGS = 24, KEYS = 3, READS_MAX = 200 };

static const uint8_t masters[KEYS][16] = {{1}, {2}, {3}};

/* The right evidence of a tag, made with the portable kernel from the formulas in the headers. */
static void answer(uint8_t *evidence, int scheme, size_t blocks, const uint8_t *identity,
                   size_t width, size_t key, const uint8_t *challenge, const uint8_t *counter)
{
    uint8_t input[22] = {0}, tag_key[16], block[16] = {0x96, 0xC5}, mac[16];
    struct aes_master master;
    memcpy(input, identity, width);
    const uint8_t suffix[6] = {0, 0, 0, (uint8_t)key, 'J', 'K'};
    memcpy(input + width, suffix, sizeof suffix);
    aes_master_init(&master, masters[key], 16);
    an10922_derive_many(CPU_PORTABLE, &master, input, width + 6, tag_key, 1);
    if (scheme == SCHEME_TAM1 || scheme == SCHEME_TAM2) {
        memcpy(block + 6, challenge, 10);
        aes_portable.encrypt(tag_key, block, evidence, 1);
        for (size_t i = 0; scheme == SCHEME_TAM2 && i < blocks; i++)
            memset(evidence + 16 + 16 * i, (int)i + 1, 16);
    } else if (scheme == SCHEME_SUN) {
        memcpy(evidence, counter, 3);
        sun_vector(identity, counter, block);
        cmac_many(CPU_PORTABLE, tag_key, 16, block, 16, tag_key, 1);
        cmac_many(CPU_PORTABLE, tag_key, 16, block, 0, mac, 1); /* the empty message */
        cmac_take_odd(mac, evidence + 3);
    } else if (scheme != SCHEME_NONE) {
        const size_t size = scheme == SCHEME_COUNTER_CMAC ? 8 : 16;
        memcpy(block, "JKCMAC01\0\0\0\0", 12);
        memcpy(block + 12, counter, 4);
        memcpy(evidence, counter, 4);
        cmac_many(CPU_PORTABLE, tag_key, 16, block, 16, mac, 1);
        memcpy(evidence + 4, mac, size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t widths[] = {7, 8, 12, 16};
    struct input input = {data, size};
    const size_t width = widths[below(&input, 4)], n = below(&input, READS_MAX);
    int scheme = 1 + (int)below(&input, 6);
    if (scheme == SCHEME_SUN && width != SUN_UID)
        scheme = SCHEME_COUNTER_CMAC_16;
    const size_t blocks = scheme == SCHEME_TAM2 ? 1 + below(&input, TAM2_BLOCKS_MAX) : 0;
    const size_t evidence_size = (size_t)pipeline_evidence_size(scheme, blocks);
    const int challenged = scheme == SCHEME_TAM1 || scheme == SCHEME_TAM2;
    uint8_t challenge[10] = {'c', 'h'}, tags[TAGS + 2][16] = {{0}}, known[256] = {1, 1};
    struct arena *arena = arena_new(KEYS);
    CHECK(arena);
    for (size_t key = 0; key < KEYS; key++)
        CHECK(arena_add(arena, (uint32_t)key, 1, masters[key]) == (int)key);
    struct index *indices[CPU_KERNEL_COUNT] = {0};
    uint8_t of_key[TAGS + 2] = {0};
    EACH_KERNEL(k)
    {
        indices[k] = index_new(4, 7);
        CHECK(indices[k]);
    }
    for (size_t tag = 1; tag <= TAGS; tag++) { /* tag 0 is all zero, tag TAGS + 1 is unknown */
        memset(tags[tag], (int)tag, width);
        const uint8_t bits = take_byte(&input);
        of_key[tag] = bits % 4 % KEYS;
        EACH_KERNEL(k)
        {
            index_write(indices[k]);
            index_put(indices[k], tags[tag], width, (uint8_t)(bits & 64 ? 1 + bits % 6 : scheme),
                      (uint8_t)(1 + (bits >> 4) % 3), bits % 4);
            index_leave(indices[k]);
        }
    }
    memset(tags[TAGS + 1], 0xEE, width);
    uint8_t *identities = exactly(n * width), *evidence = exactly(n * evidence_size);
    uint8_t *antennas = exactly(n), *channels = exactly(n);
    for (size_t i = 0; i < n; i++) {
        const size_t tag = take_byte(&input) % (TAGS + 2);
        const uint8_t how = take_byte(&input);
        const uint8_t counter[4] = {(uint8_t)(1 + how % 8), 0, 0, 0};
        uint8_t *at = evidence + i * evidence_size;
        memcpy(identities + i * width, tags[tag], width);
        antennas[i] = how % 16 == 15 ? 200 : how % 2;
        channels[i] = how % 16 == 14 ? 9 : 0;
        if (evidence_size)
            memset(at, 0, evidence_size);
        if (how & 0x80 && evidence_size) {
            for (size_t j = 0; j < evidence_size; j++)
                at[j] = take_byte(&input);
        } else if (how != 0x7F) {
            answer(at, scheme, blocks, tags[tag], width, of_key[tag], challenge, counter);
            if (how & 0x40 && evidence_size)
                at[take_byte(&input) % evidence_size] ^= (uint8_t)(1 << how % 8);
        }
    }
    const int stale = challenged && below(&input, 4) == 0;
    uint8_t *first[5] = {0};
    uint64_t advanced = 0;
    EACH_KERNEL(k)
    {
        const size_t sizes[5] = {n, n * 4, n * 16 * blocks, n * 4, n * 4};
        uint8_t *out[5];
        for (int i = 0; i < 5; i++) {
            out[i] = exactly(sizes[i]);
            if (sizes[i])
                memset(out[i], 0, sizes[i]);
        }
        struct pipeline_batch batch = {
            .index = indices[k],
            .arena = arena,
            .kernel = k,
            .scheme = scheme,
            .n = n,
            .width = width,
            .blocks = blocks,
            .identities = identities,
            .evidence = evidence,
            .antennas = antennas,
            .known_antennas = known,
            .channels = channels,
            .channel_count = 4,
            .challenge = challenged && !stale ? challenge : NULL,
            .verdicts = out[0],
            .numbers = (uint32_t *)(void *)out[1],
            .data = out[2],
            .advanced_numbers = (uint32_t *)(void *)out[3],
            .advanced_counters = (uint32_t *)(void *)out[4],
        };
        CHECK(pipeline_verify(&batch) == 0);
        uint64_t total = 0;
        for (int verdict = 1; verdict < VERDICT_COUNT; verdict++)
            total += batch.counts[verdict];
        CHECK(total == n && (!first[0] || advanced == batch.advanced));
        CHECK(pipeline_counts(scheme) || batch.advanced == 0);
        CHECK(!stale || batch.counts[VERDICT_GENUINE] == 0);
        advanced = batch.advanced;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; out[0][i] != VERDICT_GENUINE && j < 16 * blocks; j++)
                CHECK(out[2][i * 16 * blocks + j] == 0);
        for (int i = 0; i < 5; i++)
            first[i] = same(first[i], out[i], sizes[i]);
    }
    for (int i = 0; i < 5; i++)
        free(first[i]);
    free(identities);
    free(evidence);
    free(antennas);
    free(channels);
    EACH_KERNEL(k)
    index_free(indices[k]);
    arena_close(arena);
    arena_free(arena);
    return 0;
}
