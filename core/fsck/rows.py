"""The environment in which a replay keeps its rows, with a sealed mark of how far they go and their sum.

Nothing is synced: what a power cut leaves is not what the mark says.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import lmdb
import numpy as np

from core.errors import LedgerCorrupt
from core.kernels import leaf_hashes
from core.ledger import layout
from core.ledger.changes import Changes, TableChange
from core.ledger.environment import DATABASES_MAX, reserve_readers
from core.ledger.seal import Sealer
from core.ledger.store import Handles, rows_from
from core.ledger.tables import TABLES
from core.sums import MODULUS, add_up

SCRATCH: Final = "fsck"
# Beyond the numbers of databases: what is sealed as this opens as nothing else.
_MARK: Final = 201
_MARK_KEY: Final = b"mark"
_PLACE: Final = struct.Struct(">Q32s32s")
_PAGE: Final = 8192
_READERS_MAX: Final = 16


# By table: key → the row's bytes, or None where it is removed.
Changed = dict[int, dict[bytes, bytes | None]]


class Part(NamedTuple):
    """What the entries of a part of the journal do to the tables."""

    changed: Changed
    size: int  # entries up to here,
    root: bytes  # and the root hash of their tree


class Mark(NamedTuple):
    """Of which entries the rows are, what their sum is, and which software made them."""

    size: int
    root: bytes
    sum: int
    version: bytes


class ReplayedRows:
    """The open environment. One process commits at a time; others may read beside it."""

    def __init__(self, path: Path, map_gib: int, sealer: Sealer, version: bytes) -> None:
        """Open what is in directory `path`, or begin there. OSError, lmdb.Error if there is no room."""
        self._sealer = sealer
        self._version = version
        self._secret = sealer.blind("fsck", b"scratch")
        # Of all rows, once they were added up or while they are none.
        self.sum = 0
        reserve_readers(path, _READERS_MAX)
        self._env = lmdb.open(
            str(path), map_size=map_gib << 30, max_dbs=DATABASES_MAX, max_readers=_READERS_MAX,
            sync=False, metasync=False, readahead=False, mode=0o600,
        )  # fmt: skip
        numbers = [layout.CHECKPOINTS, *(table.number for table in TABLES)]
        self.handles: Handles = {n: self._env.open_db(b"%d" % n) for n in numbers}

    def close(self) -> None:
        """Release the files."""
        self._env.close()

    def begin(self) -> lmdb.Transaction:
        """A consistent view of the last commit."""
        return self._env.begin()

    def rows_from(self, number: int, start: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """As `Ledger.rows_from`."""
        with self.begin() as txn:
            return rows_from(txn, self.handles[number], start, count)

    def commit(self, part: Part) -> None:
        """Take the next part; a killed replay goes on behind it."""
        changes = Changes()
        for number, rows in part.changed.items():
            changes.rows[number], changes.waiting[number] = rows, set(rows)
        with self._env.begin(write=True) as txn:
            for change in changes.sealed(self._sealer):
                self._apply(txn, change)
            mark = _PLACE.pack(part.size, part.root, self.sum.to_bytes(32, "big")) + self._version
            sealed = self._sealer.seal(_MARK, _MARK_KEY, mark)
            txn.put(_MARK_KEY, sealed, db=self.handles[layout.CHECKPOINTS])

    def mark(self) -> Mark:
        """That of the last commit. LedgerCorrupt if there is none that opens."""
        with self.begin() as txn:
            sealed = txn.get(_MARK_KEY, db=self.handles[layout.CHECKPOINTS])
        if sealed is None:
            raise LedgerCorrupt(SCRATCH, "has no mark")
        opened = self._sealer.open(_MARK, _MARK_KEY, bytes(sealed))
        size, root, total = _PLACE.unpack_from(opened)
        return Mark(size, root, int.from_bytes(total, "big"), opened[_PLACE.size :])

    def add_up(self, progress: Callable[[int, int], None]) -> None:
        """Make `sum` that of the rows that are there."""
        self.sum = 0
        for at, table in enumerate(TABLES, 1):
            start = b""
            while rows := self.rows_from(table.number, start, _PAGE):
                self.sum += self._add_up(table.number, rows)
                start = rows[-1][0] + b"\x00"
            progress(at, len(TABLES))
        self.sum %= MODULUS

    def _apply(self, txn: lmdb.Transaction, change: TableChange) -> None:
        number, handle = change.number, self.handles[change.number]
        with txn.cursor(db=handle) as cursor:
            before = [(bytes(key), bytes(value)) for key, value in cursor.getmulti(change.keys)]
        change.write(txn, handle)
        self.sum += self._add_up(number, change.rows) - self._add_up(number, before)
        self.sum %= MODULUS

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
        return add_up(leaf_hashes(packed, fields.reshape(-1, 2)))
