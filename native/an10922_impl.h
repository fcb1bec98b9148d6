/* NXP AN10922: AES key diversification. With D(c) = CMAC(master, c || M), where c || M is padded to
 * 32 bytes with 0x80 00 .. and then takes subkey K2, or, when M has exactly 31 bytes, takes K1
 * unpadded, the derived key is
 *   AES-128   D(01)
 *   AES-192   left half of D(11) || right half of D(11) XOR left half of D(12) || right half of
 * D(12) AES-256   D(41) || D(42)
 *
 * All kernels return bit-identical results.
 */
#ifndef NATIVE_AN10922_IMPL_H
#define NATIVE_AN10922_IMPL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "aes_impl.h"

enum { AN10922_INPUT_MAX = 31, AN10922_PADDED = 32 };

enum { AN10922_128 = 0x01, AN10922_192 = 0x11, AN10922_256 = 0x41 }; /* the first constants */

/* Writes 32 bytes: constant || input (1..31 bytes), padded, subkey added: what aes_kernel.cbc_two
 * takes. The second half holds a subkey: the caller wipes it. */
void an10922_pad(const struct aes_master *master, uint8_t constant, const uint8_t *input,
                 size_t size, uint8_t *padded);

/* Puts another input of `size` bytes where `model`, padded from zeros, holds none yet: an10922_pad
 * for rows that have only their first bytes to themselves. */
static inline void an10922_fill(const uint8_t *model, const uint8_t *input, size_t size,
                                uint8_t *padded)
{
    uint64_t row[4] = {0}, of_model[4];
    memcpy((uint8_t *)row + 1, input, size);
    memcpy(of_model, model, sizeof of_model);
    for (int i = 0; i < 4; i++)
        row[i] ^= of_model[i];
    memcpy(padded, row, sizeof row);
}

/* inputs n*size (1..31) -> keys n*k, with k the master's own size, 16, 24 or 32. `kernel` is a bit
 * that cpu_detect() sets. */
void an10922_derive_many(int kernel, const struct aes_master *master, const uint8_t *inputs,
                         size_t size, uint8_t *keys, size_t n);

#endif
