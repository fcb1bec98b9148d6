/* SHA-256 (FIPS 180-4): the compression function of each kernel, and one message in pieces.
 *
 * All kernels return bit-identical results. What is hashed here is no secret: nothing is wiped.
 */
#ifndef NATIVE_SHA256_IMPL_H
#define NATIVE_SHA256_IMPL_H

#include <stddef.h>
#include <stdint.h>

#include "cpu_impl.h"

enum { SHA256_SIZE = 32, SHA256_BLOCK = 64 };

/* Takes n blocks of 64 bytes, without alignment, into the state. */
typedef void sha256_compress(uint32_t state[8], const uint8_t *blocks, size_t n);

extern sha256_compress sha256_compress_portable;
/* Defined only where this build has the SHA extensions; called only if cpu_detect_sha256() says so.
 */
extern sha256_compress sha256_compress_shani;

/* kernel must be a bit that cpu_detect_sha256() sets. */
static inline sha256_compress *sha256_compress_of(int kernel)
{
#if defined(__x86_64__)
    if (kernel == CPU_SHANI)
        return sha256_compress_shani;
#endif
    (void)kernel;
    return sha256_compress_portable;
}

struct sha256 {
    sha256_compress *compress;
    uint32_t state[8];
    uint64_t size; /* bytes so far */
    uint8_t tail[SHA256_BLOCK];
};

/* begin, any number of adds (size 0 too), end: 32 bytes to digest. One message each time. */
void sha256_begin(struct sha256 *message, sha256_compress *compress);
void sha256_add(struct sha256 *message, const uint8_t *bytes, size_t size);
void sha256_end(struct sha256 *message, uint8_t *digest);

#endif
