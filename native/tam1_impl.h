/* ISO/IEC 29167-10 TAM1: AES-DEC(key, response) = C_TAM1 (96C5) || TRnd (4 bytes) || IChallenge (10
 * bytes).
 *
 * All kernels return bit-identical results. Arrays are packed rows; n may be 0.
 */
#ifndef NATIVE_TAM1_IMPL_H
#define NATIVE_TAM1_IMPL_H

#include <stddef.h>
#include <stdint.h>

#include "cpu_impl.h"

enum { TAM1_RESPONSE = 16, TAM1_CHALLENGE = 10 };
enum tam1_outcome { TAM1_FORGED = 0, TAM1_RIGHT = 1, TAM1_OTHER_CHALLENGE = 2 };

/* What a decrypted response (16 bytes) says, in constant time. challenge NULL: no challenge is
 * valid, so a response with the constant answers another one. */
static inline uint8_t tam1_judge(const uint8_t *decrypted, const uint8_t *challenge)
{
    const uint8_t constant[2] = {0x96, 0xC5};
    const uint8_t known = cpu_equal(decrypted, constant, sizeof constant);
    const uint8_t fresh = challenge ? cpu_equal(decrypted + 6, challenge, TAM1_CHALLENGE) : 0;
    return (uint8_t)(known *
                     (TAM1_OTHER_CHALLENGE - fresh)); /* 0 unless known; then 1 if fresh, else 2 */
}

/* keys n*16, responses n*16, challenges: rows of 10 bytes `stride` bytes apart (0: the same for
 * all) -> outcomes n. `kernel` is a bit that cpu_detect() sets. */
void tam1_verify_many(int kernel, const uint8_t *keys, const uint8_t *challenges, size_t stride,
                      const uint8_t *responses, uint8_t *outcomes, size_t n);

#endif
