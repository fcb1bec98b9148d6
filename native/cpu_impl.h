/* Which kernels of AES and of SHA-256 this processor can run, and the small tools every kernel
 * needs: wiping and comparing secrets.
 *
 * All kernels return bit-identical results; they differ in speed only.
 */
#ifndef NATIVE_CPU_IMPL_H
#define NATIVE_CPU_IMPL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Kernel numbers, worst first: the best available one is the highest bit of cpu_detect(). */
enum cpu_kernel { CPU_PORTABLE = 0, CPU_AESNI = 1, CPU_KERNEL_COUNT = 2 };

/* Bit k is set when this processor, with this build, can run kernel k. Bit CPU_PORTABLE is always
 * set. Constant for the life of the process. */
unsigned cpu_detect(void);

/* The kernel's public name, or NULL if `kernel` is no kernel number. Static storage. */
const char *cpu_kernel_name(int kernel);

/* The same for the kernels of SHA-256. CPU_PORTABLE is 0 among them too. */
enum cpu_sha256_kernel { CPU_SHANI = 1, CPU_SHA256_KERNEL_COUNT = 2 };
unsigned cpu_detect_sha256(void);
const char *cpu_sha256_kernel_name(int kernel);

/* Overwrites size bytes with zeros; the compiler cannot remove it. */
void cpu_wipe(void *buffer, size_t size);

/* Wipes what calls that have returned left behind: the vector registers and the `size` bytes of
 * stack below the caller, at most CPU_STACK_MAX. A compiler keeps copies of secrets wherever it
 * likes in a frame, out of cpu_wipe's reach; so every public function that takes a key has its work
 * done by one that is not inlined and calls this before it returns. */
enum { CPU_STACK_MAX = 96 << 10 };
void cpu_forget(size_t size);
#define CPU_OUT_OF_LINE __attribute__((noinline))

/* What is marked by this may be branched on from here: it was computed from secrets and tells of
 * them only what the caller is told anyway. Does nothing, except in the constant-time test, which
 * runs under valgrind with all secrets marked as undefined. */
#if defined(CPU_CONSTANT_TIME_TEST)
#include <valgrind/memcheck.h>
static inline void cpu_make_public(const void *value, size_t size)
{
    (void)VALGRIND_MAKE_MEM_DEFINED(value, size);
}
#else
static inline void cpu_make_public(const void *value, size_t size)
{
    (void)value;
    (void)size;
}
#endif

/* 1 if the size bytes at a and b are equal, else 0, in time that depends on size alone. Inline:
 * with a constant size it is a few moves. */
static inline uint8_t cpu_equal(const uint8_t *a, const uint8_t *b, size_t size)
{
    uint64_t difference = 0;
    for (; size >= sizeof(uint64_t);
         size -= sizeof(uint64_t), a += sizeof(uint64_t), b += sizeof(uint64_t)) {
        uint64_t x, y;
        memcpy(&x, a, sizeof x);
        memcpy(&y, b, sizeof y);
        difference |= x ^ y;
    }
    for (; size; size--)
        difference |= (uint64_t)(*a++ ^ *b++);
    return (uint8_t)(1 ^ ((difference | (0 - difference)) >> 63));
}

#endif
