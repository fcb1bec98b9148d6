"""The tables that a replay makes, kept on disk so that a replay that was killed goes on.

What lies there is trusted for nothing: the mark, written in the same commit as the rows, says up to
which entry of which tree they are made and what their sum is, and is sealed like a row. Whoever goes
on has hashed that tree's entries in the same run and adds the rows up again; a scratch of another
journal, of another version, put back, or with one bit changed is thrown away.
"""

from __future__ import annotations

import itertools
import shutil
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Final

import lmdb
import numpy as np

from core.errors import JinkuError, LedgerCorrupt, SettingsError
from core.fsck.hashes import Progress
from core.kernels import leaf_hashes
from core.ledger import layout
from core.ledger.changes import Changes, TableChange
from core.ledger.environment import DATABASES_MAX, probe
from core.ledger.ledger import Ledger
from core.ledger.store import Handles, rows_from
from core.ledger.tables import TABLES, WritableState
from core.sequencer import record
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events

SCRATCH: Final = "fsck"
# Beyond the numbers of databases: what is sealed as this opens as nothing else.
_MARK: Final = 201
_MARK_KEY: Final = b"mark"
_PLACE: Final = struct.Struct(">Q32s32s")
_PAGE: Final = 8192
_MODULUS: Final = 1 << 256


class Scratch:
    """The replayed tables up to entry `size`, and their environment."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.path = ledger.path / SCRATCH
        self.size = 0
        self._sum = 0
        self._secret = ledger.sealer.blind("fsck", b"scratch")
        self._version = metadata.version("jinku-server").encode()
        self._env: lmdb.Environment | None = None

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
            scratch._delete()
            raise
        except lmdb.Error as error:
            raise SettingsError(
                f"{scratch.path}: {error}; fsck needs as much free room here as the tables take"
            ) from error
        finally:
            scratch._close()
        scratch._delete()

    def record(self, entries: Iterable[tuple[EntryHeader, Events]]) -> Changes:
        """What the entries after the first `size` do to the tables, for `commit`."""
        changes = Changes()
        with self._begun() as txn:
            tables = WritableState(txn, self._handles, self._ledger.sealer, changes)
            for header, events in entries:
                record(header, events, tables)
        return changes

    def commit(self, changes: Changes, size: int) -> None:
        """Take what `record` made of the entries before `size`; a killed replay goes on there."""
        with self._begun(write=True) as txn:
            for change in changes.sealed(self._ledger.sealer):
                self._apply(txn, change)
            mark = _PLACE.pack(size, self._ledger.root(size), self._sum.to_bytes(32, "big"))
            sealed = self._ledger.sealer.seal(_MARK, _MARK_KEY, mark + self._version)
            txn.put(_MARK_KEY, sealed, db=self._handles[layout.CHECKPOINTS])
        self.size = size

    def rows_from(self, number: int, start: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """As `Ledger.rows_from`."""
        with self._begun() as txn:
            return rows_from(txn, self._handles[number], start, count)

    def _apply(self, txn: lmdb.Transaction, change: TableChange) -> None:
        number, handle = change.number, self._handles[change.number]
        with txn.cursor(db=handle) as cursor:
            before = [(bytes(key), bytes(value)) for key, value in cursor.getmulti(change.keys)]
        change.write(txn, handle)
        self._sum += self._add_up(number, change.rows) - self._add_up(number, before)
        self._sum %= _MODULUS

    def _add_up(self, number: int, rows: list[tuple[bytes, bytes]]) -> int:
        """The sum of the rows' keyed hashes. In whatever order they come it is the same, and nobody
        without the realm's keys finds other rows of this sum.

        Of each: SHA-256(00 ‖ secret ‖ u16 table ‖ u16 size of the key ‖ SHA-256(key ‖ value)).
        """
        if not rows:
            return 0
        sizes = np.fromiter((len(key) for key, _ in rows), np.int64, len(rows))
        lengths = np.fromiter((len(value) for _, value in rows), np.int64, len(rows)) + sizes
        kinds, kind = np.unique(sizes, return_inverse=True)
        heads = [self._secret + struct.pack(">HH", number, size) for size in kinds]
        head = len(heads[0])
        fields = np.empty((len(rows), 2, 2), np.uint64)
        fields[:, 0, 0] = kind * head
        fields[:, 0, 1] = kind * head + head
        fields[:, 1, 1] = np.cumsum(lengths) + head * len(heads)
        fields[:, 1, 0] = fields[:, 1, 1] - lengths.astype(np.uint64)
        packed = b"".join(itertools.chain(heads, itertools.chain.from_iterable(rows)))
        hashes = leaf_hashes(packed, fields.reshape(-1, 2))
        words = hashes.view("<u4").astype(np.uint64).sum(axis=0).tolist()
        return sum(word << 32 * at for at, word in enumerate(words))

    def _begin(self, progress: Progress) -> None:
        try:
            self._open()
            self._resume(progress)
        except (JinkuError, lmdb.Error):
            self._close()
            self._delete()
            self._open()

    def _open(self) -> None:
        self.size = self._sum = 0
        if self.path.exists():
            probe(self.path)
        self.path.mkdir(mode=0o700, exist_ok=True)
        # Nothing is synced: what a power cut leaves is not what the mark says, and begun anew.
        self._env = lmdb.open(
            str(self.path), map_size=self._ledger.map_gib << 30, max_dbs=DATABASES_MAX, sync=False,
            metasync=False, readahead=False, mode=0o600,
        )  # fmt: skip
        numbers = [layout.CHECKPOINTS, *(table.number for table in TABLES)]
        self._handles: Handles = {n: self._env.open_db(b"%d" % n) for n in numbers}

    def _resume(self, progress: Progress) -> None:
        """Take over what is there. LedgerCorrupt if it is not what an earlier run left."""
        with self._begun() as txn:
            sealed = txn.get(_MARK_KEY, db=self._handles[layout.CHECKPOINTS])
        if sealed is None:
            raise LedgerCorrupt(SCRATCH, "has no mark")
        opened = self._ledger.sealer.open(_MARK, _MARK_KEY, bytes(sealed))
        size, root, expected = _PLACE.unpack_from(opened)
        fits = opened[_PLACE.size :] == self._version and size <= self._ledger.size
        if not fits or root != self._ledger.root(size):
            raise LedgerCorrupt(SCRATCH, "is of another journal or version")
        for at, table in enumerate(TABLES, 1):
            start = b""
            while rows := self.rows_from(table.number, start, _PAGE):
                self._sum += self._add_up(table.number, rows)
                start = rows[-1][0] + b"\x00"
            progress("resume", at, len(TABLES))
        self._sum %= _MODULUS
        if self._sum != int.from_bytes(expected, "big"):
            raise LedgerCorrupt(SCRATCH, "has other rows than it was left with")
        self.size = size

    def _begun(self, *, write: bool = False) -> lmdb.Transaction:
        assert self._env is not None
        return self._env.begin(write=write)

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def _delete(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
