/* ISO/IEC 29167-10 TAM1: AES-DEC(key, response) = C_TAM1 (96C5) || TRnd (4 bytes) || IChallenge (10
 * bytes).
 *
 * All kernels return bit-identical results. Arrays are packed rows; n may be 0.
 */
#ifndef NATIVE_TAM1_IMPL_H
#define NATIVE_TAM1_IMPL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cpu_impl.h"

enum { TAM1_RESPONSE = 16, TAM1_CHALLENGE = 10 };
enum tam1_outcome { TAM1_FORGED = 0, TAM1_RIGHT = 1, TAM1_OTHER_CHALLENGE = 2 };

/* What a right answer decrypts to, but for TRnd, in words: made once for many answers. */
struct tam1_expected {
    uint64_t words[2];
    uint8_t
        valid; /* 0: no challenge is, so that a response with the constant answers another one */
};

/* challenge NULL: none is valid. */
static inline struct tam1_expected tam1_expect(const uint8_t *challenge)
{
    uint8_t block[16] = {0x96, 0xC5};
    struct tam1_expected expected = {.valid = challenge != NULL};
    if (challenge)
        memcpy(block + 6, challenge, TAM1_CHALLENGE);
    memcpy(expected.words, block, sizeof block);
    return expected;
}

static inline uint8_t tam1_is_zero(uint64_t x)
{
    return (uint8_t)(1 ^ ((x | (0 - x)) >> 63));
}

/* What a decrypted response (16 bytes) says, in constant time. */
static inline uint8_t tam1_judge(const uint8_t *decrypted, struct tam1_expected expected)
{
    static const uint8_t constant[8] = {0xFF, 0xFF}, challenge[8] = {0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
    uint64_t words[2], of_constant, of_challenge;
    memcpy(words, decrypted, sizeof words);
    memcpy(&of_constant, constant, sizeof of_constant);
    memcpy(&of_challenge, challenge, sizeof of_challenge);
    const uint64_t low = words[0] ^ expected.words[0], high = words[1] ^ expected.words[1];
    const uint8_t known = tam1_is_zero(low & of_constant);
    const uint8_t fresh = tam1_is_zero((low & of_challenge) | high) & expected.valid;
    return (uint8_t)(known *
                     (TAM1_OTHER_CHALLENGE - fresh)); /* 0 unless known; then 1 if fresh, else 2 */
}

/* keys n*16, responses n*16, challenges: rows of 10 bytes `stride` bytes apart (0: the same for
 * all) -> outcomes n. `kernel` is a bit that cpu_detect() sets. */
void tam1_verify_many(int kernel, const uint8_t *keys, const uint8_t *challenges, size_t stride,
                      const uint8_t *responses, uint8_t *outcomes, size_t n);

#endif
