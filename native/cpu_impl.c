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

/* Those of the build's baseline; no kernel uses others. */
static void wipe_vector_registers(void)
{
#if defined(__x86_64__)
#define ZERO(n) "pxor %%xmm" #n ", %%xmm" #n "\n\t"
    __asm__ __volatile__(ZERO(0) ZERO(1) ZERO(2) ZERO(3) ZERO(4) ZERO(5) ZERO(6) ZERO(7) ZERO(8)
                             ZERO(9) ZERO(10) ZERO(11) ZERO(12) ZERO(13) ZERO(14) ZERO(15)
                         :
                         :
                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                           "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#undef ZERO
#endif
}

CPU_OUT_OF_LINE void cpu_forget(size_t size)
{
    /* The stack grows towards lower addresses, so the array's end is next to the caller's frame. */
    uint8_t dead[CPU_STACK_MAX];
    wipe_vector_registers();
    cpu_wipe(dead + sizeof dead - size, size);
}
