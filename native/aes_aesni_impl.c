/* AES with AES-NI: eight blocks in flight, each under its own key, schedules expanded on the
 * fly.
 *
 * The schedules of four keys are computed together, transposed: vector j holds word j of four keys.
 * SubWord(RotWord()) of four keys is then one PSHUFB and one AESENCLAST (the shuffle also undoes
 * ShiftRows), where AESKEYGENASSIST would be slow microcode for each key alone. For decryption the
 * same recurrence runs a second time over words that went through InvMixColumns: that map is
 * linear, so one AESIMC a round serves four keys.
 *
 * Only these functions use instructions beyond the build's baseline; the caller has asked
 * cpu_detect() first.
 */
#include "aes_impl.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("aes,sse4.1,ssse3")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { LANES = 8 };

typedef __m128i schedule[AES_ROUND_KEYS][LANES];
typedef __m128i wide_schedule[AES_ROUND_KEYS_MAX][LANES];

INLINE __m128i load(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}
INLINE void store(uint8_t *p, __m128i x)
{
    _mm_storeu_si128((__m128i *)(void *)p, x);
}

/* Words of four keys -> the four keys. */
INLINE void store_keys(__m128i *keys, const __m128i *w)
{
    const __m128i a = _mm_unpacklo_epi32(w[0], w[1]), b = _mm_unpacklo_epi32(w[2], w[3]);
    const __m128i c = _mm_unpackhi_epi32(w[0], w[1]), d = _mm_unpackhi_epi32(w[2], w[3]);
    keys[0] = _mm_unpacklo_epi64(a, b);
    keys[1] = _mm_unpackhi_epi64(a, b);
    keys[2] = _mm_unpacklo_epi64(c, d);
    keys[3] = _mm_unpackhi_epi64(c, d);
}

/* SubWord(RotWord(w)) + constant for four words. AESENCLAST shifts rows: the word for output column
 * c, row r is taken from column c + r, so the shuffle puts byte (r + 1) mod 4 of word c there. */
INLINE __m128i substitute_words(__m128i w, int constant)
{
    const __m128i order = _mm_setr_epi8(1, 14, 11, 4, 5, 2, 15, 8, 9, 6, 3, 12, 13, 10, 7, 0);
    return _mm_aesenclast_si128(_mm_shuffle_epi8(w, order), _mm_set1_epi32(constant));
}

/* SubWord(w) for four words, which AES-256 has between: the shuffle only undoes ShiftRows. */
INLINE __m128i substitute_words_in_place(__m128i w)
{
    const __m128i order = _mm_setr_epi8(0, 13, 10, 7, 4, 1, 14, 11, 8, 5, 2, 15, 12, 9, 6, 3);
    return _mm_aesenclast_si128(_mm_shuffle_epi8(w, order), _mm_setzero_si128());
}

#define EACH_ROUND(X)                                                                              \
    X(1, 0x01)                                                                                     \
    X(2, 0x02)                                                                                     \
    X(3, 0x04) X(4, 0x08) X(5, 0x10) X(6, 0x20) X(7, 0x40) X(8, 0x80) X(9, 0x1B) X(10, 0x36)

/* A round's words need those of the round before, one after the other: the two fours take turns, so
 * that neither waits for itself alone. */
INLINE void expand(schedule keys, const uint8_t *bytes)
{
    __m128i w[2][4];
    for (int four = 0; four < 2; four++) {
        for (int i = 0; i < 4; i++)
            w[four][i] = keys[0][4 * four + i] = load(bytes + (4 * four + i) * AES_BLOCK);
        store_keys(w[four], (const __m128i[4]){w[four][0], w[four][1], w[four][2], w[four][3]});
    }
#define ROUND(r, constant)                                                                         \
    _Pragma("GCC unroll 2") for (int four = 0; four < 2; four++)                                   \
    {                                                                                              \
        w[four][0] = _mm_xor_si128(w[four][0], substitute_words(w[four][3], constant));            \
        w[four][1] = _mm_xor_si128(w[four][1], w[four][0]);                                        \
        w[four][2] = _mm_xor_si128(w[four][2], w[four][1]);                                        \
        w[four][3] = _mm_xor_si128(w[four][3], w[four][2]);                                        \
        store_keys(&keys[r][4 * four], w[four]);                                                   \
    }
    EACH_ROUND(ROUND)
#undef ROUND
}

