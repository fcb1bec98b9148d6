# The number of the kernel asked for by name, or of the best one for None.
cdef int choose(object kernel) except -1
