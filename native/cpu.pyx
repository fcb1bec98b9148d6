# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""Which kernels this processor can run. All return bit-identical results; they differ in speed only."""

from native.errors import KernelUnavailable


cdef extern from "cpu_impl.h":
    int CPU_KERNEL_COUNT
    unsigned cpu_detect() nogil
    const char *cpu_kernel_name(int kernel) nogil


cdef unsigned detected = cpu_detect()
cdef unsigned usable = detected
cdef tuple names = tuple(cpu_kernel_name(k).decode() for k in range(CPU_KERNEL_COUNT))


cdef int choose(object kernel) except -1:
    cdef int k
    if kernel is None:
        for k in reversed(range(CPU_KERNEL_COUNT)):
            if usable >> k & 1:
                return k
    if kernel not in names:
        raise ValueError(f"kernel: expected one of {', '.join(names)} or None, got {kernel!r}")
    k = names.index(kernel)
    if not usable >> k & 1:
        raise KernelUnavailable(f"kernel {kernel!r} was demanded; this processor has only {', '.join(available())}")
    return k


def available():
    """The kernels that can run here, slowest first; "portable" always can."""
    cdef int k
    return tuple(names[k] for k in range(CPU_KERNEL_COUNT) if usable >> k & 1)


def best():
    """The kernel that is used when none is demanded."""
    return names[choose(None)]


def simulate_absent(kernels):
    """For tests: behave as on a processor without these kernels, from now on, in the whole process.

    An empty collection restores what was detected. "portable" cannot be absent. ValueError for an unknown name.
    """
    global usable
    cdef unsigned mask = detected
    for kernel in kernels:
        if kernel not in names[1:]:
            raise ValueError(f"kernels: expected names among {', '.join(names[1:])}, got {kernel!r}")
        mask &= ~(1u << <int>names.index(kernel))
    usable = mask
