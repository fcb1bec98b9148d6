/* NTAG 424 DNA secure unique NFC message (AN12196): a mirrored counter and a MAC over it and the
 * UID.
 *
 *   SV2          = 3CC3 0001 0080 || UID (7) || counter (3, little-endian)
 *   session key  = CMAC(key, SV2)
 *   MAC          = the 8 bytes with odd index of CMAC(session key, empty message)
 *   evidence     = counter (3, little-endian) || MAC (8)
 *
 * All kernels return bit-identical results. Arrays are packed rows; n may be 0.
 */
#ifndef NATIVE_SUN_IMPL_H
#define NATIVE_SUN_IMPL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { SUN_UID = 7, SUN_COUNTER = 3, SUN_MAC = 8, SUN_EVIDENCE = SUN_COUNTER + SUN_MAC };

/* Writes SV2, 16 bytes. */
static inline void sun_vector(const uint8_t *uid, const uint8_t *counter, uint8_t *vector)
{
    static const uint8_t label[6] = {0x3C, 0xC3, 0x00, 0x01, 0x00, 0x80};
    memcpy(vector, label, sizeof label);
    memcpy(vector + sizeof label, uid, SUN_UID);
    memcpy(vector + sizeof label + SUN_UID, counter, SUN_COUNTER);
}

/* keys n*16, uids n*7, evidence n*11 -> right n: 1 where the MAC is right, else 0. Whether a
 * counter is fresh is for the caller to say. */
void sun_verify_many(int kernel, const uint8_t *keys, const uint8_t *uids, const uint8_t *evidence,
                     uint8_t *right, size_t n);

#endif
