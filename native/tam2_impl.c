#include "tam2_impl.h"

#include <string.h>

#include "aes_impl.h"

enum { CHUNK = 64 };

void tam2_verify_many(int kernel, const uint8_t *keys, const uint8_t *challenges, size_t stride,
                      const uint8_t *responses, size_t blocks, uint8_t *outcomes, uint8_t *data,
                      size_t n)
{
    const struct aes_kernel *aes = aes_kernel_of(kernel);
    const size_t size = tam2_response_size(blocks), data_size = blocks * TAM2_BLOCK;
    uint8_t in[CHUNK * TAM2_BLOCK], out[CHUNK * TAM2_BLOCK];
    for (size_t m; n; n -= m) {
        m = n < CHUNK ? n : CHUNK;
        for (size_t block = 0; block <= blocks; block++) {
            for (size_t i = 0; i < m; i++)
                memcpy(in + i * TAM2_BLOCK, responses + i * size + block * TAM2_BLOCK, TAM2_BLOCK);
            aes->decrypt(keys, in, out, m);
            for (size_t i = 0; i < m; i++) {
                if (block == 0)
                    outcomes[i] = tam1_judge(out + i * TAM2_BLOCK, challenges + i * stride);
                else
                    tam2_take(out + i * TAM2_BLOCK, responses + i * size + (block - 1) * TAM2_BLOCK,
                              outcomes[i] == TAM1_RIGHT,
                              data + i * data_size + (block - 1) * TAM2_BLOCK);
            }
        }
        keys += m * AES_BLOCK;
        challenges += m * stride;
        responses += m * size;
        outcomes += m;
        data += m * data_size;
    }
    cpu_wipe(out, sizeof out);
}