/* The schedule of the equivalent inverse cipher: InvMixColumns over the round keys 1 to 9. */
INLINE void expand_inverse(schedule keys, const uint8_t *bytes)
{
    __m128i w[2][4], v[2][4];
    for (int four = 0; four < 2; four++) {
        for (int i = 0; i < 4; i++)
            w[four][i] = keys[0][4 * four + i] = load(bytes + (4 * four + i) * AES_BLOCK);
        store_keys(w[four], (const __m128i[4]){w[four][0], w[four][1], w[four][2], w[four][3]});
        for (int i = 0; i < 4; i++)
            v[four][i] = _mm_aesimc_si128(w[four][i]);
    }
#define ROUND(r, constant)                                                                         \
    _Pragma("GCC unroll 2") for (int four = 0; four < 2; four++)                                   \
    {                                                                                              \
        const __m128i word = substitute_words(w[four][3], constant);                               \
        w[four][0] = _mm_xor_si128(w[four][0], word);                                              \
        w[four][1] = _mm_xor_si128(w[four][1], w[four][0]);                                        \
        w[four][2] = _mm_xor_si128(w[four][2], w[four][1]);                                        \
        w[four][3] = _mm_xor_si128(w[four][3], w[four][2]);                                        \
        v[four][0] = _mm_xor_si128(v[four][0], _mm_aesimc_si128(word));                            \
        v[four][1] = _mm_xor_si128(v[four][1], v[four][0]);                                        \
        v[four][2] = _mm_xor_si128(v[four][2], v[four][1]);                                        \
        v[four][3] = _mm_xor_si128(v[four][3], v[four][2]);                                        \
        store_keys(&keys[r][4 * four], r < 10 ? v[four] : w[four]);                                \
    }
    EACH_ROUND(ROUND)
#undef ROUND
}

/* AES-192 and AES-256 (6 or 8 words a key): the words of four keys side by side, as above. */
INLINE void expand_wide(wide_schedule keys, const uint8_t *bytes, int words)
{
    const int last = words + 6;
    __m128i w[AES_ROUND_KEYS_MAX * 4];
    for (int four = 0; four < LANES; four += 4) {
        for (int j = 0; j < words; j++) {
            int32_t of[4];
            for (int i = 0; i < 4; i++)
                memcpy(&of[i], bytes + ((four + i) * words + j) * 4, sizeof of[i]);
            w[j] = _mm_setr_epi32(of[0], of[1], of[2], of[3]);
        }
        int constant = 1;
        for (int j = words; j < 4 * (last + 1); j++) {
            __m128i word = w[j - 1];
            if (j % words == 0) {
                word = substitute_words(word, constant);
                constant <<= 1; /* never past 80: there are at most eight */
            } else if (words == 8 && j % words == 4) {
                word = substitute_words_in_place(word);
            }
            w[j] = _mm_xor_si128(w[j - words], word);
        }
        for (int r = 0; r <= last; r++)
            store_keys(&keys[r][four], &w[4 * r]);
    }
    cpu_wipe(w, sizeof w);
}

#define EACH_LANE(statement)                                                                       \
    _Pragma("GCC unroll 8") for (int i = 0; i < LANES; i++)                                        \
    {                                                                                              \
        statement;                                                                                 \
    }

/* s already holds block XOR round key 0. */
INLINE void rounds(__m128i *s, const __m128i (*keys)[LANES])
{
    _Pragma("GCC unroll 9") for (int r = 1; r < 10; r++)
        EACH_LANE(s[i] = _mm_aesenc_si128(s[i], keys[r][i]))
            EACH_LANE(s[i] = _mm_aesenclast_si128(s[i], keys[10][i]))
}

