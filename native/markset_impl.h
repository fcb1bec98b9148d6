/* A set of 64-bit marks that keeps duplicates: open addressing, linear probing, 8 bytes a slot.
 *
 * Marks are outputs of a keyed function, so that they need no hash of their own. At most 7/10 full,
 * then grown by a quarter: 11.5 to 14.3 bytes a mark once there are some thousands. One thread at a
 * time: the caller sees to it.
 */
#ifndef NATIVE_MARKSET_IMPL_H
#define NATIVE_MARKSET_IMPL_H

#include <stddef.h>
#include <stdint.h>

#define MARKSET_CAPACITY_MAX ((uint64_t)1 << 40)

struct markset;

/* A new set that takes `capacity` (at most MARKSET_CAPACITY_MAX) marks before it grows; NULL when
 * memory is refused. */
struct markset *markset_new(uint64_t capacity);
void markset_free(struct markset *set); /* NULL is allowed */

/* Adds n marks, each as often as it comes. 1, or 0 when memory is refused: then nothing changed. */
int markset_add(struct markset *set, const uint64_t *marks, size_t n);

/* Removes n marks, each once for every time it comes; how many of them were not there. */
size_t markset_remove(struct markset *set, const uint64_t *marks, size_t n);

int markset_contains(const struct markset *set, uint64_t mark);

/* The first of n marks that is not there, n if all are. Whether one is there twice is not asked. */
size_t markset_first_missing(const struct markset *set, const uint64_t *marks, size_t n);

/* All marks (markset_count of them), in no order that says anything. */
void markset_dump(const struct markset *set, uint64_t *marks);

/* Marks held; bytes of memory taken. */
uint64_t markset_count(const struct markset *set);
uint64_t markset_bytes(const struct markset *set);

#endif
