from libc.stdint cimport uint8_t, uint32_t

cdef extern from "arena_impl.h":
    cdef struct arena:
        pass


cdef class KeyArena:
    cdef arena *arena
