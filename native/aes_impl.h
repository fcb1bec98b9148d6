/* AES (FIPS 197) for many blocks, each with a key of its own, and AES-CMAC (RFC 4493, SP 800-38B)
 * on top of it. Blocks are encrypted under keys of 128 bits; CMAC and a master's CBC-MAC take keys
 * of 128, 192 and 256 bits.
 *
 * All kernels return bit-identical results. None keeps a key schedule between calls: with another
 * key per block, expanding in registers is cheaper than fetching schedules from memory. No kernel
 * has a look-up or a branch that depends on a key or on data. Kernels leave round keys on the stack
 * and in registers: who calls one calls cpu_forget(AES_STACK + its own frame) afterwards, once.
 *
 * Contract of every function: `n` may be any number, 0 included; arrays are packed, row after row,
 * without alignment; outputs may be the same array as an input of equal row width, but must not
 * overlap otherwise.
 */
#ifndef NATIVE_AES_IMPL_H
#define NATIVE_AES_IMPL_H

#include <stddef.h>
#include <stdint.h>

#include "cpu_impl.h"

enum {
    AES_BLOCK = 16,
    AES_ROUNDS = 10, /* of AES-128 */
    AES_ROUND_KEYS = AES_ROUNDS + 1,
    AES_ROUND_KEYS_MAX = 15, /* of AES-256 */
    AES_KEY_MAX = 32,
    AES_PORTABLE_LANES = 16,
    AES_STACK = 16 << 10, /* more than any kernel takes of it */
};

/* One key for many blocks, expanded for every kernel. Holds secrets: the owner wipes it. */
struct aes_master {
    size_t rounds; /* 10, 12 or 14 */
    /* As FIPS 197 writes them; the first 16, 24 or 32 bytes are the key. */
    uint8_t round_keys[AES_ROUND_KEYS_MAX][AES_BLOCK];
    uint8_t k1[AES_BLOCK], k2[AES_BLOCK];      /* CMAC subkeys */
    uint64_t planes[AES_ROUND_KEYS_MAX][8][4]; /* the same, bit-sliced, alike in all lanes */
};

struct aes_kernel {
    /* keys n*16, in n*16 -> out n*16 */
    void (*encrypt)(const uint8_t *keys, const uint8_t *in, uint8_t *out, size_t n);
    /* keys n*16, in n*16*blocks -> out n*16*blocks: every block of a row under the row's key, which
     * is expanded once; blocks at least 1. */
    void (*decrypt)(const uint8_t *keys, const uint8_t *in, size_t blocks, uint8_t *out, size_t n);
    /* keys n*key_size (16, 24 or 32), messages n*length (any length, 0 too) -> macs n*16 */
    void (*cmac)(const uint8_t *keys, size_t key_size, const uint8_t *messages, size_t length,
                 uint8_t *macs, size_t n);
    /* One key: blocks n*32 -> out n*16, out = E(E(first half) XOR second half), the CBC-MAC of two
     * blocks. */
    void (*cbc_two)(const struct aes_master *master, const uint8_t *blocks, uint8_t *out, size_t n);
};

extern const struct aes_kernel aes_portable;
/* NULL members where this build has no AES-NI. */
extern const struct aes_kernel aes_aesni;

/* AES rounds of a key of 16, 24 or 32 bytes, and back. */
static inline size_t aes_rounds_of(size_t key_size)
{
    return key_size / 4 + 6;
}
static inline size_t aes_key_size_of(const struct aes_master *master)
{
    return (master->rounds - 6) * 4;
}

/* Fills the whole of *master from a key of 16, 24 or 32 bytes, in constant time. */
void aes_master_init(struct aes_master *master, const uint8_t *key, size_t key_size);

/* kernel must be a bit that cpu_detect() sets. */
static inline const struct aes_kernel *aes_kernel_of(int kernel)
{
    return kernel == CPU_AESNI ? &aes_aesni : &aes_portable;
}

#endif
