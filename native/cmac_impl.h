/* AES-128-CMAC (RFC 4493, SP 800-38B) in bulk, another key per message.
 *
 * All kernels return bit-identical results. Arrays are packed rows; n may be 0.
 */
#ifndef NATIVE_CMAC_IMPL_H
#define NATIVE_CMAC_IMPL_H

#include <stddef.h>
#include <stdint.h>

enum { CMAC_MAC_MIN = 4, CMAC_MAC_MAX = 16 };

/* keys n*16, messages n*length -> macs n*16. `kernel` is a bit that cpu_detect() sets. */
void cmac_many(int kernel, const uint8_t *keys, const uint8_t *messages, size_t length,
               uint8_t *macs, size_t n);

/* keys n*16, messages n*length, macs n*mac_size (the left mac_size bytes, 4..16) -> right n: 1
 * right, 0 wrong. Compares in constant time; the right MACs never leave a buffer that is wiped. */
void cmac_verify_many(int kernel, const uint8_t *keys, const uint8_t *messages, size_t length,
                      const uint8_t *macs, size_t mac_size, uint8_t *right, size_t n);

#endif
