# The number of the AES kernel asked for by name, or of the best one for None.
cdef int choose(object kernel) except -1
# The same of SHA-256.
cdef int choose_sha256(object kernel) except -1