/* The same for keys of any size. */
INLINE void wide_rounds(__m128i *s, const __m128i (*keys)[LANES], int last)
{
    for (int r = 1; r < last; r++)
        EACH_LANE(s[i] = _mm_aesenc_si128(s[i], keys[r][i]))
    EACH_LANE(s[i] = _mm_aesenclast_si128(s[i], keys[last][i]))
}

/* s already holds block XOR round key 10. */
INLINE void inverse_rounds(__m128i *s, const __m128i (*keys)[LANES])
{
    _Pragma("GCC unroll 9") for (int r = 9; r > 0; r--)
        EACH_LANE(s[i] = _mm_aesdec_si128(s[i], keys[r][i]))
            EACH_LANE(s[i] = _mm_aesdeclast_si128(s[i], keys[0][i]))
}

/* CMAC's doubling: each byte shifts left and takes the top bit of the next; byte 0's goes into byte
 * 15 as 0x87. */
INLINE __m128i double_block(__m128i x)
{
    const __m128i carried = _mm_cmpgt_epi8(_mm_setzero_si128(), x);
    const __m128i bits = _mm_setr_epi8(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, (char)0x87);
    return _mm_xor_si128(_mm_add_epi8(x, x),
                         _mm_and_si128(_mm_alignr_epi8(carried, carried, 1), bits));
}

static TARGET void encrypt_lanes(schedule k, const uint8_t *keys, const uint8_t *in, uint8_t *out)
{
    __m128i s[LANES];
    expand(k, keys);
    EACH_LANE(s[i] = _mm_xor_si128(load(in + i * 16), k[0][i]))
    rounds(s, k);
    EACH_LANE(store(out + i * 16, s[i]))
}

/* Rows that are `width` bytes apart, of which this is one block. */
INLINE void decrypt_lanes(schedule k, const uint8_t *in, size_t width, uint8_t *out)
{
    __m128i s[LANES];
    EACH_LANE(s[i] = _mm_xor_si128(load(in + (size_t)i * width), k[10][i]))
    inverse_rounds(s, k);
    EACH_LANE(store(out + (size_t)i * width, s[i]))
}

/* Messages of exactly one block. */
static TARGET void cmac_block_lanes(schedule k, const uint8_t *keys, const uint8_t *in,
                                    uint8_t *out)
{
    __m128i s[LANES];
    expand(k, keys);
    EACH_LANE(s[i] = k[0][i])
    rounds(s, k);
    EACH_LANE(s[i] = _mm_xor_si128(_mm_xor_si128(load(in + i * 16), k[0][i]), double_block(s[i])))
    rounds(s, k);
    EACH_LANE(store(out + i * 16, s[i]))
}

/* Messages of any length, `stride` bytes apart. */
INLINE void cmac_lanes(wide_schedule k, const uint8_t *keys, int words, const uint8_t *in,
                       size_t stride, size_t length, uint8_t *out)
{
#define ROUNDS(s) words == 4 ? rounds(s, k) : wide_rounds(s, k, words + 6)
    const size_t chained = length ? (length - 1) / AES_BLOCK : 0; /* blocks before the last one */
    const size_t rest = length - chained * AES_BLOCK;
    uint8_t last[LANES][AES_BLOCK];
    __m128i s[LANES], subkey[LANES];
    if (words == 4)
        expand(k, keys);
    else
        expand_wide(k, keys, words);
    EACH_LANE(s[i] = k[0][i])
    ROUNDS(s);
    EACH_LANE(subkey[i] = double_block(s[i]))
    if (rest < AES_BLOCK)
        EACH_LANE(subkey[i] = double_block(subkey[i]))
    memset(last, 0, sizeof last);
    for (size_t i = 0; i < LANES; i++) {
        if (rest)
            memcpy(last[i], in + i * stride + chained * AES_BLOCK, rest);
        if (rest < AES_BLOCK)
            last[i][rest] = 0x80;
    }
    EACH_LANE(s[i] = _mm_setzero_si128())
    for (size_t block = 0; block < chained; block++) {
        const uint8_t *at = in + block * AES_BLOCK;
        EACH_LANE(s[i] = _mm_xor_si128(_mm_xor_si128(s[i], k[0][i]), load(at + (size_t)i * stride)))
        ROUNDS(s);
    }
    EACH_LANE(
        s[i] = _mm_xor_si128(_mm_xor_si128(s[i], k[0][i]), _mm_xor_si128(load(last[i]), subkey[i])))
    ROUNDS(s);
    EACH_LANE(store(out + i * 16, s[i]))
    cpu_wipe(subkey, sizeof subkey);
#undef ROUNDS
}

