/* AES in bit slices: 16 blocks at once, each under its own key, constant time on any processor.
 *
 * Layout: plane b holds bit b of every byte of all 16 blocks. A plane is four 64-bit rows (the rows
 * of the AES state); a row holds its four columns as 16-bit groups, column 0 lowest; bit k of a
 * group belongs to block k. So ShiftRows rotates a row by whole groups, MixColumns combines rows,
 * and neither moves single bits.
 *
 * The S-box is the circuit of J. Boyar and R. Peralta, "A new combinational logic minimization
 * technique with applications to cryptology" (SEA 2010); its inverse is the same circuit between
 * two inverse affine maps.
 */
#include "aes_impl.h"

#include <string.h>

typedef uint64_t pair __attribute__((vector_size(16))); /* two rows of a plane */
typedef uint16_t groups __attribute__((vector_size(16)));
typedef uint8_t octets __attribute__((vector_size(16)));

enum { LANES = AES_PORTABLE_LANES };

#if defined(__clang__)
#define SHUFFLE16(a, b, ...) ((pair)__builtin_shufflevector((groups)(a), (groups)(b), __VA_ARGS__))
#define SHUFFLE8(a, b, ...) ((pair)__builtin_shufflevector((octets)(a), (octets)(b), __VA_ARGS__))
#else
#define SHUFFLE16(a, b, ...)                                                                       \
    ((pair)__builtin_shuffle((groups)(a), (groups)(b), (groups){__VA_ARGS__}))
#define SHUFFLE8(a, b, ...)                                                                        \
    ((pair)__builtin_shuffle((octets)(a), (octets)(b), (octets){__VA_ARGS__}))
#endif
#define INTERLEAVE_LOW(a, b) SHUFFLE16(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define INTERLEAVE_HIGH(a, b) SHUFFLE16(a, b, 4, 12, 5, 13, 6, 14, 7, 15)

typedef pair state[8][2]; /* [plane][0: rows 0 and 1, 1: rows 2 and 3] */

/* The circuit, for any type with & ^ ~; x[7] is the most significant bit. */
#define SBOX(T, x)                                                                                 \
    do {                                                                                           \
        T y14 = x[4] ^ x[2], y13 = x[7] ^ x[1], y9 = x[7] ^ x[4], y8 = x[7] ^ x[2];                \
        T t0 = x[6] ^ x[5], y1 = t0 ^ x[0], y4 = y1 ^ x[4], y12 = y13 ^ y14, y2 = y1 ^ x[7];       \
        T y5 = y1 ^ x[1], y3 = y5 ^ y8, t1 = x[3] ^ y12, y15 = t1 ^ x[2], y20 = t1 ^ x[6];         \
        T y6 = y15 ^ x[0], y10 = y15 ^ t0, y11 = y20 ^ y9, y7 = x[0] ^ y11, y17 = y10 ^ y11;       \
        T y19 = y10 ^ y8, y16 = t0 ^ y11, y21 = y13 ^ y16, y18 = x[7] ^ y16;                       \
        T t2 = y12 & y15, t4 = (y3 & y6) ^ t2, t6 = (y4 & x[0]) ^ t2, t7 = y13 & y16;              \
        T t9 = (y5 & y1) ^ t7, t11 = (y2 & y7) ^ t7, t12 = y9 & y11, t14 = (y14 & y17) ^ t12;      \
        T t16 = (y8 & y10) ^ t12, t21 = t4 ^ t14 ^ y20, t22 = t6 ^ t16 ^ y19;                      \
        T t23 = t9 ^ t14 ^ y21, t24 = t11 ^ t16 ^ y18;                                             \
        T t25 = t21 ^ t22, t26 = t21 & t23, t27 = t24 ^ t26, t29 = (t25 & t27) ^ t22;              \
        T t30 = t23 ^ t24, t31 = t22 ^ t26, t33 = (t31 & t30) ^ t24, t34 = t23 ^ t33;              \
        T t35 = t27 ^ t33, t36 = t24 & t35, t37 = t36 ^ t34, t38 = t27 ^ t36;                      \
        T t40 = t25 ^ (t29 & t38), t41 = t40 ^ t37, t42 = t29 ^ t33, t43 = t29 ^ t40;              \
        T t44 = t33 ^ t37, t45 = t42 ^ t41;                                                        \
        T z0 = t44 & y15, z1 = t37 & y6, z2 = t33 & x[0], z3 = t43 & y16, z4 = t40 & y1;           \
        T z5 = t29 & y7, z6 = t42 & y11, z7 = t45 & y17, z8 = t41 & y10, z9 = t44 & y12;           \
        T z10 = t37 & y3, z11 = t33 & y4, z12 = t43 & y13, z13 = t40 & y5, z14 = t29 & y2;         \
        T z15 = t42 & y9, z16 = t45 & y14, z17 = t41 & y8;                                         \
        T t46 = z15 ^ z16, t47 = z10 ^ z11, t48 = z5 ^ z13, t49 = z9 ^ z10, t50 = z2 ^ z12;        \
        T t51 = z2 ^ z5, t52 = z7 ^ z8, t53 = z0 ^ z3, t54 = z6 ^ z7, t55 = z16 ^ z17;             \
        T t56 = z12 ^ t48, t57 = t50 ^ t53, t58 = z4 ^ t46, t59 = z3 ^ t54, t60 = t46 ^ t57;       \
        T t61 = z14 ^ t57, t62 = t52 ^ t58, t63 = t49 ^ t58, t64 = z4 ^ t59, t65 = t61 ^ t62;      \
        T t66 = z1 ^ t63, s3 = t53 ^ t66;                                                          \
        x[7] = t59 ^ t63;                                                                          \
        x[6] = t64 ^ ~s3;                                                                          \
        x[5] = t55 ^ ~(t64 ^ t65);                                                                 \
        x[4] = s3;                                                                                 \
        x[3] = t51 ^ t66;                                                                          \
        x[2] = t47 ^ t65;                                                                          \
        x[1] = t56 ^ ~t62;                                                                         \
        x[0] = t48 ^ ~t60;                                                                         \
    } while (0)

