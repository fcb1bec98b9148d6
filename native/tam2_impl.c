#include "tam2_impl.h"

#include <string.h>

#include "aes_impl.h"

enum { CHUNK = 64 };

static CPU_OUT_OF_LINE void verify(int kernel, const uint8_t *keys, const uint8_t *challenges,
                                   size_t stride, const uint8_t *responses, size_t blocks,
                                   uint8_t *outcomes, uint8_t *data, size_t n)
{
    const struct aes_kernel *aes = aes_kernel_of(kernel);
    const size_t size = tam2_response_size(blocks), data_size = blocks * TAM2_BLOCK;
    struct tam1_expected expected = tam1_expect(n ? challenges : NULL);
    uint8_t out[CHUNK * TAM2_RESPONSE_MAX];
    for (size_t m; n; n -= m) {
        m = n < CHUNK ? n : CHUNK;
        aes->decrypt(keys, responses, 1 + blocks, out, m);
        for (size_t i = 0; i < m; i++) {
            if (stride)
                expected = tam1_expect(challenges + i * stride);
            outcomes[i] = tam1_judge(out + i * size, expected);
            for (size_t at = 0; at < data_size; at += TAM2_BLOCK)
                tam2_take(out + i * size + TAM2_BLOCK + at, responses + i * size + at,
                          outcomes[i] == TAM1_RIGHT, data + i * data_size + at);
        }
        keys += m * AES_BLOCK;
        challenges += m * stride;
        responses += m * size;
        outcomes += m;
        data += m * data_size;
    }
    cpu_wipe(out, sizeof out);
}

void tam2_verify_many(int kernel, const uint8_t *keys, const uint8_t *challenges, size_t stride,
                      const uint8_t *responses, size_t blocks, uint8_t *outcomes, uint8_t *data,
                      size_t n)
{
    verify(kernel, keys, challenges, stride, responses, blocks, outcomes, data, n);
    cpu_forget(AES_STACK + CHUNK * TAM2_RESPONSE_MAX);
}