INLINE void cbc_two_lanes(const struct aes_master *master, const uint8_t *blocks, uint8_t *out,
                          size_t last)
{
    __m128i s[LANES];
    const __m128i first = load(master->round_keys[0]), final = load(master->round_keys[last]);
    EACH_LANE(s[i] = _mm_xor_si128(load(blocks + i * 32), first))
    for (int half = 0; half < 2; half++) {
        _Pragma("GCC unroll 13") for (size_t r = 1; r < last; r++)
        {
            const __m128i key = load(master->round_keys[r]);
            EACH_LANE(s[i] = _mm_aesenc_si128(s[i], key))
        }
        EACH_LANE(s[i] = _mm_aesenclast_si128(s[i], final))
        if (half == 0)
            EACH_LANE(s[i] = _mm_xor_si128(_mm_xor_si128(s[i], load(blocks + i * 32 + 16)), first))
    }
    EACH_LANE(store(out + i * 16, s[i]))
}

/* Constant numbers of rounds, so that the loops unroll. */
static TARGET void cbc_two_set(const struct aes_master *master, const uint8_t *blocks, uint8_t *out)
{
    if (master->rounds == AES_ROUNDS)
        cbc_two_lanes(master, blocks, out, AES_ROUNDS);
    else
        cbc_two_lanes(master, blocks, out, master->rounds);
}

/* The last few rows, copied into a full set of lanes: no kernel reads past an array's end. */
struct tail {
    uint8_t keys[LANES * AES_BLOCK], in[LANES * 2 * AES_BLOCK], out[LANES * AES_BLOCK];
};

static void fill_tail(struct tail *t, const uint8_t *keys, const uint8_t *in, size_t width,
                      size_t n)
{
    memset(t, 0, sizeof *t);
    if (keys)
        memcpy(t->keys, keys, n * AES_BLOCK);
    memcpy(t->in, in, n * width);
}

#define EACH_SET(function, width)                                                                  \
    schedule k;                                                                                    \
    for (; n >= LANES; n -= LANES) {                                                               \
        function(k, keys, in, out);                                                                \
        keys += LANES * AES_BLOCK, in += LANES * (width), out += LANES * AES_BLOCK;                \
    }                                                                                              \
    if (n) {                                                                                       \
        struct tail t;                                                                             \
        fill_tail(&t, keys, in, width, n);                                                         \
        function(k, t.keys, t.in, t.out);                                                          \
        memcpy(out, t.out, n * AES_BLOCK);                                                         \
        cpu_wipe(&t, sizeof t);                                                                    \
    }                                                                                              \
    cpu_wipe(k, sizeof k);

static TARGET void aesni_encrypt(const uint8_t *keys, const uint8_t *in, uint8_t *out,
                                 size_t n){EACH_SET(encrypt_lanes, AES_BLOCK)}

INLINE
    void decrypt_rows(const uint8_t *keys, const uint8_t *in, size_t width, uint8_t *out, size_t n)
{
    schedule k;
    for (; n >= LANES; n -= LANES) {
        expand_inverse(k, keys);
        for (size_t at = 0; at < width; at += AES_BLOCK)
            decrypt_lanes(k, in + at, width, out + at);
        keys += LANES * AES_BLOCK, in += LANES * width, out += LANES * width;
    }
    if (n) {
        struct tail t;
        fill_tail(&t, keys, in, 0, n);
        expand_inverse(k, t.keys);
        for (size_t at = 0; at < width; at += AES_BLOCK) {
            for (size_t i = 0; i < n; i++)
                memcpy(t.in + i * AES_BLOCK, in + i * width + at, AES_BLOCK);
            decrypt_lanes(k, t.in, AES_BLOCK, t.out);
            for (size_t i = 0; i < n; i++)
                memcpy(out + i * width + at, t.out + i * AES_BLOCK, AES_BLOCK);
        }
        cpu_wipe(&t, sizeof t);
    }
    cpu_wipe(k, sizeof k);
}