/* The inverse of the S-box's affine map: XOR 0x63, then bit i becomes the sum of bits i+2, i+5 and
 * i+7. */
static inline void unaffine(pair *x)
{
    pair y[8];
    for (int b = 0; b < 8; b++)
        y[b] = (0x63 >> b) & 1 ? ~x[b] : x[b];
    for (int b = 0; b < 8; b++)
        x[b] = y[(b + 2) & 7] ^ y[(b + 5) & 7] ^ y[(b + 7) & 7];
}

static inline void substitute(state s, int inverse)
{
    for (int half = 0; half < 2; half++) {
        pair x[8];
        for (int b = 0; b < 8; b++)
            x[b] = s[b][half];
        if (inverse)
            unaffine(x);
        SBOX(pair, x);
        if (inverse)
            unaffine(x);
        for (int b = 0; b < 8; b++)
            s[b][half] = x[b];
    }
}

static inline void shift_rows(state s)
{
    for (int b = 0; b < 8; b++) {
        s[b][0] = SHUFFLE16(s[b][0], s[b][0], 0, 1, 2, 3, 5, 6, 7, 4);
        s[b][1] = SHUFFLE16(s[b][1], s[b][1], 2, 3, 0, 1, 7, 4, 5, 6);
    }
}

static inline void unshift_rows(state s)
{
    for (int b = 0; b < 8; b++) {
        s[b][0] = SHUFFLE16(s[b][0], s[b][0], 0, 1, 2, 3, 7, 4, 5, 6);
        s[b][1] = SHUFFLE16(s[b][1], s[b][1], 2, 3, 0, 1, 5, 6, 7, 4);
    }
}

/* Rows (0 1)(2 3) seen one row further: (1 2)(3 0). */
#define NEXT_ROW(a, b) SHUFFLE16(a, b, 4, 5, 6, 7, 8, 9, 10, 11)

