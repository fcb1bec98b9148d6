cdef extern from "tagindex_impl.h":
    cdef struct index:
        pass


cdef class TagIndex:
    cdef index *index
