# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""The locked arena that holds tag masters, the only keys that enter this process's memory."""

import os

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t

from native.errors import Closed


cdef extern from "arena_impl.h":
    int ARENA_CAPACITY_MAX, ARENA_FULL, ARENA_CONFLICT, ARENA_CLOSED, ARENA_NOT_FOUND
    arena *arena_new(size_t capacity) nogil
    void arena_free(arena *arena) nogil
    void arena_close(arena *arena) nogil
    int arena_add(arena *arena, uint32_t realm, uint32_t version, const uint8_t *key) nogil
    int arena_find(arena *arena, uint32_t realm, uint32_t version) nogil
    int arena_count(arena *arena) nogil
    int arena_disable_core_dumps() nogil
    void cpu_wipe(void *buffer, size_t size) nogil
cdef extern from "errno.h":
    int c_errno "errno"


cdef uint32_t number_u32(object value, str name) except? 0xFFFFFFFF:
    if not isinstance(value, int) or not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"{name}: expected a number of 32 bits, got {value!r}")
    return value


@cython.final
cdef class KeyArena:
    """Up to `capacity` (1 to 256) AES-128 tag masters in memory that is never swapped, dumped or inherited by fork.

    A key is known by its realm and version (both u32) and, in the tag index, by its number. No method gives key bytes
    back. Thread-safe. Raises OSError when the system refuses to lock the memory.
    """

    def __cinit__(self, capacity=64):
        if not isinstance(capacity, int) or not 1 <= capacity <= ARENA_CAPACITY_MAX:
            raise ValueError(f"capacity: expected 1 to {ARENA_CAPACITY_MAX}, got {capacity!r}")
        self.arena = arena_new(capacity)
        if self.arena is NULL:
            code = c_errno
            raise OSError(code, f"cannot lock memory for keys ({os.strerror(code)}): raise `ulimit -l`, "
                                "or LimitMEMLOCK of the service's unit")

    def __dealloc__(self):
        arena_free(self.arena)

    def add(self, realm, version, key):
        """Take a key of 16 bytes from a bytearray, which is wiped whatever happens, and return its number.

        The same key again gets the same number. ValueError if this realm and version already hold another key or an
        argument does not fit, MemoryError if the arena is full, native.errors.Closed after close().
        """
        cdef uint8_t *bytes_of_key
        cdef int number
        cdef uint32_t of_realm, of_version
        if not isinstance(key, bytearray):
            raise ValueError(f"key: expected a bytearray, which can be wiped, got {type(key).__name__}")
        bytes_of_key = <uint8_t *>PyByteArray_AS_STRING(key)
        try:
            of_realm = number_u32(realm, "realm")
            of_version = number_u32(version, "version")
            if PyByteArray_GET_SIZE(key) != 16:
                raise ValueError(f"key: expected 16 bytes, got {len(key)}")
            # The GIL is kept: another thread could resize the bytearray. Expanding one key takes microseconds.
            number = arena_add(self.arena, of_realm, of_version, bytes_of_key)
        finally:
            cpu_wipe(bytes_of_key, PyByteArray_GET_SIZE(key))
        if number == ARENA_CLOSED:
            raise Closed("the key arena is closed")
        if number == ARENA_FULL:
            raise MemoryError("the key arena is full: its capacity is the number of keys it was made for")
        if number == ARENA_CONFLICT:
            raise ValueError(f"key: realm {realm} version {version} already holds another key")
        return number

    def find(self, realm, version):
        """The number of the key of this realm and version, or None. native.errors.Closed after close()."""
        cdef uint32_t of_realm = number_u32(realm, "realm")
        cdef uint32_t of_version = number_u32(version, "version")
        cdef int number
        with nogil:  # held meanwhile: the arena's lock, inside the call
            number = arena_find(self.arena, of_realm, of_version)
        if number == ARENA_CLOSED:
            raise Closed("the key arena is closed")
        return None if number == ARENA_NOT_FOUND else number

    def close(self):
        """Wipe every key, after the calls that are using them; again: no effect."""
        with nogil:  # held meanwhile: the arena's lock, inside the call
            arena_close(self.arena)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.close()

    def __len__(self):
        cdef int count
        with nogil:  # held meanwhile: the arena's lock, inside the call
            count = arena_count(self.arena)
        if count == ARENA_CLOSED:
            raise Closed("the key arena is closed")
        return count

    def __repr__(self):
        cdef int count
        with nogil:  # held meanwhile: the arena's lock, inside the call
            count = arena_count(self.arena)
        return "<KeyArena closed>" if count == ARENA_CLOSED else f"<KeyArena of {count} keys>"


def disable_core_dumps():
    """Make this process leave no core file and refuse ptrace by its own user. OSError if the system refuses."""
    if arena_disable_core_dumps():
        raise OSError(c_errno, f"cannot disable core dumps ({os.strerror(c_errno)})")