/* out_r = 2(a_r + a_{r+1}) + a_{r+1} + (a_{r+2} + a_{r+3}) */
static inline void mix_columns(state s)
{
    state next, sum;
    for (int b = 0; b < 8; b++) {
        next[b][0] = NEXT_ROW(s[b][0], s[b][1]);
        next[b][1] = NEXT_ROW(s[b][1], s[b][0]);
        sum[b][0] = s[b][0] ^ next[b][0];
        sum[b][1] = s[b][1] ^ next[b][1];
    }
    for (int b = 0; b < 8; b++)
        for (int half = 0; half < 2; half++) {
            pair doubled = sum[(b + 7) & 7][half];
            if (b == 1 || b == 3 || b == 4)
                doubled ^= sum[7][half];
            s[b][half] = doubled ^ next[b][half] ^ sum[b][half ^ 1];
        }
}

/* The inverse matrix is MixColumns after a_r + 4(a_r + a_{r+2}). */
static inline void unmix_columns(state s)
{
    pair d[8];
    for (int b = 0; b < 8; b++)
        d[b] = s[b][0] ^ s[b][1];
    const pair four[8] = {d[6],        d[6] ^ d[7], d[0] ^ d[7], d[1] ^ d[6], d[2] ^ d[6] ^ d[7],
                          d[3] ^ d[7], d[4],        d[5]};
    for (int b = 0; b < 8; b++) {
        s[b][0] ^= four[b];
        s[b][1] ^= four[b];
    }
    mix_columns(s);
}

static inline void add(state s, const pair (*key)[2])
{
    for (int b = 0; b < 8; b++) {
        s[b][0] ^= key[b][0];
        s[b][1] ^= key[b][1];
    }
}

struct schedule {
    size_t rounds;
    pair of[AES_ROUND_KEYS_MAX][8][2];
};

static void encrypt(state s, const struct schedule *keys)
{
    add(s, keys->of[0]);
    for (size_t round = 1; round < keys->rounds; round++) {
        substitute(s, 0);
        shift_rows(s);
        mix_columns(s);
        add(s, keys->of[round]);
    }
    substitute(s, 0);
    shift_rows(s);
    add(s, keys->of[keys->rounds]);
}

/* Of AES-128. */
static void decrypt(state s, const struct schedule *keys)
{
    add(s, keys->of[AES_ROUNDS]);
    for (int round = AES_ROUNDS - 1; round > 0; round--) {
        unshift_rows(s);
        substitute(s, 1);
        add(s, keys->of[round]);
        unmix_columns(s);
    }
    unshift_rows(s);
    substitute(s, 1);
    add(s, keys->of[0]);
}

/* AES-128: round key 0 is there already. Column 3 of all rows and blocks fits one word per plane,
 * so the S-box runs once a round on words. */
static void expand(struct schedule *keys)
{
    uint64_t constant = 1;
    keys->rounds = AES_ROUNDS;
    for (int round = 1; round < AES_ROUND_KEYS; round++) {
        uint64_t x[8];
        for (int b = 0; b < 8; b++) {
            const pair low = keys->of[round - 1][b][0], high = keys->of[round - 1][b][1];
            /* RotWord: row r takes the byte of row r + 1. */
            x[b] = low[1] >> 48 | high[0] >> 48 << 16 | high[1] >> 48 << 32 | low[0] >> 48 << 48;
        }
        SBOX(uint64_t, x);
        for (int b = 0; b < 8; b++) {
            uint64_t word = x[b] ^ ((0 - (constant >> b & 1)) & 0xFFFF);
            const pair low = {word & 0xFFFF, word >> 16 & 0xFFFF};
            const pair high = {word >> 32 & 0xFFFF, word >> 48};
            /* Each column is the sum of the word and of all old columns up to its own. */
            pair a = keys->of[round - 1][b][0] ^ low, c = keys->of[round - 1][b][1] ^ high;
            a ^= a << 16;
            c ^= c << 16;
            keys->of[round][b][0] = a ^ a << 32;
            keys->of[round][b][1] = c ^ c << 32;
        }
        constant = constant << 1 ^ (constant >> 7) * 0x11B;
    }
}

/* AES-192 and AES-256, whose words do not fall into round keys: word by word. Round keys 0 and 1
 * hold the key, the rest of 1 is not used. A word is a plane of 16-bit groups, one a row. */
