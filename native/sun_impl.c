#include "sun_impl.h"

#include "aes_impl.h"
#include "cmac_impl.h"

enum { CHUNK = 64 };

static CPU_OUT_OF_LINE void verify(int kernel, const uint8_t *keys, const uint8_t *uids,
                                   const uint8_t *evidence, uint8_t *right, size_t n)
{
    const struct aes_kernel *aes = aes_kernel_of(kernel);
    uint8_t vectors[CHUNK * AES_BLOCK], sessions[CHUNK * AES_BLOCK], macs[CHUNK * AES_BLOCK];
    uint8_t odd[SUN_MAC];
    for (size_t m; n; n -= m) {
        m = n < CHUNK ? n : CHUNK;
        for (size_t i = 0; i < m; i++)
            sun_vector(uids + i * SUN_UID, evidence + i * SUN_EVIDENCE, vectors + i * AES_BLOCK);
        aes->cmac(keys, AES_BLOCK, vectors, AES_BLOCK, sessions, m);
        aes->cmac(sessions, AES_BLOCK, vectors, 0, macs, m);
        for (size_t i = 0; i < m; i++) {
            cmac_take_odd(macs + i * AES_BLOCK, odd);
            right[i] = cpu_equal(odd, evidence + i * SUN_EVIDENCE + SUN_COUNTER, SUN_MAC);
        }
        keys += m * AES_BLOCK;
        uids += m * SUN_UID;
        evidence += m * SUN_EVIDENCE;
        right += m;
    }
    cpu_wipe(sessions, sizeof sessions);
    cpu_wipe(macs, sizeof macs);
    cpu_wipe(odd, sizeof odd);
}

void sun_verify_many(int kernel, const uint8_t *keys, const uint8_t *uids, const uint8_t *evidence,
                     uint8_t *right, size_t n)
{
    verify(kernel, keys, uids, evidence, right, n);
    cpu_forget(AES_STACK + 3 * CHUNK * AES_BLOCK);
}
