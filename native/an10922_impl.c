#include "an10922_impl.h"

#include <string.h>

enum { CHUNK = 64 };

void an10922_pad(const struct aes_master *master, const uint8_t *input, size_t size,
                 uint8_t *padded)
{
    const int whole = size == AN10922_INPUT_MAX;
    const uint8_t *subkey = whole ? master->k1 : master->k2;
    memset(padded, 0, AN10922_PADDED);
    padded[0] = 0x01;
    memcpy(padded + 1, input, size);
    if (!whole)
        padded[1 + size] = 0x80;
    for (int i = 0; i < AES_BLOCK; i++)
        padded[AES_BLOCK + i] = (uint8_t)(padded[AES_BLOCK + i] ^ subkey[i]);
}

void an10922_derive_many(int kernel, const struct aes_master *master, const uint8_t *inputs,
                         size_t size, uint8_t *keys, size_t n)
{
    const struct aes_kernel *aes = aes_kernel_of(kernel);
    const uint8_t zeros[AN10922_INPUT_MAX] = {0};
    uint8_t model[AN10922_PADDED], padded[CHUNK * AN10922_PADDED];
    an10922_pad(master, zeros, size, model);
    for (size_t m; n; n -= m) {
        m = n < CHUNK ? n : CHUNK;
        for (size_t i = 0; i < m; i++)
            an10922_fill(model, inputs + i * size, size, padded + i * AN10922_PADDED);
        aes->cbc_two(master, padded, keys, m);
        inputs += m * size;
        keys += m * AES_BLOCK;
    }
    cpu_wipe(model, sizeof model);
    cpu_wipe(padded, sizeof padded);
}
