/* The peer: OpenSSL's EVP interface, re-keyed for every row, as a careful C programmer would use
 * it.
 *
 *   openssl_evp cmac|tam1 FILE COUNT     FILE: COUNT keys of 16 bytes, then COUNT blocks of 16
 *
 * Prints OpenSSL's version, then seconds of each of seven passes.
 */
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCK = 16, PASSES = 7 };

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
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static unsigned cmac_pass(EVP_MAC_CTX *ctx, const unsigned char *keys, const unsigned char *blocks,
                          size_t n)
{
    unsigned char mac[BLOCK];
    size_t size;
    unsigned sum = 0;
    for (size_t i = 0; i < n; i++) {
        need(EVP_MAC_init(ctx, keys + i * BLOCK, BLOCK, NULL));
        need(EVP_MAC_update(ctx, blocks + i * BLOCK, BLOCK));
        need(EVP_MAC_final(ctx, mac, &size, sizeof mac));
        sum += mac[0];
    }
    return sum;
}

static unsigned tam1_pass(EVP_CIPHER_CTX *ctx, const unsigned char *keys,
                          const unsigned char *blocks, size_t n)
{
    unsigned char plain[BLOCK];
    int size;
    unsigned sum = 0;
    for (size_t i = 0; i < n; i++) {
        need(EVP_DecryptInit_ex2(ctx, NULL, keys + i * BLOCK, NULL, NULL));
        need(EVP_DecryptUpdate(ctx, plain, &size, blocks + i * BLOCK, BLOCK));
        sum += plain[0];
    }
    return sum;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    const size_t n = strtoul(argv[3], NULL, 10);
    unsigned char *rows = malloc(2 * n * BLOCK);
    FILE *file = fopen(argv[2], "rb");
    need(rows && file && fread(rows, BLOCK, 2 * n, file) == 2 * n);
    EVP_MAC_CTX *mac = EVP_MAC_CTX_new(EVP_MAC_fetch(NULL, "CMAC", NULL));
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    char name[] = "AES-128-CBC";
    const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, name, 0),
                                 OSSL_PARAM_construct_end()};
    need(mac && cipher && EVP_MAC_CTX_set_params(mac, params));
    need(EVP_DecryptInit_ex2(cipher, EVP_aes_128_ecb(), rows, NULL, NULL));
    EVP_CIPHER_CTX_set_padding(cipher, 0);
    puts(OpenSSL_version(OPENSSL_VERSION));
    unsigned sum = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        const double start = now();
        sum += strcmp(argv[1], "cmac") == 0 ? cmac_pass(mac, rows, rows + n * BLOCK, n)
                                            : tam1_pass(cipher, rows, rows + n * BLOCK, n);
        printf("%.9f\n", now() - start);
    }
    return sum == 0; /* the work cannot be optimised away */
}
