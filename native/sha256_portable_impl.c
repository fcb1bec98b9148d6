/* SHA-256 in plain C, and what all kernels share. */
#include "sha256_impl.h"

#include <string.h>

static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static inline uint32_t load_be(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void store_be(uint8_t *p, uint32_t x)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(x >> (24 - 8 * i));
}

static void compress_block(uint32_t state[8], const uint8_t *block)
{
    uint32_t w[64], s[8];
    for (int t = 0; t < 16; t++)
        w[t] = load_be(block + 4 * t);
    for (int t = 16; t < 64; t++) {
        const uint32_t a = w[t - 15], b = w[t - 2];
        w[t] = w[t - 16] + w[t - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) +
               (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int t = 0; t < 64; t++) {
        const uint32_t sum1 = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25);
        const uint32_t choice = (s[4] & s[5]) ^ (~s[4] & s[6]);
        const uint32_t one = s[7] + sum1 + choice + constants[t] + w[t];
        const uint32_t sum0 = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22);
        const uint32_t majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += one;
        s[0] = one + sum0 + majority;
    }
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}

void sha256_compress_portable(uint32_t state[8], const uint8_t *blocks, size_t n)
{
    for (; n; n--, blocks += SHA256_BLOCK)
        compress_block(state, blocks);
}

void sha256_begin(struct sha256 *message, sha256_compress *compress)
{
    static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    message->compress = compress;
    memcpy(message->state, initial, sizeof initial);
    message->size = 0;
}

void sha256_add(struct sha256 *message, const uint8_t *bytes, size_t size)
{
    const size_t used = message->size % SHA256_BLOCK;
    message->size += size;
    if (used) {
        const size_t free = SHA256_BLOCK - used, taken = size < free ? size : free;
        if (taken)
            memcpy(message->tail + used, bytes, taken);
        if (taken < free)
            return;
        message->compress(message->state, message->tail, 1);
        bytes += taken;
        size -= taken;
    }
    message->compress(message->state, bytes, size / SHA256_BLOCK);
    if (size % SHA256_BLOCK)
        memcpy(message->tail, bytes + size / SHA256_BLOCK * SHA256_BLOCK, size % SHA256_BLOCK);
}

void sha256_end(struct sha256 *message, uint8_t *digest)
{
    size_t used = message->size % SHA256_BLOCK;
    uint8_t *tail = message->tail;
    tail[used++] = 0x80;
    if (used > SHA256_BLOCK - 8) {
        memset(tail + used, 0, SHA256_BLOCK - used);
        message->compress(message->state, tail, 1);
        used = 0;
    }
    memset(tail + used, 0, SHA256_BLOCK - 8 - used);
    store_be(tail + SHA256_BLOCK - 8, (uint32_t)(message->size >> 29));
    store_be(tail + SHA256_BLOCK - 4, (uint32_t)(message->size << 3));
    message->compress(message->state, tail, 1);
    for (int i = 0; i < 8; i++)
        store_be(digest + 4 * i, message->state[i]);
}
