/* ISO/IEC 29167-10 TAM2 with ProtMode 1 (encryption, no MAC): TAM1's block, then 1 to 4 blocks of
 * the tag's memory under CBC with that block before them.
 *
 *   AES-DEC(key, C0)             = 96C5 || TRnd (4 bytes) || IChallenge (10 bytes)
 *   AES-DEC(key, Ci) XOR C(i-1)  = block i of what was read, i = 1 .. blocks
 *
 * Nothing vouches for the data blocks themselves: they are confidential, not authentic. Who changes
 * Ci makes noise of block i and turns chosen bits of block i + 1.
 *
 * All kernels return bit-identical results. Arrays are packed rows; n may be 0.
 */
#ifndef NATIVE_TAM2_IMPL_H
#define NATIVE_TAM2_IMPL_H

#include <stddef.h>
#include <stdint.h>

#include "tam1_impl.h"

enum {
    TAM2_BLOCK = 16,
    TAM2_BLOCKS_MAX = 4,
    TAM2_RESPONSE_MAX = TAM2_BLOCK * (1 + TAM2_BLOCKS_MAX),
};

/* Bytes of a response with so many data blocks. */
static inline size_t tam2_response_size(size_t blocks)
{
    return TAM2_BLOCK * (1 + blocks);
}

/* A data block from what its cipher block decrypted to and the cipher block before it; zeros unless
 * `right` is 1. Without a branch on it. */
static inline void tam2_take(const uint8_t *decrypted, const uint8_t *before, int right,
                             uint8_t *data)
{
    const uint8_t mask = (uint8_t)(0 - right);
    for (int i = 0; i < TAM2_BLOCK; i++)
        data[i] = (uint8_t)((decrypted[i] ^ before[i]) & mask);
}

/* keys n*16, challenges as for tam1_verify_many, responses n*(16 + 16*blocks), blocks 1..4 ->
 * outcomes n, of enum tam1_outcome; data n*16*blocks, zero where the outcome is not TAM1_RIGHT. */
void tam2_verify_many(int kernel, const uint8_t *keys, const uint8_t *challenges, size_t stride,
                      const uint8_t *responses, size_t blocks, uint8_t *outcomes, uint8_t *data,
                      size_t n);

#endif
