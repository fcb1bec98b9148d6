"""Files beside the databases: names that survive a power cut, and one owner at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from core.errors import LedgerInUse

# In the directory of an LMDB environment.
DATA_FILE: Final = "data.mdb"
# In a ledger's directory.
OWNER_FILE: Final = "owner.lock"
_SOUND, _SUSPECT = b"\x00", b"\x01"


def sync_directory(path: Path) -> None:
    """The names in this directory survive a power cut from now on."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What the system says of an open file names the file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_all(descriptor: int, content: bytes) -> None:
    """All of it: a write to a disk that is nearly full takes a part and says so by its count alone."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


class OwnerFile:
    """Held by the one process that has a store open; its one byte says how that process left it.

    The byte is there from the start and only overwritten, so that it can be set on a full disk too.
    """

    def __init__(self, path: Path) -> None:
        """Take it. LedgerInUse if another process has it. A store that is there without it is suspect:
        what its last owner knew is lost.
        """
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._descriptor).st_size:
                self.mark_suspect((path.parent / DATA_FILE).exists())
                sync_directory(path.parent)
        except BlockingIOError:
            self.release()
            where = f"{path.parent}: another process has this ledger open"
            raise LedgerInUse(where) from None
        except BaseException:
            self.release()
            raise

    @property
    def suspect(self) -> bool:
        """Whether the last owner did not know what came of its last write."""
        return os.pread(self._descriptor, 1, 0) != _SOUND

    def mark_suspect(self, suspect: bool) -> None:
        """Say so; it survives a power cut on return."""
        with naming(self._path):
            os.pwrite(self._descriptor, _SUSPECT if suspect else _SOUND, 0)
            os.fsync(self._descriptor)

    def release(self) -> None:
        """Let another have it. Safe to call twice."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
