"""No core files of a process that holds keys, whoever collects them."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

FILTER = Path("/proc/self/coredump_filter")
PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """From here on a crash leaves nothing behind. OSError if the system refuses.

    The limit alone does not bind a handler that the kernel pipes dumps to; the dumpable flag does,
    and keeps debuggers of the same user out. The filter empties what would be written all the same.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    # First: of a process that cannot be dumped, this file is root's.
    if FILTER.exists():
        FILTER.write_text("0", encoding="ascii")
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
