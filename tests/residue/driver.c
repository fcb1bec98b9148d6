/* What the public C entries of native/ leave on the dead stack and in the vector registers: after
 * each call of one with keys, for every kernel and size of key, the stack below is searched.
 *
 * All rows have the same key, so that every form in which a kernel may have spilt it is known:
 * bytes, words of several keys side by side, and the planes of the bit-sliced kernel. And whatever
 * it was, below the entry's own frame nothing may be there but zeros and what was there before.
 *
 * Prints a line for each call after which something was found, and each kernel it has run.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aes_impl.h"
#include "an10922_impl.h"
#include "arena_impl.h"
#include "cmac_impl.h"
#include "pipeline_impl.h"
#include "sun_impl.h"
#include "tagindex_impl.h"
#include "tam1_impl.h"
#include "tam2_impl.h"

enum {
    ROWS = 83, /* fills no kernel's lanes and no entry's chunks */
    WIDTH = 7,
    DEPTH = 128 << 10,
    FILL = 0xA5,
    OWN_FRAME = 256, /* of the entry itself and, at the wiping's other end, of what it calls */
    SECRET = 16,
    SECRETS_MAX = 1000,
    REGISTERS = 16,
};

static uint8_t secrets[SECRETS_MAX][SECRET];
static size_t secret_count;
static uint8_t seen[REGISTERS * 16 + DEPTH];
static int found_any;

static void random_bytes(uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(rand() >> 7);
}

/* ── what must not be found ── */

static void add_secret(const void *bytes)
{
    static const uint8_t zeros[SECRET], ones[SECRET] = {
                                            255, 255, 255, 255, 255, 255, 255, 255,
                                            255, 255, 255, 255, 255, 255, 255, 255,
                                        };
    /* A plane may be so; then it tells nothing. */
    if (memcmp(bytes, zeros, SECRET) == 0 || memcmp(bytes, ones, SECRET) == 0)
        return;
    if (secret_count == SECRETS_MAX)
        abort();
    memcpy(secrets[secret_count++], bytes, SECRET);
}

static void add_key(const uint8_t *key, size_t size)
{
    struct aes_master m;
    aes_master_init(&m, key, size);
    for (size_t round = 0; round <= m.rounds; round++) {
        add_secret(m.round_keys[round]);
        for (int word = 0; word < 4; word++) {
            uint8_t side_by_side[SECRET];
            for (int i = 0; i < 4; i++)
                memcpy(side_by_side + 4 * i, m.round_keys[round] + 4 * word, 4);
            add_secret(side_by_side);
        }
        for (int plane = 0; plane < 8; plane++) {
            add_secret(m.planes[round][plane]);
            add_secret(m.planes[round][plane] + 2);
        }
    }
    add_secret(m.k1);
    add_secret(m.k2);
    memset(&m, 0, sizeof m);
}

/* ── the dead stack ── */

/* Not inlined, so that their arrays lie where the call's frames were. */
static __attribute__((noinline)) void fill_stack(void)
{
    uint8_t dead[DEPTH];
    memset(dead, FILL, sizeof dead);
    __asm__ __volatile__("" : : "r"(dead) : "memory");
}

static __attribute__((noinline)) void take_stack(void)
{
#if defined(__x86_64__)
#define STORE(n) "movdqu %%xmm" #n ", 16*" #n "(%0)\n\t"
    __asm__ __volatile__(STORE(0) STORE(1) STORE(2) STORE(3) STORE(4) STORE(5) STORE(6) STORE(7)
                             STORE(8) STORE(9) STORE(10) STORE(11) STORE(12) STORE(13) STORE(14)
                                 STORE(15)
                         :
                         : "r"(seen)
                         : "memory");
#endif
    volatile uint8_t dead[DEPTH];
    for (size_t i = 0; i < DEPTH; i++)
        seen[REGISTERS * 16 + i] = dead[i];
}

static size_t count_secrets(void)
{
    size_t count = 0;
    for (size_t i = 0; i + SECRET <= sizeof seen; i++) {
        uint64_t words[2];
        memcpy(words, seen + i, sizeof words);
        if (words[0] == words[1] && (words[0] == 0 || words[0] == FILL * 0x0101010101010101u))
            continue;
        for (size_t s = 0; s < secret_count; s++)
            count += memcmp(seen + i, secrets[s], SECRET) == 0;
    }
    return count;
}

static void report(const char *entry, int kernel, size_t bits)
{
    size_t other = 0, deepest = 0;
    const size_t secret = count_secrets();
    const uint8_t *stack = seen + sizeof seen; /* grew downwards from here */
    for (size_t depth = OWN_FRAME; depth < CPU_STACK_MAX - OWN_FRAME; depth++)
        if (stack[-(ptrdiff_t)depth] != 0 && stack[-(ptrdiff_t)depth] != FILL) {
            deepest = depth;
            other++;
        }
    if (secret == 0 && other == 0)
        return;
    printf("%s %s %zu: %zu secrets, %zu bytes of something, %zu deep\n", entry,
           cpu_kernel_name(kernel), bits, secret, other, deepest);
    found_any = 1;
}

#define AFTER(entry, call)                                                                         \
    do {                                                                                           \
        fill_stack();                                                                              \
        call;                                                                                      \
        take_stack();                                                                              \
        report(entry, kernel, size * 8);                                                           \
    } while (0)

/* ── every entry ── */

