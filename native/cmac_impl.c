#include "cmac_impl.h"

#include "aes_impl.h"

enum { CHUNK = 64 };

/* Where messages have no bytes they need no address either; the kernels reckon with one, so they
 * are told of the keys', which they read nothing from. */

void cmac_many(int kernel, const uint8_t *keys, size_t key_size, const uint8_t *messages,
               size_t length, uint8_t *macs, size_t n)
{
    aes_kernel_of(kernel)->cmac(keys, key_size, length ? messages : keys, length, macs, n);
    cpu_forget(AES_STACK);
}

/* Inline, so that the usual sizes are constants. */
static inline void compare(const uint8_t *computed, const uint8_t *macs, size_t size,
                           uint8_t *right, size_t n)
{
    for (size_t i = 0; i < n; i++)
        right[i] = cpu_equal(computed + i * AES_BLOCK, macs + i * size, size);
}

static CPU_OUT_OF_LINE void verify(int kernel, const uint8_t *keys, size_t key_size,
                                   const uint8_t *messages, size_t length, const uint8_t *macs,
                                   size_t mac_size, int truncation, uint8_t *right, size_t n)
{
    const struct aes_kernel *aes = aes_kernel_of(kernel);
    uint8_t computed[CHUNK * AES_BLOCK];
    for (size_t m; n; n -= m) {
        m = n < CHUNK ? n : CHUNK;
        aes->cmac(keys, key_size, messages, length, computed, m);
        if (truncation ==
            CMAC_ODD) /* forwards in place: what is read lies behind what is written */
            for (size_t i = 0; i < m; i++)
                cmac_take_odd(computed + i * AES_BLOCK, computed + i * AES_BLOCK);
        if (mac_size == AES_BLOCK)
            compare(computed, macs, AES_BLOCK, right, m);
        else if (mac_size == 8)
            compare(computed, macs, 8, right, m);
        else
            compare(computed, macs, mac_size, right, m);
        keys += m * key_size;
        messages += m * length;
        macs += m * mac_size;
        right += m;
    }
    cpu_wipe(computed, sizeof computed);
}

void cmac_verify_many(int kernel, const uint8_t *keys, size_t key_size, const uint8_t *messages,
                      size_t length, const uint8_t *macs, size_t mac_size, int truncation,
                      uint8_t *right, size_t n)
{
    verify(kernel, keys, key_size, length ? messages : keys, length, macs, mac_size, truncation,
           right, n);
    cpu_forget(AES_STACK + CHUNK * AES_BLOCK);
}
