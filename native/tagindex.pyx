# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False, autotestdict=False
"""The index of tags: identity → number, scheme, state, key number and highest accepted counter."""

import secrets
from typing import NamedTuple

import numpy as np

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from native.arrays import require


cdef extern from "tagindex_impl.h":
    uint32_t INDEX_NONE, INDEX_CAPACITY_MAX
    int INDEX_ACTIVE, INDEX_FROZEN, INDEX_RETIRED
    cdef struct index_slot:
        uint8_t identity[16]
        uint32_t counter, number
        uint8_t length, scheme, state, key
    index *index_new(uint32_t capacity, uint64_t seed) nogil
    void index_free(index *index) nogil
    void index_read(index *index) nogil
    void index_write(index *index) nogil
    void index_leave(index *index) nogil
    bint index_width_ok(size_t width) nogil
    void index_find_many(index *index, const uint8_t *identities, size_t width, size_t n, uint32_t *numbers) nogil
    index_slot *index_find(index *index, const uint8_t *identity, size_t width) nogil
    index_slot *index_slot_of(index *index, uint32_t number) nogil
    int index_advance(index_slot *slot, uint32_t counter) nogil
    index_slot index_copy_slot(const index_slot *slot) nogil
    bint index_grow_some(index *index, size_t more, uint32_t most) nogil
    uint32_t index_put(index *index, const uint8_t *identity, size_t width, uint8_t scheme, uint8_t state, uint8_t k) nogil
    size_t index_put_many(index *index, const uint8_t *identities, size_t width, const uint8_t *schemes,
                          const uint8_t *states, const uint8_t *keys, size_t n, uint32_t *numbers) nogil
    void index_copy(index *index, uint32_t first, size_t n, uint8_t *identities, uint8_t *lengths, uint8_t *schemes,
                    uint8_t *states, uint8_t *keys) nogil
    void index_set_mark(index *index, uint64_t mark) nogil
    uint64_t index_mark(const index *index) nogil
    uint64_t index_turns(const index *index) nogil
    void index_start_turns(index *index, uint64_t turns) nogil
    void index_copy_counters(index *index, uint32_t first, size_t n, uint32_t *counters) nogil
    uint32_t index_count(const index *index) nogil
    uint32_t index_capacity(const index *index) nogil
    uint64_t index_bytes(const index *index) nogil

cdef enum:
    STEP = 1024  # moved in a tenth or two of a millisecond

ACTIVE, FROZEN, RETIRED = INDEX_ACTIVE, INDEX_FROZEN, INDEX_RETIRED
UNKNOWN = 0xFFFFFFFF


class Tag(NamedTuple):
    """One tag as the index holds it."""

    identity: bytes
    number: int
    scheme: int
    state: int
    key: int
    counter: int


cdef size_t width_of(object identity) except 0:
    if not isinstance(identity, bytes) or not index_width_ok(len(identity)):
        raise ValueError(f"identity: expected bytes of 7, 8, 12 or 16, got {identity!r}")
    return len(identity)


cdef uint64_t bounded(object value, str name, uint64_t low, uint64_t high) except? 0xFFFFFFFFFFFFFFFF:
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name}: expected a number from {low} to {high}, got {value!r}")
    return value


cdef object check_identities(object identities):
    require(identities, "identities", np.uint8, (None, None))
    if not index_width_ok(identities.shape[1]):
        raise ValueError(f"identities: expected rows of 7, 8, 12 or 16 bytes, got {identities.shape[1]}")


cdef void make_room(index *tags, size_t more) noexcept nogil:
    """Before the write lock is taken for so many new tags: in steps, between which everybody goes on."""
    while index_grow_some(tags, more, STEP):
        pass


