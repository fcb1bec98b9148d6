"""The tables that a replay makes, kept on disk so that a replay that was killed goes on.

What lies there is trusted for nothing: the mark, written in the same commit as the rows, says up to
which entry of which tree they are made and what their sum is, and is sealed like a row. Whoever goes
on has hashed that tree's entries in the same run and adds the rows up again; a scratch of another
journal, of another version, put back, or with one bit changed is thrown away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Final, TypeVar

import lmdb
from google.protobuf.message import Message

from core.errors import JinkuError, LedgerCorrupt, SettingsError
from core.fsck.beside import Beside
from core.fsck.hashes import Progress
from core.fsck.rows import SCRATCH, Changed, Part, ReplayedRows
from core.ledger.changes import Changes
from core.ledger.environment import probe
from core.ledger.ledger import Ledger
from core.ledger.tables import Table, WritableState
from core.sequencer import record
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events

R = TypeVar("R", bound=Message)

# Entries for which a process of its own is started: fewer are over before it has begun.
_BESIDE_MIN: Final = 15_000
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Scratch:
    """The replayed tables up to entry `size`, and what writes them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.path = ledger.path / SCRATCH
        self.size = 0
        self._version = metadata.version("jinku-server").encode()
        self._rows: ReplayedRows | None = None
        self._beside: Beside | None = None
        # What was handed in to be written beside: it may be among the rows or not.
        self._handed: Changed = {}
        self._handed_size = 0
        self._lock = -1

    @classmethod
    @contextmanager
    def opened(cls, ledger: Ledger, progress: Progress) -> Iterator[Scratch]:
        """The scratch of an earlier run if it is of this ledger, whose hashes are verified, and is
        as that run left it; else an empty one.

        Kept if the block is interrupted, deleted if it ends or finds that the ledger is not sound.
        SettingsError if there is no room for it.
        """
        scratch = cls(ledger)
        try:
            scratch._begin(progress)
            yield scratch
        except LedgerCorrupt:
            scratch._close()
            scratch._delete()
            raise
        except (lmdb.Error, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_ROOM:
                raise
            raise SettingsError(
                f"{scratch.path}: {error}; fsck needs as much free room here as the tables take, and so "
                "does a start that verifies the ledger first"
            ) from error
        finally:
            scratch._close()
        scratch._delete()

    def record(self, entries: Iterable[tuple[EntryHeader, Events]]) -> Changed:
        """What the entries after all that were handed in do to the tables."""
        changes, rows = Changes(), self._opened()
        changes.rows.update(self._handed)
        with rows.begin() as txn:
            tables = _Replayed(txn, rows.handles, self._ledger.sealer, changes)
            for header, events in entries:
                record(header, events, tables)
        return {
            number: {key: changes.rows[number][key] for key in waiting}
            for number, waiting in changes.waiting.items()
        }

    def hand_in(self, changed: Changed, size: int) -> None:
        """What `record` made of the entries before `size` is to be written; all that was handed in
        before is, on return, and a killed replay goes on there.
        """
        self.settle()
        part = Part(changed, size, self._ledger.root(size))
        if self._beside is None:
            self._opened().commit(part)
            self.size = size
        else:
            self._beside.hand_in(part)
            self._handed, self._handed_size = changed, size

    def settle(self) -> None:
        """Wait until all that was handed in is written."""
        if self._beside is not None:
            self._beside.wait()
            self.size = max(self.size, self._handed_size)

    def rows_from(self, number: int, start: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """As `Ledger.rows_from`."""
        return self._opened().rows_from(number, start, count)

    def _begin(self, progress: Progress) -> None:
        try:
            self._open()
            self._resume(progress)
        except (JinkuError, lmdb.Error):
            self._close()
            self._delete()
            self._open()
        if self._ledger.size - self.size >= _BESIDE_MIN:
            sealer, rows = self._ledger.sealer, self._opened()
            self._beside = Beside(
                (self.path, self._ledger.map_gib, sealer.keys(), self._version, rows.sum),
                self._lock,
            )

    def _open(self) -> None:
        self.size = 0
        self.path.mkdir(mode=0o700, exist_ok=True)
        # What wrote for a check that was killed may still be at its last part.
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        probe(self.path)
        self._rows = ReplayedRows(
            self.path, self._ledger.map_gib, self._ledger.sealer, self._version
        )

    def _resume(self, progress: Progress) -> None:
        """Take over what is there. LedgerCorrupt if it is not what an earlier run left."""
        rows = self._opened()
        mark = rows.mark()
        fits = mark.version == self._version and mark.size <= self._ledger.size
        if not fits or mark.root != self._ledger.root(mark.size):
            raise LedgerCorrupt(SCRATCH, "is of another journal or version")
        rows.add_up(lambda done, total: progress("resume", done, total))
        if rows.sum != mark.sum:
            raise LedgerCorrupt(SCRATCH, "has other rows than it was left with")
        self.size = mark.size

    def _opened(self) -> ReplayedRows:
        assert self._rows is not None
        return self._rows

    def _close(self) -> None:
        if self._beside is not None:
            self._beside.close()
            self._beside = None
        if self._rows is not None:
            self._rows.close()
            self._rows = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _delete(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class _Replayed(WritableState):
    """The tables, with the rows that were handed in last among those that are known."""

    def scan(
        self, table: Table[R], prefix: bytes = b"", start: bytes = b""
    ) -> Iterator[tuple[bytes, R]]:
        """LedgerCorrupt: an `apply` knows the keys of its rows; what was handed in is in no order."""
        raise LedgerCorrupt(f"table {table.number}", "is searched by an event")

    def last(self, table: Table[R], prefix: bytes, key_size: int) -> tuple[bytes, R] | None:
        """As `scan`."""
        raise LedgerCorrupt(f"table {table.number}", "is searched by an event")
