#include "tam1_impl.h"

#include "aes_impl.h"

enum { CHUNK = 64 };

static CPU_OUT_OF_LINE void verify(int kernel, const uint8_t *keys, const uint8_t *challenges,
                                   size_t stride, const uint8_t *responses, uint8_t *outcomes,
                                   size_t n)
{
    const struct aes_kernel *aes = aes_kernel_of(kernel);
    struct tam1_expected expected = tam1_expect(n ? challenges : NULL);
    uint8_t decrypted[CHUNK * AES_BLOCK];
    for (size_t m; n; n -= m) {
        m = n < CHUNK ? n : CHUNK;
        aes->decrypt(keys, responses, 1, decrypted, m);
        if (stride == 0)
            for (size_t i = 0; i < m; i++)
                outcomes[i] = tam1_judge(decrypted + i * AES_BLOCK, expected);
        else
            for (size_t i = 0; i < m; i++) {
                expected = tam1_expect(challenges + i * stride);
                outcomes[i] = tam1_judge(decrypted + i * AES_BLOCK, expected);
            }
        keys += m * AES_BLOCK;
        challenges += m * stride;
        responses += m * AES_BLOCK;
        outcomes += m;
    }
    cpu_wipe(decrypted, sizeof decrypted);
}

void tam1_verify_many(int kernel, const uint8_t *keys, const uint8_t *challenges, size_t stride,
                      const uint8_t *responses, uint8_t *outcomes, size_t n)
{
    verify(kernel, keys, challenges, stride, responses, outcomes, n);
    cpu_forget(AES_STACK + CHUNK * AES_BLOCK);
}
