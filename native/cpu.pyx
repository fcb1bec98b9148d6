# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""Which kernels this processor can run. All return bit-identical results; they differ in speed only."""

from native.errors import KernelUnavailable


cdef extern from "cpu_impl.h":
    int CPU_KERNEL_COUNT, CPU_SHA256_KERNEL_COUNT
    unsigned cpu_detect() nogil
    const char *cpu_kernel_name(int kernel) nogil
    unsigned cpu_detect_sha256() nogil
    const char *cpu_sha256_kernel_name(int kernel) nogil


cdef unsigned detected = cpu_detect(), detected_sha256 = cpu_detect_sha256()
cdef unsigned usable = detected, usable_sha256 = detected_sha256
cdef tuple names = tuple(cpu_kernel_name(k).decode() for k in range(CPU_KERNEL_COUNT))
cdef tuple sha256_names = tuple(cpu_sha256_kernel_name(k).decode() for k in range(CPU_SHA256_KERNEL_COUNT))


cdef int pick(object kernel, tuple known, unsigned mask) except -1:
    cdef int k
    if kernel is None:
        for k in reversed(range(len(known))):
            if mask >> k & 1:
                return k
    if kernel not in known:
        raise ValueError(f"kernel: expected one of {', '.join(known)} or None, got {kernel!r}")
    k = known.index(kernel)
    if not mask >> k & 1:
        raise KernelUnavailable(f"kernel {kernel!r} was demanded; this processor has only {', '.join(listed(known, mask))}")
    return k


cdef tuple listed(tuple known, unsigned mask):
    return tuple([known[k] for k in range(len(known)) if mask >> k & 1])


cdef int choose(object kernel) except -1:
    return pick(kernel, names, usable)


cdef int choose_sha256(object kernel) except -1:
    return pick(kernel, sha256_names, usable_sha256)


def available(algorithm="aes"):
    """The kernels that can run here, slowest first; "portable" always can. algorithm: "aes" or "sha256"."""
    if algorithm not in ("aes", "sha256"):
        raise ValueError(f"algorithm: expected 'aes' or 'sha256', got {algorithm!r}")
    return listed(names, usable) if algorithm == "aes" else listed(sha256_names, usable_sha256)


def best(algorithm="aes"):
    """The kernel that is used when none is demanded."""
    cdef tuple usable_names = available(algorithm)
    return usable_names[len(usable_names) - 1]


def simulate_absent(kernels):
    """For tests: behave as on a processor without these kernels, from now on, in the whole process.

    An empty collection restores what was detected. "portable" cannot be absent. ValueError for an unknown name.
    """
    global usable, usable_sha256
    cdef unsigned mask = detected, mask_sha256 = detected_sha256
    known = names[1:] + sha256_names[1:]
    for kernel in kernels:
        if kernel not in known:
            raise ValueError(f"kernels: expected names among {', '.join(known)}, got {kernel!r}")
        if kernel in names:
            mask &= ~(1u << <int>names.index(kernel))
        else:
            mask_sha256 &= ~(1u << <int>sha256_names.index(kernel))
    usable, usable_sha256 = mask, mask_sha256
