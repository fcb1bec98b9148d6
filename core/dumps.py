"""No core files of a process that holds keys, whoever collects them."""

from __future__ import annotations

from pathlib import Path

from core.kernels import disable_core_dumps

FILTER = Path("/proc/self/coredump_filter")


def forbid_core_dumps() -> None:
    """From here on a crash leaves nothing behind. OSError if the system refuses.

    The limit alone does not bind a handler that the kernel pipes dumps to; the dumpable flag does,
    and keeps debuggers of the same user out. The filter empties what would be written all the same.
    """
    # First: of a process that cannot be dumped, this file is root's.
    if FILTER.exists():
        FILTER.write_text("0")
    disable_core_dumps()