static void expand_wide(struct schedule *keys, size_t words)
{
    uint64_t w[AES_ROUND_KEYS_MAX * 4][8] = {0}, constant = 1;
    keys->rounds = words + 6;
    for (size_t i = 0; i < words; i++)
        for (int b = 0; b < 8; b++) {
            const pair low = keys->of[i / 4][b][0], high = keys->of[i / 4][b][1];
            const unsigned column = 16 * (i % 4);
            w[i][b] = (low[0] >> column & 0xFFFF) | (low[1] >> column & 0xFFFF) << 16 |
                      (high[0] >> column & 0xFFFF) << 32 | (high[1] >> column) << 48;
        }
    for (size_t i = words; i < 4 * (keys->rounds + 1); i++) {
        uint64_t x[8];
        memcpy(x, w[i - 1], sizeof x);
        if (i % words == 0) {
            for (int b = 0; b < 8; b++)
                x[b] = x[b] >> 16 | x[b] << 48;
            SBOX(uint64_t, x);
            for (int b = 0; b < 8; b++)
                x[b] ^= (0 - (constant >> b & 1)) & 0xFFFF;
            constant <<= 1; /* never past 80: there are at most eight */
        } else if (words == 8 && i % words == 4) {
            SBOX(uint64_t, x);
        }
        for (int b = 0; b < 8; b++)
            w[i][b] = w[i - words][b] ^ x[b];
    }
    for (size_t round = 0; round <= keys->rounds; round++)
        for (int b = 0; b < 8; b++) {
            uint64_t row[4] = {0};
            for (int column = 0; column < 4; column++)
                for (int r = 0; r < 4; r++)
                    row[r] |= (w[4 * round + (size_t)column][b] >> 16 * r & 0xFFFF) << 16 * column;
            keys->of[round][b][0] = (pair){row[0], row[1]};
            keys->of[round][b][1] = (pair){row[2], row[3]};
        }
    cpu_wipe(w, sizeof w);
}

#define SWAP_BITS(a, b, mask, n)                                                                   \
    do {                                                                                           \
        const pair swap_ = ((a >> n) ^ b) & mask;                                                  \
        b ^= swap_;                                                                                \
        a ^= swap_ << n;                                                                           \
    } while (0)

/* Transposes the 8 x 8 bits that eight rows have at each byte; its own inverse. */
static inline void transpose_bits(pair *x)
{
    const pair one = {0x5555555555555555, 0x5555555555555555};
    const pair two = {0x3333333333333333, 0x3333333333333333};
    const pair four = {0x0F0F0F0F0F0F0F0F, 0x0F0F0F0F0F0F0F0F};
    for (int i = 0; i < 8; i += 2)
        SWAP_BITS(x[i], x[i + 1], one, 1);
    for (int i = 0; i < 8; i++)
        if (!(i & 2))
            SWAP_BITS(x[i], x[i + 2], two, 2);
    for (int i = 0; i < 4; i++)
        SWAP_BITS(x[i], x[i + 4], four, 4);
}

/* Words are taken as little-endian; a big-endian build would need a byte swap here and in unpack.
 */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "the slices assume a little-endian processor");

