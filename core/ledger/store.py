"""The ledger's LMDB file behind one door: its transactions, counted, with errors that are ours.

A snapshot that stays open keeps every page from being used again that was freed since, so that the
file grows. None is held while anybody outside is waited for, and `usage` tells the age of the oldest.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import lmdb

from core.errors import LedgerBusy, LedgerCorrupt, LedgerInUse, LedgerStopped
from core.ledger.environment import READERS_MAX, explain, foreign, open_environment
from core.ledger.heads import NewestCommit

# A page of `Store.pages`: so many values, or so many bytes of them, are read in one snapshot.
_PAGE_VALUES_MAX: Final = 64
_PAGE_BYTES_MAX: Final = 4 << 20
# Snapshots that are kept for whoever writes: however many read, writing goes on.
_RESERVED: Final = 8
SNAPSHOTS_MAX: Final = READERS_MAX - _RESERVED

# By number, see `layout` and `tables`.
Handles = dict[int, lmdb._Database]


@dataclass(frozen=True, slots=True)
class Usage:
    """How full the ledger's file is, and what may keep it from using its own room again."""

    bytes_used: int  # what the file takes; it never gets smaller
    bytes_max: int  # storage.ledger_map_gib
    snapshots: int  # open now
    oldest_snapshot_seconds: float  # 0 if there is none


class Store:
    """The open environment. Transactions may be begun in any thread of the process that opened it."""

    def __init__(self, path: Path, map_gib: int) -> None:
        self.path = path
        self._env, self.handles = open_environment(path, map_gib)
        try:
            self._newest_commit = NewestCommit(path)
        except BaseException:
            self._env.close()
            raise
        self._process = os.getpid()
        self._closed = False
        # LMDB's number of the last transaction that was committed here, or before us; and of the newest
        # that may be seen: that one, or the one that is being written.
        self.transaction = int(self._env.info()["last_txnid"])
        self._newest = self.transaction
        # Told of it when another program is found to have written to the file.
        self.on_foreign: Callable[[LedgerCorrupt], None] = lambda error: None
        # The thread that wrote last.
        self._writer = 0
        # When each open snapshot was begun, monotonic.
        self._begun: dict[object, float] = {}

    @contextmanager
    def snapshot(self) -> Iterator[lmdb.Transaction]:
        """A consistent view of the last commit.

        LedgerBusy if too many are open, LedgerStopped if the ledger was closed, LedgerCorrupt if
        another program wrote to it.
        """
        token = object()
        if len(self._begun) >= SNAPSHOTS_MAX and threading.get_ident() != self._writer:
            raise LedgerBusy(
                f"{SNAPSHOTS_MAX} snapshots of the ledger are open at once; repeat later"
            )
        try:
            with self._begin(write=False) as txn:
                self._begun[token] = time.monotonic()
                if txn.id() > self._newest:
                    error = foreign(txn.id(), self.transaction)
                    self.on_foreign(error)
                    raise error
                yield txn
        except lmdb.Error as error:
            raise self.explain(error) from error
        finally:
            self._begun.pop(token, None)

    def begin_write(self, *, whoever: bool = False) -> lmdb.Transaction:
        """The one write transaction; waits for the one before. The caller commits it and calls
        `committed`, or calls `abort`. LedgerCorrupt if another program wrote to the ledger, unless
        `whoever` did is the same.
        """
        try:
            txn = self._begin(write=True)
        except lmdb.Error as error:
            raise self.explain(error) from error
        # The file's own number too: who does not heed LMDB's lock does not raise the other.
        found = max(int(self._env.info()["last_txnid"]), txn.id() - 1)
        if found != self.transaction and not whoever:
            txn.abort()
            raise foreign(found, self.transaction)
        self._writer = threading.get_ident()
        self._newest = txn.id()
        return txn

    def committed(self, *, changed: bool) -> None:
        """The write transaction was committed; `changed`: something was written in it. OSError."""
        if changed:
            self.transaction = self._newest
            self._newest_commit.write(self.transaction)
        self._newest = self.transaction

    def abort(self, txn: lmdb.Transaction) -> None:
        """Nothing of it was written."""
        # While the lock is held: what has this number next is not ours.
        self._newest = self.transaction
        txn.abort()

    def pages(self, number: int, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Key and value of a database that only grows at its end, from key `start` to what is the
        last key now. No snapshot is held between two pages, however long the reader takes.
        """
        with self.snapshot() as txn, txn.cursor(db=self.handles[number]) as cursor:
            last = bytes(cursor.key()) if cursor.last() else b""
        while last and start <= last:
            page = self._page(number, start)
            yield from page
            if not page or page[-1][0] >= last:
                return
            # The least key that is greater.
            start = page[-1][0] + b"\x00"

    def _page(self, number: int, start: bytes) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        room = _PAGE_BYTES_MAX
        with self.snapshot() as txn, txn.cursor(db=self.handles[number]) as cursor:
            if not (cursor.set_range(start) if start else cursor.first()):
                return found
            for key, value in cursor:
                found.append((bytes(key), bytes(value)))
                room -= len(value)
                if len(found) == _PAGE_VALUES_MAX or room <= 0:
                    break
        return found

    def usage(self) -> Usage:
        """How full the file is and who may be keeping it from being used again."""
        begun = list(self._begun.values())
        info = self._env.info()
        return Usage(
            bytes_used=(info["last_pgno"] + 1) * self._env.stat()["psize"],
            bytes_max=info["map_size"],
            snapshots=len(begun),
            oldest_snapshot_seconds=time.monotonic() - min(begun) if begun else 0.0,
        )

    def close(self) -> None:
        """Release the file; whoever reads on gets LedgerStopped. Safe to call twice."""
        # A forked child shares the parent's lock table: it closes nothing.
        if not self._closed and os.getpid() == self._process:
            self._closed = True
            self._env.close()
            self._newest_commit.close()

    def _begin(self, *, write: bool) -> lmdb.Transaction:
        if self._closed:
            raise LedgerStopped("the ledger is closed")
        if os.getpid() != self._process:
            raise LedgerInUse(
                f"{self.path}: opened by process {self._process}, and this one was forked from it; "
                "start a process of its own instead of forking one"
            )
        return self._env.begin(write=write)

    def explain(self, error: lmdb.Error) -> Exception:
        """What LMDB says, as ours."""
        if self._closed:
            return LedgerStopped("the ledger is closed")
        return explain(error)


def rows_from(
    txn: lmdb.Transaction, handle: lmdb._Database, start: bytes, count: int
) -> list[tuple[bytes, bytes]]:
    """Key and value of at most `count` rows, from key `start` on (empty: from the first)."""
    with txn.cursor(db=handle) as cursor:
        if not (cursor.set_range(start) if start else cursor.first()):
            return []
        # Of a transaction without buffers: bytes.
        return list(itertools.islice(cast("Iterator[tuple[bytes, bytes]]", cursor), count))
