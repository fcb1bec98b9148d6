#include "merkle_impl.h"

#include <string.h>

#include "sha256_impl.h"

enum { PREFIX = 4 };

static size_t size_at(const uint8_t *packed)
{
    return (size_t)packed[0] << 24 | (size_t)packed[1] << 16 | (size_t)packed[2] << 8 | packed[3];
}

size_t merkle_count(const uint8_t *packed, size_t size)
{
    size_t count = 0;
    for (size_t at = 0; at < size; count++) {
        if (size - at < PREFIX || size - at - PREFIX < size_at(packed + at))
            return MERKLE_MALFORMED;
        at += PREFIX + size_at(packed + at);
    }
    return count;
}

void merkle_split(const uint8_t *packed, size_t size, struct merkle_field *fields)
{
    for (size_t at = 0; at < size; fields++) {
        fields->start = at + PREFIX;
        at = fields->end = at + PREFIX + size_at(packed + at);
    }
}

int merkle_fields_fit(const struct merkle_field *fields, size_t n, size_t size)
{
    for (size_t i = 0; i < n; i++)
        if (fields[i].start > fields[i].end || fields[i].end > size)
            return 0;
    return 1;
}

static void add_field(struct sha256 *message, const uint8_t *packed,
                      const struct merkle_field *field)
{
    sha256_add(message, packed + field->start, (size_t)(field->end - field->start));
}

void merkle_leaves(int kernel, const uint8_t *packed, const struct merkle_field *fields,
                   uint8_t *hashes, size_t n)
{
    static const uint8_t leaf = 0;
    sha256_compress *compress = sha256_compress_of(kernel);
    struct sha256 message;
    uint8_t events[SHA256_SIZE];
    for (; n; n--, fields += 2, hashes += MERKLE_HASH) {
        sha256_begin(&message, compress);
        add_field(&message, packed, &fields[1]);
        sha256_end(&message, events);
        sha256_begin(&message, compress);
        sha256_add(&message, &leaf, 1);
        add_field(&message, packed, &fields[0]);
        sha256_add(&message, events, SHA256_SIZE);
        sha256_end(&message, hashes);
    }
}

void merkle_nodes(int kernel, const uint8_t *children, uint8_t *parents, size_t n)
{
    static const uint8_t node = 1;
    sha256_compress *compress = sha256_compress_of(kernel);
    struct sha256 message;
    for (; n; n--, children += 2 * MERKLE_HASH, parents += MERKLE_HASH) {
        sha256_begin(&message, compress);
        sha256_add(&message, &node, 1);
        sha256_add(&message, children, 2 * MERKLE_HASH);
        sha256_end(&message, parents);
    }
}
