/* The peer: OpenSSL's EVP interface, one context re-keyed for every row, as a careful C programmer
 * would use it.
 *
 *   openssl_evp cmac|decrypt|sun FILE COUNT KEY_SIZE ROW_SIZE
 *
 * FILE: COUNT keys, then COUNT rows. `cmac` makes the MAC of each row, `decrypt` runs CBC backwards
 * over it (one block: ECB), `sun` takes UID (7) and counter (3) of it for a session key and a MAC.
 * Prints OpenSSL's version; then, for each line read, the processor's seconds of one pass.
 */
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCK = 16, ROW_MAX = 80 };

struct work {
    size_t n, key_size, row_size;
    const unsigned char *keys, *rows;
    EVP_MAC_CTX *mac;
    EVP_CIPHER_CTX *cipher;
};

static void need(int ok)
{
    if (!ok) {
        fputs("OpenSSL refused a call\n", stderr);
        exit(1);
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void mac_of(EVP_MAC_CTX *ctx, const unsigned char *key, size_t key_size,
                   const unsigned char *message, size_t message_size, unsigned char *mac)
{
    size_t size;
    need(EVP_MAC_init(ctx, key, key_size, NULL));
    if (message_size)
        need(EVP_MAC_update(ctx, message, message_size));
    need(EVP_MAC_final(ctx, mac, &size, BLOCK));
}

static unsigned cmac_pass(const struct work *w)
{
    unsigned char mac[BLOCK];
    unsigned sum = 0;
    for (size_t i = 0; i < w->n; i++) {
        mac_of(w->mac, w->keys + i * w->key_size, w->key_size, w->rows + i * w->row_size,
               w->row_size, mac);
        sum += mac[0];
    }
    return sum;
}

static unsigned decrypt_pass(const struct work *w)
{
    static const unsigned char zeros[BLOCK];
    unsigned char plain[ROW_MAX];
    int size;
    unsigned sum = 0;
    const unsigned char *iv = w->row_size > BLOCK ? zeros : NULL;
    for (size_t i = 0; i < w->n; i++) {
        need(EVP_DecryptInit_ex2(w->cipher, NULL, w->keys + i * w->key_size, iv, NULL));
        need(EVP_DecryptUpdate(w->cipher, plain, &size, w->rows + i * w->row_size,
                               (int)w->row_size));
        need(size == (int)w->row_size);
        sum += plain[0];
    }
    return sum;
}

static unsigned sun_pass(const struct work *w)
{
    unsigned char vector[BLOCK] = {0x3c, 0xc3, 0x00, 0x01, 0x00, 0x80}, mac[BLOCK];
    unsigned sum = 0;
    for (size_t i = 0; i < w->n; i++) {
        memcpy(vector + 6, w->rows + i * w->row_size, 10);
        mac_of(w->mac, w->keys + i * BLOCK, BLOCK, vector, sizeof vector, mac);
        mac_of(w->mac, mac, BLOCK, vector, 0, mac);
        sum += mac[1];
    }
    return sum;
}

static void make_contexts(struct work *w)
{
    char name[] = "AES-128-CBC";
    name[4] = w->key_size == 32 ? '2' : '1';
    memcpy(name + 5, w->key_size == 16 ? "28" : w->key_size == 24 ? "92" : "56", 2);
    const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, name, 0),
                                 OSSL_PARAM_construct_end()};
    static const unsigned char zeros[32];
    w->mac = EVP_MAC_CTX_new(EVP_MAC_fetch(NULL, "CMAC", NULL));
    w->cipher = EVP_CIPHER_CTX_new();
    need(w->mac && w->cipher && EVP_MAC_CTX_set_params(w->mac, params));
    need(EVP_DecryptInit_ex2(w->cipher, w->row_size > BLOCK ? EVP_aes_128_cbc() : EVP_aes_128_ecb(),
                             zeros, zeros, NULL));
    EVP_CIPHER_CTX_set_padding(w->cipher, 0);
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    struct work w = {.n = strtoul(argv[3], NULL, 10),
                     .key_size = strtoul(argv[4], NULL, 10),
                     .row_size = strtoul(argv[5], NULL, 10)};
    const size_t size = w.n * (w.key_size + w.row_size);
    unsigned char *content = malloc(size);
    FILE *file = fopen(argv[2], "rb");
    need(w.row_size <= ROW_MAX && content && file && fread(content, 1, size, file) == size);
    w.keys = content;
    w.rows = content + w.n * w.key_size;
    make_contexts(&w);
    unsigned (*const pass)(const struct work *) = strcmp(argv[1], "cmac") == 0  ? cmac_pass
                                                  : strcmp(argv[1], "sun") == 0 ? sun_pass
                                                                                : decrypt_pass;
    puts(OpenSSL_version(OPENSSL_VERSION));
    fflush(stdout);
    unsigned sum = 0;
    for (char line[16]; fgets(line, sizeof line, stdin);) {
        const double start = now();
        sum += pass(&w);
        printf("%.9f\n", now() - start);
        fflush(stdout);
    }
    return sum == 1; /* the work cannot be optimised away */
}
