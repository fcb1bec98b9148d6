/* Any bytes as a packed commit: refused, or split into fields that lie in it and hashed alike by
 * all kernels, an entry's leaf as one message that is put together here.
 */
#include "common.h"

#include "merkle_impl.h"
#include "sha256_impl.h"

static void hash(const uint8_t *bytes, size_t size, uint8_t *digest)
{
    struct sha256 message;
    sha256_begin(&message, sha256_compress_portable);
    sha256_add(&message, bytes, size);
    sha256_end(&message, digest);
}

static void check_leaf(const uint8_t *packed, const struct merkle_field *fields,
                       const uint8_t *leaf)
{
    const size_t header = (size_t)(fields[0].end - fields[0].start);
    uint8_t *whole = exactly(1 + header + MERKLE_HASH), digest[MERKLE_HASH];
    whole[0] = 0;
    memcpy(whole + 1, packed + fields[0].start, header);
    hash(packed + fields[1].start, (size_t)(fields[1].end - fields[1].start), whole + 1 + header);
    hash(whole, 1 + header + MERKLE_HASH, digest);
    CHECK(memcmp(digest, leaf, MERKLE_HASH) == 0);
    free(whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *packed = exactly(size);
    if (size)
        memcpy(packed, data, size);
    const size_t count = merkle_count(packed, size);
    if (count == MERKLE_MALFORMED || count % 2) {
        free(packed);
        return 0;
    }
    const size_t n = count / 2;
    struct merkle_field *fields = exactly(count * sizeof *fields);
    merkle_split(packed, size, fields);
    CHECK(merkle_fields_fit(fields, count, size));
    uint8_t *leaves = NULL, *nodes = NULL;
    for (int k = 0; k < CPU_SHA256_KERNEL_COUNT; k++)
        if (cpu_detect_sha256() >> k & 1) {
            uint8_t *mine = exactly(n * MERKLE_HASH), *above = exactly(n / 2 * MERKLE_HASH);
            merkle_leaves(k, packed, fields, mine, n);
            merkle_nodes(k, mine, above, n / 2);
            leaves = same(leaves, mine, n * MERKLE_HASH);
            nodes = same(nodes, above, n / 2 * MERKLE_HASH);
        }
    for (size_t i = 0; i < n; i++)
        check_leaf(packed, fields + 2 * i, leaves + i * MERKLE_HASH);
    free(nodes);
    free(leaves);
    free(fields);
    free(packed);
    return 0;
}
