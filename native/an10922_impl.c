#include "an10922_impl.h"

#include <string.h>

enum { CHUNK = 64 };

void an10922_pad(const struct aes_master *master, uint8_t constant, const uint8_t *input,
                 size_t size, uint8_t *padded)
{
    const int whole = size == AN10922_INPUT_MAX;
    const uint8_t *subkey = whole ? master->k1 : master->k2;
    memset(padded, 0, AN10922_PADDED);
    padded[0] = constant;
    memcpy(padded + 1, input, size);
    if (!whole)
        padded[1 + size] = 0x80;
    for (int i = 0; i < AES_BLOCK; i++)
        padded[AES_BLOCK + i] = (uint8_t)(padded[AES_BLOCK + i] ^ subkey[i]);
}

static void derive_one_constant(const struct aes_kernel *aes, const struct aes_master *master,
                                uint8_t constant, const uint8_t *inputs, size_t size, uint8_t *out,
                                size_t n)
{
    const uint8_t zeros[AN10922_INPUT_MAX] = {0};
    uint8_t model[AN10922_PADDED], padded[CHUNK * AN10922_PADDED];
    an10922_pad(master, constant, zeros, size, model);
    for (size_t m; n; n -= m) {
        m = n < CHUNK ? n : CHUNK;
        for (size_t i = 0; i < m; i++)
            an10922_fill(model, inputs + i * size, size, padded + i * AN10922_PADDED);
        aes->cbc_two(master, padded, out, m);
        inputs += m * size;
        out += m * AES_BLOCK;
    }
    cpu_wipe(model, sizeof model);
    cpu_wipe(padded, sizeof padded);
}

static CPU_OUT_OF_LINE void derive(int kernel, const struct aes_master *master,
                                   const uint8_t *inputs, size_t size, uint8_t *keys, size_t n)
{
    const struct aes_kernel *aes = aes_kernel_of(kernel);
    const size_t key_size = aes_key_size_of(master);
    if (key_size == AES_BLOCK) {
        derive_one_constant(aes, master, AN10922_128, inputs, size, keys, n);
        return;
    }
    const uint8_t constant = key_size == 24 ? AN10922_192 : AN10922_256;
    uint8_t parts[2][CHUNK * AES_BLOCK];
    for (size_t m; n; n -= m) {
        m = n < CHUNK ? n : CHUNK;
        for (int part = 0; part < 2; part++)
            derive_one_constant(aes, master, (uint8_t)(constant + part), inputs, size, parts[part],
                                m);
        /* The second part begins where the key, counted from its end, has room for it: 16 bytes in
         * of 32, 8 in of 24, where the two overlap and are added. */
        for (size_t i = 0; i < m; i++) {
            uint8_t *key = keys + i * key_size;
            memset(key, 0, key_size);
            for (size_t j = 0; j < AES_BLOCK; j++)
                key[j] = parts[0][i * AES_BLOCK + j];
            for (size_t j = 0; j < AES_BLOCK; j++)
                key[key_size - AES_BLOCK + j] ^= parts[1][i * AES_BLOCK + j];
        }
        inputs += m * size;
        keys += m * key_size;
    }
    cpu_wipe(parts, sizeof parts);
}

void an10922_derive_many(int kernel, const struct aes_master *master, const uint8_t *inputs,
                         size_t size, uint8_t *keys, size_t n)
{
    derive(kernel, master, inputs, size, keys, n);
    cpu_forget(AES_STACK + CHUNK * (AN10922_PADDED + 2 * AES_BLOCK));
}
