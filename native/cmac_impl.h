/* AES-CMAC (RFC 4493, SP 800-38B) in bulk, another key per message.
 *
 * All kernels return bit-identical results. Arrays are packed rows; n may be 0.
 */
#ifndef NATIVE_CMAC_IMPL_H
#define NATIVE_CMAC_IMPL_H

#include <stddef.h>
#include <stdint.h>

enum { CMAC_MAC_MIN = 4, CMAC_MAC_MAX = 16 };

/* What of a CMAC travels: its left bytes, or the eight with odd index (1, 3 .. 15), as NXP's secure
 * dynamic messaging has it. */
enum cmac_truncation { CMAC_LEFT = 0, CMAC_ODD = 1 };
enum { CMAC_ODD_SIZE = 8 };

/* The bytes with odd index of a CMAC: 16 -> 8. */
static inline void cmac_take_odd(const uint8_t *mac, uint8_t *odd)
{
    for (int i = 0; i < CMAC_ODD_SIZE; i++)
        odd[i] = mac[2 * i + 1];
}

/* keys n*key_size (16, 24 or 32), messages n*length -> macs n*16. `kernel` is a bit that
 * cpu_detect() sets. */
void cmac_many(int kernel, const uint8_t *keys, size_t key_size, const uint8_t *messages,
               size_t length, uint8_t *macs, size_t n);

/* As cmac_many, with macs n*mac_size (CMAC_LEFT 4..16, CMAC_ODD 8) -> right n: 1 right, 0 wrong.
 * Compares in constant time; the right MACs do not outlive the call. */
void cmac_verify_many(int kernel, const uint8_t *keys, size_t key_size, const uint8_t *messages,
                      size_t length, const uint8_t *macs, size_t mac_size, int truncation,
                      uint8_t *right, size_t n);

#endif
