/* What the fuzz targets share: input taken piece by piece, buffers of exactly the promised size,
 * and an end that the fuzzer counts as a finding. */
#ifndef FUZZ_COMMON_H
#define FUZZ_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu_impl.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#define EACH_KERNEL(k)                                                                             \
    for (int k = 0; k < CPU_KERNEL_COUNT; k++)                                                     \
        if (cpu_detect() >> k & 1)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *at;
    size_t left;
};

/* A byte of the input, 0 behind its end. */
static inline uint8_t take_byte(struct input *input)
{
    if (!input->left)
        return 0;
    input->left--;
    return *input->at++;
}

static inline size_t below(struct input *input, size_t bound)
{
    const size_t high = take_byte(input);
    return (high << 8 | take_byte(input)) % bound;
}

static inline void *exactly(size_t size)
{
    void *bytes = malloc(size);
    CHECK(bytes || size == 0);
    return bytes;
}

/* The next size bytes; what is missing is zero. */
static inline uint8_t *take(struct input *input, size_t size)
{
    uint8_t *bytes = exactly(size);
    const size_t there = size < input->left ? size : input->left;
    if (size)
        memset(bytes, 0, size);
    if (there)
        memcpy(bytes, input->at, there);
    input->at += there;
    input->left -= there;
    return bytes;
}

/* All kernels give the same: keeps the first output, compares and frees the others. */
static inline uint8_t *same(uint8_t *first, uint8_t *next, size_t size)
{
    if (!first)
        return next;
    CHECK(size == 0 || memcmp(first, next, size) == 0);
    free(next);
    return first;
}

#endif