static TARGET void aesni_decrypt(const uint8_t *keys, const uint8_t *in, size_t blocks,
                                 uint8_t *out, size_t n)
{
    if (blocks == 1) /* a constant width, so that the loops unroll */
        decrypt_rows(keys, in, AES_BLOCK, out, n);
    else
        decrypt_rows(keys, in, blocks * AES_BLOCK, out, n);
}

static TARGET void cmac_block(const uint8_t *keys, const uint8_t *in, uint8_t *out,
                              size_t n){EACH_SET(cmac_block_lanes, AES_BLOCK)}

INLINE void cmac_rows(const uint8_t *keys, int words, const uint8_t *messages, size_t length,
                      uint8_t *macs, size_t n)
{
    const size_t key_size = (size_t)words * 4;
    wide_schedule k;
    for (; n >= LANES; n -= LANES) {
        cmac_lanes(k, keys, words, messages, length, length, macs);
        keys += LANES * key_size, messages += LANES * length, macs += LANES * AES_BLOCK;
    }
    uint8_t key[LANES * AES_KEY_MAX], mac[LANES * AES_BLOCK];
    for (; n; n--, keys += key_size, messages += length, macs += AES_BLOCK) {
        /* The messages may be long: a lone row goes through all lanes by a stride of 0 instead of
         * being copied. */
        for (size_t i = 0; i < LANES; i++)
            memcpy(key + i * key_size, keys, key_size);
        cmac_lanes(k, key, words, messages, 0, length, mac);
        memcpy(macs, mac, AES_BLOCK);
    }
    cpu_wipe(key, sizeof key);
    cpu_wipe(mac, sizeof mac);
    cpu_wipe(k, sizeof k);
}

static TARGET void cmac_128(const uint8_t *keys, const uint8_t *messages, size_t length,
                            uint8_t *macs, size_t n)
{
    cmac_rows(keys, 4, messages, length, macs, n);
}
static TARGET void cmac_192(const uint8_t *keys, const uint8_t *messages, size_t length,
                            uint8_t *macs, size_t n)
{
    cmac_rows(keys, 6, messages, length, macs, n);
}
static TARGET void cmac_256(const uint8_t *keys, const uint8_t *messages, size_t length,
                            uint8_t *macs, size_t n)
{
    cmac_rows(keys, 8, messages, length, macs, n);
}

static TARGET void aesni_cmac(const uint8_t *keys, size_t key_size, const uint8_t *messages,
                              size_t length, uint8_t *macs, size_t n)
{
    if (key_size == 32)
        cmac_256(keys, messages, length, macs, n);
    else if (key_size == 24)
        cmac_192(keys, messages, length, macs, n);
    else if (length == AES_BLOCK)
        cmac_block(keys, messages, macs, n);
    else
        cmac_128(keys, messages, length, macs, n);
}

static TARGET void aesni_cbc_two(const struct aes_master *master, const uint8_t *blocks,
                                 uint8_t *out, size_t n)
{
    for (; n >= LANES; n -= LANES, blocks += LANES * 32, out += LANES * AES_BLOCK)
        cbc_two_set(master, blocks, out);
    if (n) {
        struct tail t;
        fill_tail(&t, NULL, blocks, 32, n);
        cbc_two_set(master, t.in, t.out);
        memcpy(out, t.out, n * AES_BLOCK);
        cpu_wipe(&t, sizeof t);
    }
}

const struct aes_kernel aes_aesni = {
    .encrypt = aesni_encrypt,
    .decrypt = aesni_decrypt,
    .cmac = aesni_cmac,
    .cbc_two = aesni_cbc_two,
};

#else

const struct aes_kernel aes_aesni = {0};

#endif
