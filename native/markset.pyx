# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""A set of 64-bit marks of rows: which versions of rows are the current ones."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy


cdef extern from "markset_impl.h":
    uint64_t MARKSET_CAPACITY_MAX
    cdef struct markset:
        pass
    markset *markset_new(uint64_t capacity) nogil
    void markset_free(markset *set) nogil
    bint markset_add(markset *set, const uint64_t *marks, size_t n) nogil
    size_t markset_remove(markset *set, const uint64_t *marks, size_t n) nogil
    bint markset_contains(const markset *set, uint64_t mark) nogil
    size_t markset_first_missing(const markset *set, const uint64_t *marks, size_t n) nogil
    void markset_dump(const markset *set, uint64_t *marks) nogil
    uint64_t markset_count(const markset *set) nogil
    uint64_t markset_bytes(const markset *set) nogil

SIZE = 8


cdef size_t count_of(object marks) except? 0xFFFFFFFFFFFFFFFF:
    if not isinstance(marks, bytes) or PyBytes_GET_SIZE(marks) % 8:
        raise ValueError("marks: expected bytes, 8 for each mark")
    return PyBytes_GET_SIZE(marks) // 8


# Only the address counts: a bytes object's content begins where a uint64_t may lie.
cdef const uint64_t *words(object marks):
    return <const uint64_t *>PyBytes_AS_STRING(marks)


@cython.final
cdef class MarkSet:
    """Marks of 8 bytes each, any of them as often as it was added; 11.5 to 14.3 bytes of memory for each.

    capacity: marks that fit before the first growth (memory is taken for all of them). Marks have to look like random
    numbers to whoever chooses what is added. One thread at a time: calls keep each other out by the GIL, which each
    gives up for nothing; a growth keeps it for about 10 ms per million marks. MemoryError leaves the set as it was.
    """

    cdef markset *marks

    def __cinit__(self, capacity=0):
        if not isinstance(capacity, int) or not 0 <= capacity <= MARKSET_CAPACITY_MAX:
            raise ValueError(f"capacity: expected 0 to {MARKSET_CAPACITY_MAX}, got {capacity!r}")
        self.marks = markset_new(capacity)
        if self.marks is NULL:
            raise MemoryError(f"no memory for {capacity} marks")

    def __dealloc__(self):
        markset_free(self.marks)

    def add(self, marks):
        """Add all of these, one behind the other."""
        cdef size_t n = count_of(marks)
        if not markset_add(self.marks, words(marks), n):
            raise MemoryError(f"no memory for {n} more marks")

    def remove(self, marks):
        """Take out one of each; how many were not there."""
        cdef size_t n = count_of(marks)
        return markset_remove(self.marks, words(marks), n)

    def first_missing(self, marks):
        """The position of the first that is not there; None if all are."""
        cdef size_t n = count_of(marks)
        cdef size_t at = markset_first_missing(self.marks, words(marks), n)
        return None if at == n else at

    def __contains__(self, row):
        """Whether the mark is there with which these bytes, at least 8, begin."""
        cdef uint64_t mark
        if not isinstance(row, bytes) or PyBytes_GET_SIZE(row) < 8:
            raise ValueError("row: expected bytes, at least 8")
        memcpy(&mark, PyBytes_AS_STRING(row), 8)
        return markset_contains(self.marks, mark)

    def dump(self):
        """All of them, one behind the other, in no order that says anything."""
        out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(markset_count(self.marks) * 8))
        markset_dump(self.marks, <uint64_t *>PyBytes_AS_STRING(out))
        return out

    @property
    def memory_bytes(self):
        """Memory taken."""
        return markset_bytes(self.marks)

    def __len__(self):
        return markset_count(self.marks)
