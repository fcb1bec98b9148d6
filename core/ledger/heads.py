"""The two heads of an LMDB file, and the number of its newest commit beside it.

LMDB takes the head that has the higher number and looks at nothing else: with one bit of it flipped the
newest commit would be gone, and everything in order. So before it is opened, its heads have to be those
of two commits that follow each other, and no older than the number in the file `newest`.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from core.errors import LedgerCorrupt
from core.files import DATA_FILE, naming, sync_directory

NEWEST_FILE: Final = "newest"
# The beginning of each of the first two pages: LMDB's magic and version, size of a page, number of the
# transaction.
_HEAD: Final = struct.Struct("=16xII16xI100xQ")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE_MIN, _PAGE_MAX = 256, 65_536
# The number, and its complement.
_NUMBER: Final = struct.Struct("<QQ")
_ALL_ONES: Final = 2**64 - 1


def verify_heads(path: Path, where: str) -> None:
    """LedgerCorrupt unless the heads of the environment in a directory, if there is one, are as its last
    owner left them. For the one process that may write to it.
    """
    numbers = _numbers(path / DATA_FILE, where)
    if numbers is None:
        return
    newest = NewestCommit.read(path)
    # Commits write the two in turns; of a new file both are of none.
    follow = numbers[0] % 2 == 0 and numbers[1] % 2 == 1 and abs(numbers[0] - numbers[1]) == 1
    if not follow and numbers != (0, 0):
        what = f"its heads are of transactions {numbers[0]} and {numbers[1]}: one was altered"
        raise LedgerCorrupt(where, what)
    if max(numbers) < newest:
        what = f"is of transaction {max(numbers)}, and the last one acknowledged was {newest}"
        raise LedgerCorrupt(where, f"{what}: an older copy was put back, see docs/operations.md")


def _numbers(file: Path, where: str) -> tuple[int, int] | None:
    """Of the transactions; None if there is nothing yet, or it is of a version that LMDB has to judge."""
    try:
        with file.open("rb") as opened:
            first = opened.read(_HEAD.size)
            page_size = _HEAD.unpack(first)[2] if len(first) == _HEAD.size else 0
            opened.seek(page_size)
            second = opened.read(_HEAD.size)
    except FileNotFoundError:
        return None
    if not first:
        return None
    if len(second) != _HEAD.size or not _PAGE_MIN <= page_size <= _PAGE_MAX:
        raise LedgerCorrupt(where, "its heads are damaged or cut off")
    (magic, version, _, one), (other_magic, other_version, _, other) = (
        _HEAD.unpack(head) for head in (first, second)
    )
    if magic != _MAGIC or other_magic != _MAGIC:
        raise LedgerCorrupt(where, "its heads are damaged or cut off")
    return (one, other) if version == other_version == _VERSION else None


class NewestCommit:
    """Keeps the number of the newest commit that was acknowledged.

    Written after each commit and not synced: killed, it is there; after a power cut it may be an older
    one, or none, never a newer one. It is no secret and no proof: who removes it hides that an older
    copy was put back (witnesses are against him).
    """

    def __init__(self, path: Path) -> None:
        """Of the environment in directory `path`, which exists. OSError."""
        self._path = path / NEWEST_FILE
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with naming(self._path):
            os.posix_fallocate(self._descriptor, 0, _NUMBER.size)

    @staticmethod
    def read(path: Path) -> int:
        """The number; 0 if there is none, or it is torn."""
        try:
            content = (path / NEWEST_FILE).read_bytes()
        except FileNotFoundError:
            return 0
        number, complement = _NUMBER.unpack(content) if len(content) == _NUMBER.size else (0, 0)
        return number if number ^ complement == _ALL_ONES else 0

    def write(self, number: int) -> None:
        """The commit of this number is durable. OSError."""
        with naming(self._path):
            os.pwrite(self._descriptor, _NUMBER.pack(number, number ^ _ALL_ONES), 0)

    def close(self) -> None:
        """Release the file. Safe to call twice."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def forget_newest(path: Path) -> None:
    """Before a file in which LMDB counts anew takes the place of the other. Durable on return."""
    (path / NEWEST_FILE).unlink(missing_ok=True)
    sync_directory(path)