@cython.final
cdef class TagIndex:
    """A hash index of tags that grows; at most 64 bytes per tag once it has grown past 10,000 tags.

    An identity is 7, 8, 12 or 16 bytes; identities of different length are different tags. Numbers are dense: 0, 1, 2 …
    in order of insertion; no tag is ever removed. capacity: tags that fit before the first growth (memory is taken for
    all of them). seed: 64 bits that key the hash, None for random ones. Thread-safe; every call holds a readers-writer
    lock in C, without the GIL. Who puts a tag that makes it grow waits for all tags to be moved, about 0.2 s per
    million; others wait for a thousand at most. ValueError names what does not fit; MemoryError leaves the index as it
    was.
    """

    def __cinit__(self, capacity=1024, *, seed=None):
        cdef uint32_t tags = <uint32_t>bounded(capacity, "capacity", 1, INDEX_CAPACITY_MAX)
        cdef uint64_t key = secrets.randbits(64) if seed is None else bounded(seed, "seed", 0, 0xFFFFFFFFFFFFFFFF)
        self.index = index_new(tags, key)
        if self.index is NULL:
            raise MemoryError(f"no memory for an index of {capacity} tags")

    def __dealloc__(self):
        index_free(self.index)

    def put(self, identity, scheme, state, key):
        """Insert a tag or replace its scheme, state and key, keeping counter and number. Its number."""
        cdef uint8_t of_scheme = <uint8_t>bounded(scheme, "scheme", 1, 255)
        cdef uint8_t of_state = <uint8_t>bounded(state, "state", INDEX_ACTIVE, INDEX_RETIRED)
        cdef uint8_t of_key = <uint8_t>bounded(key, "key", 0, 255)
        cdef uint32_t number
        cdef size_t width = width_of(identity)
        cdef const uint8_t *at = identity
        with nogil:  # held meanwhile: the index's write lock; the identity through its reference
            make_room(self.index, 1)
            index_write(self.index)
            number = index_put(self.index, at, width, of_scheme, of_state, of_key)
            index_leave(self.index)
        if number == INDEX_NONE:
            raise MemoryError("no memory for another tag")
        return number

    def put_all(self, tags, mark):
        """put() of each (identity, scheme, state, key), of any width, and set `mark`: nobody sees a part of it.

        A MemoryError in the middle keeps the tags before it and the mark as it was.
        """
        cdef uint64_t of_mark = bounded(mark, "mark", 0, 0xFFFFFFFFFFFFFFFF)
        cdef size_t n = len(tags), i, more = 0
        cdef uint32_t number = 0
        identities = np.zeros((n, 16), np.uint8)
        columns = np.empty((n, 4), np.uint8)
        for i, (identity, scheme, state, key) in enumerate(tags):
            identities[i, :width_of(identity)] = np.frombuffer(identity, np.uint8)
            columns[i] = (len(identity), bounded(scheme, "scheme", 1, 255),
                          bounded(state, "state", INDEX_ACTIVE, INDEX_RETIRED), bounded(key, "key", 0, 255))
        cdef const uint8_t[:, ::1] rows = identities, of_tag = columns
        with nogil:  # held meanwhile: the index's read lock, then its write lock; the buffers through their views
            index_read(self.index)
            for i in range(n):
                more += index_find(self.index, &rows[i, 0], of_tag[i, 0]) is NULL
            index_leave(self.index)
            make_room(self.index, more)
            index_write(self.index)
            for i in range(n):
                number = index_put(self.index, &rows[i, 0], of_tag[i, 0], of_tag[i, 1], of_tag[i, 2], of_tag[i, 3])
                if number == INDEX_NONE:
                    break
            if number != INDEX_NONE:
                index_set_mark(self.index, of_mark)
            index_leave(self.index)
        if number == INDEX_NONE:
            raise MemoryError("no memory for another tag")

    @property
    def mark(self):
        """What the tags are as of, as put_all() was told last; 0 before. Verdicts come with the mark they saw."""
        cdef uint64_t mark
        with nogil:  # held meanwhile: the index's read lock
            index_read(self.index)
            mark = index_mark(self.index)
            index_leave(self.index)
        return mark

    @property
    def turns(self):
        """How many batches of schemes with a counter were judged, all together and since ever."""
        return index_turns(self.index)

    def start_turns(self, turns):
        """Count on from `turns`: before any batch is judged."""
        index_start_turns(self.index, bounded(turns, "turns", 0, 0xFFFFFFFFFFFFFFFF))

    def counters(self, first, count):
        """Counters (N,) uint32 of the tags numbered from `first` on, at most `count`. One read lock for all."""
        cdef uint32_t start = <uint32_t>bounded(first, "first", 0, 0xFFFFFFFF)
        cdef size_t most = bounded(count, "count", 0, 0xFFFFFFFF), there = len(self)
        cdef size_t n = min(most, there - start) if start < there else 0
        counters = np.empty(n, np.uint32)
        cdef uint32_t[::1] out = counters
        with nogil:  # held meanwhile: the index's read lock; the buffer through its view
            index_read(self.index)
            index_copy_counters(self.index, start, n, &out[0])
            index_leave(self.index)
        return counters

    def put_many(self, identities, schemes, states, keys):
        """put() of each row: identities (N, W) uint8; schemes, states, keys (N,) uint8. Numbers (N,) uint32.

        One write lock for all. A MemoryError in the middle keeps the rows before it.
        """
        check_identities(identities)
        cdef size_t n = identities.shape[0], width = identities.shape[1], done, i, more = 0
        for name, column in {"schemes": schemes, "states": states, "keys": keys}.items():
            require(column, name, np.uint8, (n,))
        if n and not INDEX_ACTIVE <= states.min() <= states.max() <= INDEX_RETIRED:
            raise ValueError("states: expected ACTIVE (1), FROZEN (2) or RETIRED (3) in every row")
        if n and not schemes.all():
            raise ValueError("schemes: expected 1 to 255 in every row")
        numbers = np.empty(n, np.uint32)
        cdef const uint8_t[:, ::1] rows = identities
        cdef const uint8_t[::1] of_scheme = schemes, of_state = states, of_key = keys
        cdef uint32_t[::1] out = numbers
        with nogil:  # held meanwhile: the index's read lock, then its write lock; the buffers through their views
            index_read(self.index)
            if index_capacity(self.index) - index_count(self.index) < n:
                index_find_many(self.index, &rows[0, 0], width, n, &out[0])
                for i in range(n):
                    more += out[i] == INDEX_NONE
            index_leave(self.index)
            make_room(self.index, more)
            index_write(self.index)
            done = index_put_many(self.index, &rows[0, 0], width, &of_scheme[0], &of_state[0], &of_key[0], n, &out[0])
            index_leave(self.index)
        if done < n:
            raise MemoryError("no memory for another tag")
        return numbers

    def copy(self, first, count):
        """The tags numbered from `first` on, at most `count`, as columns that put_many takes:

        identities (N, 16) uint8, zero-padded; lengths, schemes, states, keys (N,) uint8. One read lock for all. Counters
        stay here: a copy of them would be older than they are as soon as it is made.
        """
        cdef uint32_t start = <uint32_t>bounded(first, "first", 0, 0xFFFFFFFF)
        cdef size_t most = bounded(count, "count", 0, 0xFFFFFFFF), there = len(self)
        cdef size_t n = min(most, there - start) if start < there else 0
        identities = np.empty((n, 16), np.uint8)
        columns = np.empty((4, n), np.uint8)
        cdef uint8_t[:, ::1] rows = identities, out = columns
        with nogil:  # held meanwhile: the index's read lock; the buffers through their views
            index_read(self.index)
            index_copy(self.index, start, n, &rows[0, 0], &out[0, 0], &out[1, 0], &out[2, 0], &out[3, 0])
            index_leave(self.index)
        return identities, *columns

    def set_state(self, identity, state):
        """Change a tag's state; False if the tag is unknown."""
        cdef uint8_t of_state = <uint8_t>bounded(state, "state", INDEX_ACTIVE, INDEX_RETIRED)
        cdef size_t width = width_of(identity)
        cdef const uint8_t *at = identity
        cdef index_slot *slot
        with nogil:  # held meanwhile: the index's write lock; the identity through its reference
            index_write(self.index)
            slot = index_find(self.index, at, width)
            if slot is not NULL:
                slot.state = of_state
            index_leave(self.index)
        return slot is not NULL

    def get(self, identity):
        """The tag, or None."""
        cdef size_t width = width_of(identity)
        cdef const uint8_t *at = identity
        cdef index_slot *slot
        cdef index_slot copy
        with nogil:  # held meanwhile: the index's read lock; the identity through its reference
            index_read(self.index)
            slot = index_find(self.index, at, width)
            if slot is not NULL:
                copy = index_copy_slot(slot)
            index_leave(self.index)
        if slot is NULL:
            return None
        return Tag(identity, copy.number, copy.scheme, copy.state, copy.key, copy.counter)

    def set_counter(self, identity, counter):
        """Raise a tag's counter; False if the tag is unknown or its counter is not lower: it never goes back."""
        cdef uint32_t value = <uint32_t>bounded(counter, "counter", 0, 0xFFFFFFFF)
        cdef size_t width = width_of(identity)
        cdef const uint8_t *at = identity
        cdef index_slot *slot
        cdef bint advanced = False
        with nogil:  # held meanwhile: the index's read lock (counters are atomic); the identity through its reference
            index_read(self.index)
            slot = index_find(self.index, at, width)
            advanced = slot is not NULL and index_advance(slot, value)
            index_leave(self.index)
        return advanced

    def advance_counters(self, numbers, counters):
        """set_counter() by number, for restoring at start: numbers, counters (N,) uint32. How many were raised.

        IndexError if a number is not given out; then the rows before it are done.
        """
        require(numbers, "numbers", np.uint32, (None,))
        require(counters, "counters", np.uint32, (numbers.shape[0],))
        cdef const uint32_t[::1] of_number = numbers, of_counter = counters
        cdef size_t n = numbers.shape[0], i, raised = 0
        cdef index_slot *slot
        cdef bint unknown = False
        with nogil:  # held meanwhile: the index's read lock (counters are atomic); the buffers through their views
            index_read(self.index)
            for i in range(n):
                slot = index_slot_of(self.index, of_number[i])
                if slot is NULL:
                    unknown = True
                    break
                raised += index_advance(slot, of_counter[i])
            index_leave(self.index)
        if unknown:
            raise IndexError(f"numbers: no tag has number {numbers[i]}")
        return raised

    def find_many(self, identities):
        """The number of each identity, UNKNOWN (0xFFFFFFFF) where there is none: (N, W) uint8 → (N,) uint32."""
        check_identities(identities)
        cdef const uint8_t[:, ::1] rows = identities
        numbers = np.empty(identities.shape[0], np.uint32)
        cdef uint32_t[::1] out = numbers
        with nogil:  # held meanwhile: the index's read lock; the buffers through their views
            index_read(self.index)
            index_find_many(self.index, &rows[0, 0], rows.shape[1], rows.shape[0], &out[0])
            index_leave(self.index)
        return numbers

    def identity_of(self, number):
        """The identity that has this number. IndexError if none has."""
        cdef uint32_t wanted = <uint32_t>bounded(number, "number", 0, 0xFFFFFFFF)
        cdef index_slot *slot
        cdef index_slot copy
        with nogil:  # held meanwhile: the index's read lock
            index_read(self.index)
            slot = index_slot_of(self.index, wanted)
            if slot is not NULL:
                copy = index_copy_slot(slot)
            index_leave(self.index)
        if slot is NULL:
            raise IndexError(f"number: no tag has number {number}")
        return copy.identity[:copy.length]

    @property
    def bytes_per_tag(self):
        """Bytes mapped for the table, divided by the tags in it (by 1 when empty)."""
        cdef uint64_t mapped
        with nogil:  # held meanwhile: the index's read lock
            index_read(self.index)
            mapped = index_bytes(self.index)
            index_leave(self.index)
        return mapped / max(len(self), 1)

    def __len__(self):
        cdef uint32_t count
        with nogil:  # held meanwhile: the index's read lock
            index_read(self.index)
            count = index_count(self.index)
            index_leave(self.index)
        return count

    def __repr__(self):
        return f"<TagIndex of {len(self)} tags>"
