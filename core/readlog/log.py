"""The read log: batches in, durable in one group commit across portals, out again for replay.

One writer thread takes what all portals have handed in and commits it together, with `sync=True`
and `metasync=True`. Whatever goes wrong in a commit leaves its outcome unknown: the log then stops
for good, nothing of it is acknowledged, and the next opening shows what was written.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final

import lmdb
import numpy as np

from core.errors import LedgerCorrupt, LedgerStopped
from core.kernels import UNKNOWN_NUMBER, TagIndex
from core.readlog import layout
from core.readlog.layout import Block, Counter, Position
from core.readlog.sealing import ReadLogSealer
from core.readlog.segments import Stored

# A commit takes what waits, up to so much: its time stays within tens of milliseconds.
COMMIT_BYTES_MAX: Final = 16 << 20
COMMIT_WRITES_MAX: Final = 512
# Chunks that one commit deletes: it then takes hardly longer than without.
DELETED_MAX: Final = 256
COUNTERS_AT_ONCE: Final = 65_536

# Called once from the writer's thread: None when durable, else why that is unknown. Must not block.
Settled = Callable[[BaseException | None], None]


@dataclass(frozen=True, slots=True)
class _Write:
    """What one batch puts, sealed where it can be before the writer has it."""

    chunks: list[tuple[bytes, bytearray]]
    portal_id: bytes
    position: Position | None
    counters: Sequence[Counter]
    settled: Settled
    size: int
    deleted: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """A batch ready for `submit`."""

    chunks: list[tuple[bytes, bytearray]]
    stored: Stored


class ReadLog:
    """Opens, writes and reads. One process may hold it: the one that holds the ledger."""

    def __init__(
        self,
        path: Path,
        key: bytes,
        *,
        map_gib: int = 64,
        on_stop: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        """Open the log in directory `path`, or begin an empty one there. `key` is 32 bytes.

        `on_stop` is told, from the writer's thread, of an error after which nothing is taken any
        more. Raises LedgerCorrupt if a position does not open (another key, or damage).
        """
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sealer = ReadLogSealer(key)
        self._on_stop = on_stop
        self._env = lmdb.open(
            str(path), map_size=map_gib << 30, max_dbs=8, max_readers=1024, sync=True,
            metasync=True, writemap=False, readahead=False, mode=0o600,
        )  # fmt: skip
        self._tables = {number: self._env.open_db(b"%d" % number) for number in layout.TABLES}
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        # Time that the writer spent in commits, all portals together.
        self.commit_ns = 0
        self._thread = threading.Thread(target=self._run, name="read-log", daemon=True)
        try:
            dict(self.positions())
        except BaseException:
            self._env.close()
            raise

    # -- writing ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def seal_block(self, portal_id: bytes, epoch: int, sequence: int, block: Block) -> SealedBlock:
        """A batch ready for `submit`, digested and sealed in the caller's thread."""
        packed = layout.pack_block(block)
        stored = stored_of(packed, block)
        chunks = []
        for chunk, piece in enumerate(layout.split_chunks(packed)):
            key = layout.block_key(portal_id, epoch, sequence, chunk)
            chunks.append((key, self._sealer.seal(layout.BLOCKS, key, piece)))
        return SealedBlock(chunks, stored)

    def submit(
        self,
        portal_id: bytes,
        position: Position,
        chunks: list[tuple[bytes, bytearray]],
        counters: Sequence[Counter],
        settled: Settled,
    ) -> None:
        """Hand in a sealed batch (none: `chunks` is empty) with the portal's new position.

        Nothing is durable on return; it is when `settled(None)` is called. Writes of one portal
        settle in the order in which they were handed in. Quick: for callers that hold a lock. How
        much waits is bounded by the callers: each stops at its own count of unsettled batches.
        Raises LedgerStopped if the log has stopped; then `settled` is never called.
        """
        size = sum(len(value) for _, value in chunks)
        self._put(_Write(chunks, portal_id, position, counters, settled, size))

    def flush(self, portal_id: bytes = b"", position: Position | None = None) -> None:
        """All that was handed in before is durable on return, and the position, if one is given.

        Raises LedgerStopped if the log has stopped, before or meanwhile.
        """
        self._put_durable(portal_id, position)

    def prune(self, portal_id: bytes, epoch: int, first: int, last: int) -> int:
        """Delete the batches from `first` to `last`; how many chunks there were.

        Whole batches go, at most `DELETED_MAX` chunks (or one batch) in a commit, which other
        portals' batches share: nothing waits for more than that. Killed in between, the first of
        them are gone; calling it again deletes the rest. Durable on return. Raises LedgerStopped.
        """
        deleted = 0
        while keys := self._chunks_of(portal_id, epoch, first, last):
            self._put_durable(deleted=keys)
            deleted += len(keys)
        return deleted

    def _chunks_of(self, portal_id: bytes, epoch: int, first: int, last: int) -> list[bytes]:
        """Keys of the first whole batches of a run, as many as one commit deletes."""
        end = layout.block_prefix(portal_id, epoch, last + 1)
        keys: list[bytes] = []
        whole = 0
        with self._env.begin() as txn, txn.cursor(self._tables[layout.BLOCKS]) as cursor:
            if not cursor.set_range(layout.block_prefix(portal_id, epoch, first)):
                return []
            for raw in cursor.iternext(values=False):
                key = bytes(raw)
                if key >= end:
                    return keys
                if keys and layout.split_block_key(key)[2] != layout.split_block_key(keys[-1])[2]:
                    whole = len(keys)
                if len(keys) >= DELETED_MAX and whole:
                    return keys[:whole]
                keys.append(key)
        return keys

    def _put_durable(
        self,
        portal_id: bytes = b"",
        position: Position | None = None,
        deleted: Sequence[bytes] = (),
    ) -> None:
        done = threading.Event()
        failure: list[BaseException] = []

        def settled(error: BaseException | None) -> None:
            if error is not None:
                failure.append(error)
            done.set()

        self._put(_Write([], portal_id, position, [], settled, 0, deleted))
        done.wait()
        if failure:
            raise failure[0]

    def _put(self, write: _Write) -> None:
        with self._gate:
            if self._closed:
                raise LedgerStopped("the read log has stopped")
            self._queue.put(write)

    def stop(self) -> None:
        """Take no more, write what waits, end the thread. Safe to call twice."""
        with self._gate:
            first, self._closed = not self._closed, True
        if first:
            self._queue.put(None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def close(self) -> None:
        """Stop, then release the files. Safe to call twice."""
        self.stop()
        self._env.close()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            writes, stopping = self._take()
            if not writes:
                continue
            begun_ns = time.perf_counter_ns()
            try:
                self._commit(writes)
            except BaseException as error:
                self._fail(writes, error)
                return
            self.commit_ns += time.perf_counter_ns() - begun_ns
            for write in writes:
                write.settled(None)

    def _take(self) -> tuple[list[_Write], bool]:
        """Wait for one write, then take what else waits."""
        writes: list[_Write] = []
        size = 0
        item = self._queue.get()
        while item is not None:
            writes.append(item)
            size += item.size
            if size >= COMMIT_BYTES_MAX or len(writes) >= COMMIT_WRITES_MAX:
                return writes, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return writes, False
        return writes, True

    def _commit(self, writes: list[_Write]) -> None:
        """Durable on return. Any exception means: outcome unknown."""
        blocks = self._tables[layout.BLOCKS]
        positions = {write.portal_id: write.position for write in writes if write.position}
        with self._env.begin(write=True) as txn:
            for write in writes:
                for key, sealed in write.chunks:
                    if not txn.put(key, sealed, db=blocks, overwrite=False):
                        raise LedgerCorrupt("read log", f"block {key.hex()} is there already")
                for key in write.deleted:
                    txn.delete(key, db=blocks)
                for counter in write.counters:
                    self._raise_counter(txn, counter)
            for portal_id, position in positions.items():
                sealed = self._sealer.seal(
                    layout.POSITIONS, portal_id, layout.pack_position(position)
                )
                txn.put(portal_id, sealed, db=self._tables[layout.POSITIONS])

    def _raise_counter(self, txn: lmdb.Transaction, counter: Counter) -> None:
        """Keep the greater: two portals' batches may be committed in another order than judged."""
        table, key = self._tables[layout.COUNTERS], self._sealer.blind(counter.identity)
        before = txn.get(key, db=table)
        if before is not None:
            kept = layout.unpack_counter(self._sealer.open(layout.COUNTERS, key, before))
            if kept.counter >= counter.counter:
                return
        txn.put(
            key, self._sealer.seal(layout.COUNTERS, key, layout.pack_counter(counter)), db=table
        )

    def _fail(self, writes: list[_Write], error: BaseException) -> None:
        with self._gate:
            self._closed = True
        stopped = LedgerStopped("the outcome of a commit is unknown; the service must be restarted")
        stopped.__cause__ = error
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is not None:
                writes.append(item)
        for write in writes:
            write.settled(stopped)
        self._on_stop(error)

    # -- reading ---------------------------------------------------------------------------------

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

    def load_counters(self, index: TagIndex) -> int:
        """Raise the index's counters to the durable ones; how many were kept here.

        Tags that the index does not hold (of another realm, say) are passed over.
        """
        kept = 0
        with self._env.begin() as txn, txn.cursor(self._tables[layout.COUNTERS]) as cursor:
            rows = self._sealer.open_all(layout.COUNTERS, cursor)
            while part := list(islice(rows, COUNTERS_AT_ONCE)):
                kept += len(part)
                for identities, counters in layout.unpack_counters(b"".join(part)):
                    numbers = index.find_many(identities)
                    here = numbers != UNKNOWN_NUMBER
                    index.advance_counters(numbers[here], counters[here])
        return kept


def stored_of(packed: bytes, block: Block) -> Stored:
    """What a segment knows of a batch. The digest is computed without the GIL."""
    return Stored(sha256(packed).digest(), len(packed), len(block.columns), block.received_ns)


def counters_of(index: TagIndex, numbers: object, counters: object) -> list[Counter]:
    """The advanced counters of a batch by identity, only the last of each tag."""
    latest = dict(zip(np.asarray(numbers).tolist(), np.asarray(counters).tolist(), strict=True))
    return [Counter(index.identity_of(number), counter) for number, counter in latest.items()]
