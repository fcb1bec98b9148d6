#include "cpu_impl.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const kernel_names[CPU_KERNEL_COUNT] = {"portable", "aesni"};
static const char *const sha256_kernel_names[CPU_SHA256_KERNEL_COUNT] = {"portable", "shani"};

unsigned cpu_detect(void)
{
    unsigned mask = 1u << CPU_PORTABLE;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("aes") && __builtin_cpu_supports("sse4.1") &&
        __builtin_cpu_supports("ssse3"))
        mask |= 1u << CPU_AESNI;
#endif
    return mask;
}

const char *cpu_kernel_name(int kernel)
{
    return kernel >= 0 && kernel < CPU_KERNEL_COUNT ? kernel_names[kernel] : NULL;
}

unsigned cpu_detect_sha256(void)
{
    unsigned mask = 1u << CPU_PORTABLE;
#if defined(__x86_64__)
    /* Not every compiler's __builtin_cpu_supports() knows "sha": leaf 7, EBX bit 29. */
    enum { SHA = 1 << 29 };
    unsigned a, b, c, d;
    __builtin_cpu_init();
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & SHA) && __builtin_cpu_supports("sse4.1") &&
        __builtin_cpu_supports("ssse3"))
        mask |= 1u << CPU_SHANI;
#endif
    return mask;
}

const char *cpu_sha256_kernel_name(int kernel)
{
    return kernel >= 0 && kernel < CPU_SHA256_KERNEL_COUNT ? sha256_kernel_names[kernel] : NULL;
}

void cpu_wipe(void *buffer, size_t size)
{
    if (size == 0)
        return;
    memset(buffer, 0, size);
    /* The compiler must believe that somebody reads the zeros. */
    __asm__ __volatile__("" : : "r"(buffer) : "memory");
}
