"""What can be seen from outside of whether a process leaves a core file."""

from __future__ import annotations

import os
import re
from pathlib import Path

# Whom a process's files in /proc belong to says whether it can be dumped: itself, or root. Of root's own
# processes that shows only by their group, so they are started in another one.
OTHER_GROUP = 65534 if os.geteuid() == 0 else None


def is_dumpable(pid: int) -> bool:
    """Of a process that is not root's, or was started in `OTHER_GROUP`."""
    owner = Path(f"/proc/{pid}/mem").stat()
    return (owner.st_uid, owner.st_gid) != (0, 0)


def core_limits(pid: int) -> tuple[str, str]:
    """Soft and hard."""
    limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
    found = re.search(r"^Max core file size +(\S+) +(\S+)", limits, re.MULTILINE)
    assert found
    return found[1], found[2]


def core_filter(pid: int) -> int:
    return int(Path(f"/proc/{pid}/coredump_filter").read_text(encoding="ascii"), 16)