static uint8_t keys[ROWS * AES_KEY_MAX], in[ROWS * TAM2_RESPONSE_MAX], out[ROWS * AES_KEY_MAX];
static uint8_t data[ROWS * TAM2_BLOCKS_MAX * TAM2_BLOCK], right[ROWS];

static void same_key(const uint8_t *key, size_t size)
{
    for (size_t i = 0; i < ROWS; i++)
        memcpy(keys + i * size, key, size);
}

static void check_wide(int kernel, const uint8_t *key, size_t size)
{
    static struct aes_master master;
    secret_count = 0;
    add_key(key, size);
    same_key(key, size);
    AFTER("aes_master_init", aes_master_init(&master, key, size));
    for (size_t length = 0; length <= 40; length += 8) {
        AFTER("cmac_many", cmac_many(kernel, keys, size, in, length, out, ROWS));
        AFTER("cmac_verify_many", cmac_verify_many(kernel, keys, size, in, length, in, 16,
                                                   CMAC_LEFT, right, ROWS));
        AFTER("cmac_verify_many odd", cmac_verify_many(kernel, keys, size, in, length, in, 8,
                                                       CMAC_ODD, right, ROWS));
    }
    for (int i = 0; i < ROWS; i++) /* whole keys that were derived are secrets too */
        if (i % 8 == 0) {
            an10922_derive_many(kernel, &master, in + 20 * i, 20, out, 1);
            add_secret(out);
            add_secret(out + size - SECRET);
        }
    AFTER("an10922_derive_many", an10922_derive_many(kernel, &master, in, 20, out, ROWS));
}

static void check_schemes(int kernel, const uint8_t *key)
{
    const size_t size = AES_BLOCK;
    secret_count = 0;
    add_key(key, size);
    same_key(key, size);
    AFTER("tam1_verify_many", tam1_verify_many(kernel, keys, in, 0, in, right, ROWS));
    for (size_t blocks = 1; blocks <= TAM2_BLOCKS_MAX; blocks++)
        AFTER("tam2_verify_many",
              tam2_verify_many(kernel, keys, in, 0, in, blocks, right, data, ROWS));
    for (size_t i = 0; i < ROWS; i += 16) {
        uint8_t vector[AES_BLOCK], session[AES_BLOCK];
        sun_vector(in + WIDTH * i, in + SUN_EVIDENCE * i, vector);
        cmac_many(kernel, key, size, vector, sizeof vector, session, 1);
        add_secret(session);
    }
    AFTER("sun_verify_many", sun_verify_many(kernel, keys, in, in, right, ROWS));
}

static void check_pipeline(int kernel, int scheme, size_t blocks, const uint8_t *key)
{
    static uint8_t zeros[ROWS], known[256], verdicts[ROWS], challenge[TAM1_CHALLENGE];
    static uint32_t numbers[ROWS], advanced[2 * ROWS];
    const size_t size = AES_BLOCK;
    struct arena *arena = arena_new(1);
    struct index *index = index_new(ROWS, 1);
    struct aes_master master;
    if (!arena || !index)
        exit(1);
    secret_count = 0;
    add_key(key, size);
    AFTER("arena_add", arena_add(arena, 1, 1, key));
    memset(known, 1, sizeof known);
    index_write(index);
    for (size_t i = 0; i < ROWS; i++)
        index_put(index, in + i * WIDTH, WIDTH, (uint8_t)scheme, INDEX_ACTIVE, 0);
    index_leave(index);
    aes_master_init(&master, key, size);
    for (size_t i = 0; i < ROWS; i += 8) { /* tags' keys */
        uint8_t input[WIDTH + 6] = {[WIDTH + 3] = 1, [WIDTH + 4] = 'J', [WIDTH + 5] = 'K'};
        memcpy(input, in + i * WIDTH, WIDTH);
        an10922_derive_many(kernel, &master, input, sizeof input, out, 1);
        add_secret(out);
    }
    memset(&master, 0, sizeof master);
    struct pipeline_batch batch = {
        .index = index,
        .arena = arena,
        .kernel = kernel,
        .scheme = scheme,
        .n = ROWS,
        .width = WIDTH,
        .blocks = blocks,
        .identities = in,
        .evidence = in,
        .antennas = zeros,
        .known_antennas = known,
        .channels = zeros,
        .channel_count = 1,
        .challenge = challenge,
        .verdicts = verdicts,
        .numbers = numbers,
        .data = data,
        .advanced_numbers = advanced,
        .advanced_counters = advanced + ROWS,
    };
    AFTER("pipeline_verify", pipeline_verify(&batch));
    if (batch.counts[VERDICT_BAD_EVIDENCE] != ROWS)
        exit(1); /* not every key was used */
    arena_free(arena);
    index_free(index);
}

int main(void)
{
    uint8_t key[AES_KEY_MAX];
    random_bytes(key, sizeof key);
    random_bytes(in, sizeof in);
    for (int kernel = 0; kernel < CPU_KERNEL_COUNT; kernel++) {
        if (!(cpu_detect() >> kernel & 1))
            continue;
        for (size_t size = 16; size <= AES_KEY_MAX; size += 8)
            check_wide(kernel, key, size);
        check_schemes(kernel, key);
        for (int scheme = SCHEME_TAM1; scheme <= SCHEME_COUNTER_CMAC_16; scheme++)
            check_pipeline(kernel, scheme, scheme == SCHEME_TAM2 ? TAM2_BLOCKS_MAX : 0, key);
        printf("ran %s\n", cpu_kernel_name(kernel));
    }
    return found_any;
}
