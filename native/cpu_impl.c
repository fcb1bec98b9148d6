#include "cpu_impl.h"

#include <string.h>

static const char *const kernel_names[CPU_KERNEL_COUNT] = {"portable", "aesni"};

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

void cpu_wipe(void *buffer, size_t size)
{
    if (size == 0)
        return;
    memset(buffer, 0, size);
    /* The compiler must believe that somebody reads the zeros. */
    __asm__ __volatile__("" : : "r"(buffer) : "memory");
}
