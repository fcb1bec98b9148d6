"""Memory for the keys that open everybody's personal values: locked, never dumped, empty after a fork.

The native arena holds tag masters, which its kernels use by number and nobody ever gets back; these
keys are handed to a library for the time of one call, so they lie in a buffer of their own.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final

from core.errors import KeyFileError

# Linux's numbers; Python names the first only.
_DONTDUMP: Final = getattr(mmap, "MADV_DONTDUMP", 16)
_WIPEONFORK: Final = 18


class LockedBytes:
    """So many bytes that are never swapped. `view` is written and read in place."""

    def __init__(self, size: int) -> None:
        """KeyFileError if the system refuses to lock them."""
        self._size = size
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # Unlocked by the system with the mapping; the pointer is not kept, it would hold that.
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)):
            why = os.strerror(ctypes.get_errno())
            raise KeyFileError(
                f"cannot lock memory for keys ({why}): raise `ulimit -l`, or LimitMEMLOCK of the "
                "service's unit"
            )
        self._map.madvise(_DONTDUMP)
        self._map.madvise(_WIPEONFORK)

    @property
    def view(self) -> memoryview:
        """The bytes themselves, not a copy."""
        return memoryview(self._map)[: self._size]

    def wipe(self) -> None:
        """Overwrite with zeros."""
        self._map[: self._size] = bytes(self._size)
