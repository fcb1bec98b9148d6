/* Blocks, CMAC, derivation and the schemes' bulk functions: any sizes, all kernels alike. */
#include "common.h"

#include "aes_impl.h"
#include "an10922_impl.h"
#include "cmac_impl.h"
#include "sun_impl.h"
#include "tam1_impl.h"
#include "tam2_impl.h"

/* The tools that the kernels share, against the plain way to say the same. */
static void use_tools(const struct aes_master *master, const uint8_t *input, size_t size)
{
    static const uint8_t none[AN10922_INPUT_MAX];
    uint8_t model[AN10922_PADDED], padded[AN10922_PADDED], filled[AN10922_PADDED];
    an10922_pad(master, AN10922_128, none, size, model);
    an10922_pad(master, AN10922_128, input, size, padded);
    an10922_fill(model, input, size, filled);
    CHECK(memcmp(padded, filled, sizeof padded) == 0);
    uint8_t *copy = exactly(size);
    memcpy(copy, input, size);
    CHECK(cpu_equal(copy, input, size) == 1);
    copy[size - 1] ^= 0x80;
    CHECK(cpu_equal(copy, input, size) == 0);
    cpu_wipe(copy, size);
    cpu_forget(size); /* nothing of this frame */
    CHECK(memcmp(copy, none, size) == 0);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    const size_t n = below(&input, 40), key_size = 16 + 8 * below(&input, 3);
    const size_t length = below(&input, 70), blocks = 1 + below(&input, TAM2_BLOCKS_MAX);
    const size_t mac_size = 4 + below(&input, 13), given = 1 + below(&input, AN10922_INPUT_MAX);
    const size_t stride = below(&input, 2) * TAM1_CHALLENGE;
    uint8_t *master_key = take(&input, key_size), *keys = take(&input, n * key_size);
    uint8_t *messages = take(&input, n * length), *macs = take(&input, n * mac_size);
    uint8_t *odd = take(&input, n * CMAC_ODD_SIZE), *inputs = take(&input, n * given);
    uint8_t *challenges = take(&input, stride ? n * stride : TAM1_CHALLENGE);
    uint8_t *responses = take(&input, n * tam2_response_size(blocks));
    uint8_t *uids = take(&input, n * SUN_UID), *sun = take(&input, n * SUN_EVIDENCE);
    uint8_t *pairs = take(&input, n * 32), *narrow = take(&input, n * 16);
    enum { OUTPUTS = 11 };
    const size_t sizes[OUTPUTS] = {16, 16, 16, 16, key_size, 1, 1, 1, 1, 16 * blocks, 1};
    uint8_t *first[OUTPUTS] = {0};
    struct aes_master *master = exactly(sizeof *master);
    aes_master_init(master, master_key, key_size);
    if (n)
        use_tools(master, inputs, given);
    EACH_KERNEL(k)
    {
        const struct aes_kernel *aes = aes_kernel_of(k);
        uint8_t *out[OUTPUTS], *back = exactly(n * 16);
        for (int i = 0; i < OUTPUTS; i++)
            out[i] = exactly(n * sizes[i]);
        aes->encrypt(narrow, pairs, out[0], n);
        aes->decrypt(narrow, pairs, 1, out[1], n);
        aes->cbc_two(master, pairs, out[2], n);
        cmac_many(k, keys, key_size, messages, length, out[3], n);
        an10922_derive_many(k, master, inputs, given, out[4], n);
        cmac_verify_many(k, keys, key_size, messages, length, macs, mac_size, CMAC_LEFT, out[5], n);
        cmac_verify_many(k, keys, key_size, messages, length, odd, CMAC_ODD_SIZE, CMAC_ODD, out[6],
                         n);
        tam1_verify_many(k, narrow, challenges, stride, narrow, out[7], n);
        tam2_verify_many(k, narrow, challenges, stride, responses, blocks, out[8], out[9], n);
        sun_verify_many(k, narrow, uids, sun, out[10], n);
        aes->decrypt(narrow, out[0], 1, back, n);
        CHECK(n == 0 || memcmp(back, pairs, n * 16) == 0);
        free(back);
        for (int i = 0; i < OUTPUTS; i++)
            first[i] = same(first[i], out[i], n * sizes[i]);
    }
    for (int i = 0; i < OUTPUTS; i++)
        free(first[i]);
    uint8_t *taken[] = {master_key, keys,      messages, macs, odd,   inputs,
                        challenges, responses, uids,     sun,  pairs, narrow};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        free(taken[i]);
    free(master);
    return 0;
}
