/* The hashes of a Merkle tree (RFC 6962 section 2.1) in bulk, over entries as a commit packs them.
 *
 * Packed fields follow each other, each u32 big-endian size ‖ bytes. An entry is two fields, header
 * and events; its leaf is header ‖ SHA-256(events).
 *
 * All kernels return bit-identical results. `kernel` is a bit that cpu_detect_sha256() sets. Arrays
 * are packed rows of 32 bytes; n may be 0.
 */
#ifndef NATIVE_MERKLE_IMPL_H
#define NATIVE_MERKLE_IMPL_H

#include <stddef.h>
#include <stdint.h>

enum { MERKLE_HASH = 32 };
#define MERKLE_MALFORMED SIZE_MAX

/* Where a field's bytes lie in what is packed. */
struct merkle_field {
    uint64_t start, end;
};

/* How many fields there are; MERKLE_MALFORMED if the sizes do not add up to size. */
size_t merkle_count(const uint8_t *packed, size_t size);

/* The fields of what merkle_count has counted, to fields (room for that many). */
void merkle_split(const uint8_t *packed, size_t size, struct merkle_field *fields);

/* Whether start <= end <= size holds for all n. */
int merkle_fields_fit(const struct merkle_field *fields, size_t n, size_t size);

/* SHA-256(00 ‖ header ‖ SHA-256(events)) of n entries, fields 2n that fit -> hashes n*32. */
void merkle_leaves(int kernel, const uint8_t *packed, const struct merkle_field *fields,
                   uint8_t *hashes, size_t n);

/* SHA-256(01 ‖ left ‖ right) of n pairs, children 2n*32 -> parents n*32. The arrays may be the
 * same. */
void merkle_nodes(int kernel, const uint8_t *children, uint8_t *parents, size_t n);

#endif
