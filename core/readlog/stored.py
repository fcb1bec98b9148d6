"""The files of the read log, opened and read: for the writer, and for who verifies what it wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, cast

import lmdb

from core.errors import LedgerCorrupt
from core.files import DATA_FILE, sync_directory
from core.kernels import UNKNOWN_NUMBER, TagIndex
from core.ledger.environment import explain, reserve_readers
from core.ledger.heads import NewestCommit, verify_heads
from core.portal.columns import U8, U32
from core.readlog import layout
from core.readlog.layout import Basis, Block, Counted, Position
from core.readlog.sealing import ReadLogSealer
from core.sums import MODULUS

# Few enough that they stay in the processor's cache from the file to the index.
COUNTERS_AT_ONCE: Final = 1_024
_FILE: Final = "the read log's file"
_READERS_MAX: Final = 1024


class KeptTime(NamedTuple):
    """A moment of the service's time. UTC nanoseconds."""

    now_ns: int
    shown_ns: int  # by the system's clock


class StoredReads:
    """Opens and reads. One process may hold it: the one that holds the ledger."""

    def __init__(self, path: Path, key: bytes, *, map_gib: int = 64) -> None:
        """Open the log in directory `path`, or begin an empty one there. `key` is 32 bytes.

        Raises LedgerCorrupt if the file or a position does not open (another key, or damage).
        """
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sealer = ReadLogSealer(key)
        verify_heads(path, _FILE)
        reserve_readers(path, _READERS_MAX)
        try:
            self._env = lmdb.open(
                str(path), map_size=map_gib << 30, max_dbs=16, max_readers=_READERS_MAX, sync=True,
                metasync=True, writemap=False, readahead=False, mode=0o600,
            )  # fmt: skip
        except lmdb.Error as error:
            raise explain(error, _FILE) from error
        try:
            self._tables = {number: self._env.open_db(b"%d" % number) for number in layout.TABLES}
            dict(self.positions())
            # LMDB syncs its files, not the directories that name them.
            sync_directory(path)
            sync_directory(path.parent)
            self._file = os.open(path / DATA_FILE, os.O_RDONLY | os.O_CLOEXEC)
            self._newest_commit = NewestCommit(path)
        except lmdb.Error as error:
            self._env.close()
            raise explain(error, _FILE) from error
        except BaseException:
            self._env.close()
            raise

    def close(self) -> None:
        """Release the files. Safe to call twice."""
        self._env.close()
        self._newest_commit.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # -- batches ---------------------------------------------------------------------------------

    def position(self, portal_id: bytes) -> Position | None:
        """Where a portal stood at the last commit; None if it never sent a batch."""
        with self._env.begin() as txn:
            sealed = txn.get(portal_id, db=self._tables[layout.POSITIONS])
        if sealed is None:
            return None
        return layout.unpack_position(self._sealer.open(layout.POSITIONS, portal_id, bytes(sealed)))

    def positions(self) -> Iterator[tuple[bytes, Position]]:
        """Every portal that ever sent a batch, with its position."""
        with self._env.begin() as txn, txn.cursor(self._tables[layout.POSITIONS]) as cursor:
            rows = [(bytes(key), bytes(value)) for key, value in cursor]
        for key, sealed in rows:
            yield key, layout.unpack_position(self._sealer.open(layout.POSITIONS, key, sealed))

    def block(self, portal_id: bytes, epoch: int, sequence: int) -> Block | None:
        """One batch, or None if it is not there. LedgerCorrupt if it is not what was written."""
        for found, block in self.batches(portal_id, epoch, sequence):
            return block if found == sequence else None
        return None

    def batches(
        self, portal_id: bytes, epoch: int, from_sequence: int = 1
    ) -> Iterator[tuple[int, Block]]:
        """Sequence and batch of what is kept of this epoch, in order, from `from_sequence` on.

        Each batch is read in a transaction of its own, so that a slow reader holds up nothing; what
        becomes durable meanwhile is read too. LedgerCorrupt if a chunk is missing or damaged.
        """
        for sequence, packed in self.packed(portal_id, epoch, from_sequence):
            yield sequence, layout.unpack_block(packed)

    def packed(
        self, portal_id: bytes, epoch: int, from_sequence: int = 1
    ) -> Iterator[tuple[int, bytes]]:
        """The same, each batch as it was packed."""
        owner = layout.block_prefix(portal_id, epoch, 0)[:24]
        sequence = from_sequence
        while True:
            chunks: list[bytes] = []
            with self._env.begin() as txn, txn.cursor(self._tables[layout.BLOCKS]) as cursor:
                if not cursor.set_range(layout.block_prefix(portal_id, epoch, sequence)):
                    return
                if not cursor.key().startswith(owner):
                    return
                _, _, sequence, _ = layout.split_block_key(cursor.key())
                prefix = layout.block_prefix(portal_id, epoch, sequence)
                for chunk, (key, sealed) in enumerate(cursor):
                    if not key.startswith(prefix):
                        break
                    if key != layout.block_key(portal_id, epoch, sequence, chunk):
                        raise LedgerCorrupt(f"read log, batch {sequence}", "a chunk is missing")
                    chunks.append(self._sealer.open(layout.BLOCKS, key, sealed))
            yield sequence, b"".join(chunks)
            sequence += 1

    def first_kept(self, portal_id: bytes, epoch: int = 0) -> tuple[int, int] | None:
        """Epoch and sequence of the first batch that is kept, from this epoch on."""
        with self._env.begin() as txn, txn.cursor(self._tables[layout.BLOCKS]) as cursor:
            if not cursor.set_range(layout.block_prefix(portal_id, epoch, 0)):
                return None
            owner, found, sequence, _ = layout.split_block_key(cursor.key())
        return (found, sequence) if owner == portal_id else None

    def epochs(self, portal_id: bytes) -> Iterator[int]:
        """Every epoch of a portal of which batches are kept."""
        epoch = 0
        while (first := self.first_kept(portal_id, epoch)) is not None:
            yield first[0]
            if first[0] == layout.EPOCH_MAX:
                return
            epoch = first[0] + 1

    def first_basis(
        self, portal_id: bytes, epoch: int, from_sequence: int
    ) -> tuple[int, Basis] | None:
        """Sequence and basis of the first batch from `from_sequence` on; reads the beginning of it."""
        with self._env.begin() as txn, txn.cursor(self._tables[layout.BLOCKS]) as cursor:
            if not cursor.set_range(layout.block_prefix(portal_id, epoch, from_sequence)):
                return None
            key, sealed = bytes(cursor.key()), bytes(cursor.value())
        owner, found, sequence, chunk = layout.split_block_key(key)
        if (owner, found) != (portal_id, epoch):
            return None
        if chunk:
            raise LedgerCorrupt(f"read log, batch {sequence}", "a chunk is missing")
        return sequence, layout.unpack_basis(self._sealer.open(layout.BLOCKS, key, sealed))[0]

    def terms(self, digest: bytes) -> bytes | None:
        """The ReadTerms of this SHA-256, as they were serialised."""
        return self._get(layout.TERMS, digest)

    # -- counters --------------------------------------------------------------------------------

    @property
    def turns(self) -> int:
        """How many batches with counters are durable, since ever: the turn of the next one."""
        return self.counted.turns

    @property
    def counted(self) -> Counted:
        """Those turns, and the sum over the newest counters: 0 before the first of them."""
        packed = self._get(layout.MARKS, layout.TURNS_MARK)
        return Counted(0, 0) if packed is None else layout.unpack_counted(packed)

    @property
    def kept_turn(self) -> int | None:
        """Before the batch of which turn the kept counters were those; None: none were ever kept."""
        return self._mark(layout.KEPT_MARK)

    def kept_time(self) -> KeptTime | None:
        """The newest moment that is kept; None: none ever was."""
        now_ns, shown_ns = self._mark(layout.TIME_MARK), self._mark(layout.CLOCK_MARK)
        return None if now_ns is None or shown_ns is None else KeptTime(now_ns, shown_ns)

    def counters(self, table: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """Blinded identities and packed counters of a table, in order and as of one instant, many at a
        time: `layout.COUNTERS` for the newest, `layout.KEPT`. LedgerCorrupt if one does not open.
        """
        for rows in self._sealed_counters(table):
            keys = (key for key, _ in rows)
            yield list(zip(keys, self._sealer.open_all(table, rows), strict=True))

    def counter_arrays(self, table: int) -> Iterator[tuple[U8, U32]]:
        """The same by width of the identity: (N, width) identities and (N,) counters."""
        for rows in self._sealed_counters(table):
            yield from layout.unpack_counters(b"".join(self._sealer.open_all(table, rows)))

    def _sealed_counters(self, table: int) -> Iterator[list[tuple[bytes, bytes]]]:
        with self._env.begin() as txn, txn.cursor(self._tables[table]) as cursor:
            # Of a transaction without buffers: bytes.
            found = iter(cast("Iterator[tuple[bytes, bytes]]", cursor))
            while rows := list(islice(found, COUNTERS_AT_ONCE)):
                yield rows

    def load_counters(self, index: TagIndex) -> int:
        """Raise the index's counters to the durable ones, and let it go on with the turns; how many
        counters there were.

        Tags that the index does not hold (of another realm, say) are passed over. LedgerCorrupt if the
        counters are not those whose sum was written with the newest of them.
        """
        kept = total = 0
        counted = self.counted
        for rows in self._sealed_counters(layout.COUNTERS):
            packed = b"".join(self._sealer.open_all(layout.COUNTERS, rows))
            total += self._sealer.sum_counters(packed)
            kept += len(rows)
            for identities, counters in layout.unpack_counters(packed):
                numbers = index.find_many(identities)
                here = numbers != UNKNOWN_NUMBER
                index.advance_counters(numbers[here], counters[here])
        if total % MODULUS != counted.sum:
            raise LedgerCorrupt(
                "read log, counters",
                "are not those of its newest batch: some were put back to older ones, or removed; "
                "`jinkud fsck` says which",
            )
        index.start_turns(counted.turns)
        return kept

    def sum_counters(self) -> int:
        """The sum over the newest counters, as they are stored."""
        rows = self._sealed_counters(layout.COUNTERS)
        packed = (b"".join(self._sealer.open_all(layout.COUNTERS, part)) for part in rows)
        return sum(map(self._sealer.sum_counters, packed)) % MODULUS

    def blinded(self, identity: bytes) -> bytes:
        """The key of an identity's counter, 16 bytes."""
        return self._sealer.blind(identity)

    def _mark(self, name: bytes) -> int | None:
        packed = self._get(layout.MARKS, name)
        return None if packed is None else layout.unpack_mark(packed)

    def _get(self, table: int, key: bytes) -> bytes | None:
        with self._env.begin() as txn:
            sealed = txn.get(key, db=self._tables[table])
        return None if sealed is None else self._sealer.open(table, key, bytes(sealed))