/* 16 blocks -> planes. */
static void pack(pair (*s)[2], const uint8_t *blocks)
{
    pair a[8], b[8];
    memcpy(a, blocks, sizeof a);
    memcpy(b, blocks + sizeof a, sizeof b);
    transpose_bits(a);
    transpose_bits(b);
    for (int i = 0; i < 8; i++) {
        const pair low =
            SHUFFLE8(a[i], b[i], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        const pair high =
            SHUFFLE8(a[i], b[i], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        /* Byte 4c + r becomes row r, column c. */
        const pair even = INTERLEAVE_LOW(low, high), odd = INTERLEAVE_HIGH(low, high);
        s[i][0] = INTERLEAVE_LOW(even, odd);
        s[i][1] = INTERLEAVE_HIGH(even, odd);
    }
}

/* planes -> 16 blocks. */
static void unpack(const pair (*s)[2], uint8_t *blocks)
{
    pair a[8], b[8];
    for (int i = 0; i < 8; i++) {
        const pair even = INTERLEAVE_LOW(s[i][0], s[i][1]), odd = INTERLEAVE_HIGH(s[i][0], s[i][1]);
        const pair low = INTERLEAVE_LOW(even, odd), high = INTERLEAVE_HIGH(even, odd);
        a[i] = SHUFFLE8(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        b[i] = SHUFFLE8(low, high, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    }
    transpose_bits(a);
    transpose_bits(b);
    memcpy(blocks, a, sizeof a);
    memcpy(blocks + sizeof a, b, sizeof b);
}

/* CMAC's doubling in GF(2^128): a left shift of the big-endian block, 0x87 added where a bit falls
 * out. */
static void double_block(state out, const pair (*in)[2])
{
    const pair low = in[7][0], high = in[7][1];
    const uint64_t carry = (low[0] & 0xFFFF) << 48; /* byte 0, moved to byte 15: row 3, column 3 */
    for (int b = 7; b > 0; b--) {
        out[b][0] = in[b - 1][0];
        out[b][1] = in[b - 1][1];
    }
    out[0][0] = (pair){low[1], high[0]};
    out[0][1] = (pair){high[1], low[0] >> 16};
    for (int b = 0; b < 8; b++)
        if (0x87 >> b & 1)
            out[b][1] ^= (pair){0, carry};
}

/* Copies rows of `width` bytes that are `stride` apart into a full set of lanes; absent lanes
 * become zero. */
static void gather(uint8_t *lanes, const uint8_t *rows, size_t stride, size_t width, size_t n)
{
    if (n < LANES || width < AES_BLOCK)
        memset(lanes, 0, (size_t)LANES * AES_BLOCK);
    for (size_t i = 0; i < n; i++)
        if (width == AES_BLOCK)
            memcpy(lanes + i * AES_BLOCK, rows + i * stride, AES_BLOCK);
        else if (width)
            memcpy(lanes + i * AES_BLOCK, rows + i * stride, width);
}

struct workspace {
    struct schedule keys;
    state s, l, k;
    uint8_t bytes[LANES * AES_BLOCK];
};

static void load_keys(struct workspace *w, const uint8_t *keys, size_t key_size, size_t n)
{
    gather(w->bytes, keys, key_size, AES_BLOCK, n);
    pack(w->keys.of[0], w->bytes);
    if (key_size == AES_BLOCK) {
        expand(&w->keys);
        return;
    }
    gather(w->bytes, keys + AES_BLOCK, key_size, key_size - AES_BLOCK, n);
    pack(w->keys.of[1], w->bytes);
    expand_wide(&w->keys, key_size / 4);
}

static size_t lanes_of(size_t n)
{
    return n < LANES ? n : LANES;
}

typedef void cipher(state s, const struct schedule *keys);

static inline void each_block(cipher *work, const uint8_t *keys, const uint8_t *in, size_t blocks,
                              uint8_t *out, size_t n)
{
    const size_t width = blocks * AES_BLOCK;
    struct workspace w;
    for (size_t m; n; n -= m, keys += m * AES_BLOCK, in += m * width, out += m * width) {
        m = lanes_of(n);
        load_keys(&w, keys, AES_BLOCK, m);
        for (size_t at = 0; at < width; at += AES_BLOCK) {
            gather(w.bytes, in + at, width, AES_BLOCK, m);
            pack(w.s, w.bytes);
            work(w.s, &w.keys);
            unpack(w.s, w.bytes);
            for (size_t i = 0; i < m; i++)
                memcpy(out + i * width + at, w.bytes + i * AES_BLOCK, AES_BLOCK);
        }
    }
    cpu_wipe(&w, sizeof w);
}

static void portable_encrypt(const uint8_t *keys, const uint8_t *in, uint8_t *out, size_t n)
{
    each_block(encrypt, keys, in, 1, out, n);
}

static void portable_decrypt(const uint8_t *keys, const uint8_t *in, size_t blocks, uint8_t *out,
                             size_t n)
{
    each_block(decrypt, keys, in, blocks, out, n);
}

static void portable_cmac(const uint8_t *keys, size_t key_size, const uint8_t *messages,
                          size_t length, uint8_t *macs, size_t n)
{
    struct workspace w;
    const size_t chained = length ? (length - 1) / AES_BLOCK : 0; /* blocks before the last one */
    const size_t rest = length - chained * AES_BLOCK;
    for (size_t m; n; n -= m, keys += m * key_size, messages += m * length, macs += m * 16) {
        m = lanes_of(n);
        load_keys(&w, keys, key_size, m);
        memset(w.l, 0, sizeof w.l);
        encrypt(w.l, &w.keys);
        double_block(w.k, w.l);
        if (rest < AES_BLOCK) {
            memcpy(w.l, w.k, sizeof w.l);
            double_block(w.k, w.l);
        }
        memset(w.s, 0, sizeof w.s);
        for (size_t block = 0; block <= chained; block++) {
            const int last = block == chained;
            gather(w.bytes, length ? messages + block * AES_BLOCK : messages, length,
                   last ? rest : AES_BLOCK, m);
            if (last && rest < AES_BLOCK)
                for (size_t i = 0; i < LANES; i++)
                    w.bytes[i * AES_BLOCK + rest] = 0x80;
            pack(w.l, w.bytes);
            add(w.s, w.l);
            if (last)
                add(w.s, w.k);
            encrypt(w.s, &w.keys);
        }
        unpack(w.s, w.bytes);
        memcpy(macs, w.bytes, m * AES_BLOCK);
    }
    cpu_wipe(&w, sizeof w);
}

static void portable_cbc_two(const struct aes_master *master, const uint8_t *blocks, uint8_t *out,
                             size_t n)
{
    struct workspace w;
    w.keys.rounds = master->rounds;
    memcpy(w.keys.of, master->planes, sizeof master->planes);
    for (size_t m; n; n -= m, blocks += m * 32, out += m * 16) {
        m = lanes_of(n);
        gather(w.bytes, blocks, 32, AES_BLOCK, m);
        pack(w.s, w.bytes);
        encrypt(w.s, &w.keys);
        gather(w.bytes, blocks + AES_BLOCK, 32, AES_BLOCK, m);
        pack(w.l, w.bytes);
        add(w.s, w.l);
        encrypt(w.s, &w.keys);
        unpack(w.s, w.bytes);
        memcpy(out, w.bytes, m * AES_BLOCK);
    }
    cpu_wipe(&w, sizeof w);
}

static CPU_OUT_OF_LINE void master_init(struct aes_master *master, const uint8_t *key,
                                        size_t key_size)
{
    struct workspace w;
    uint8_t keys[LANES * AES_KEY_MAX];
    memset(&w.keys, 0, sizeof w.keys);
    memset(master, 0, sizeof *master);
    for (size_t i = 0; i < LANES; i++)
        memcpy(keys + i * key_size, key, key_size);
    load_keys(&w, keys, key_size, LANES);
    cpu_wipe(keys, sizeof keys);
    master->rounds = w.keys.rounds;
    _Static_assert(sizeof w.keys.of == sizeof master->planes,
                   "a schedule is fifteen times eight planes");
    memcpy(master->planes, w.keys.of, sizeof w.keys.of);
    for (size_t round = 0; round <= w.keys.rounds; round++) {
        unpack(w.keys.of[round], w.bytes);
        memcpy(master->round_keys[round], w.bytes, AES_BLOCK);
    }
    memset(w.s, 0, sizeof w.s);
    encrypt(w.s, &w.keys);
    double_block(w.k, w.s);
    unpack(w.k, w.bytes);
    memcpy(master->k1, w.bytes, AES_BLOCK);
    double_block(w.s, w.k);
    unpack(w.s, w.bytes);
    memcpy(master->k2, w.bytes, AES_BLOCK);
    cpu_wipe(&w, sizeof w);
}

void aes_master_init(struct aes_master *master, const uint8_t *key, size_t key_size)
{
    master_init(master, key, key_size);
    cpu_forget(AES_STACK);
}

const struct aes_kernel aes_portable = {
    .encrypt = portable_encrypt,
    .decrypt = portable_decrypt,
    .cmac = portable_cmac,
    .cbc_two = portable_cbc_two,
};
