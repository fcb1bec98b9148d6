"""The read log: batches in, durable in one group commit across portals, out again for replay.

One writer thread takes what all portals have handed in and commits it together, with `sync=True`
and `metasync=True`. Whatever goes wrong in a commit leaves its outcome unknown: the log then stops
for good, nothing of it is acknowledged, and the next opening shows what was written.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import lmdb
import numpy as np

from core.errors import LedgerCorrupt, LedgerStopped
from core.kernels import TagIndex
from core.readlog import layout
from core.readlog.layout import Block, Counted, Counter, Position
from core.readlog.segments import Stored
from core.readlog.stored import KeptTime, StoredReads
from core.readlog.turns import TurnQueue
from core.sums import MODULUS

# A commit takes what waits, up to so much: its time stays within tens of milliseconds.
COMMIT_BYTES_MAX: Final = 16 << 20
COMMIT_WRITES_MAX: Final = 512
# Durable bytes after which the kernel is told that nobody is about to read them.
LET_GO_BYTES: Final = 4 << 20
LET_GO_ANYWHERE_BYTES: Final = 16 * LET_GO_BYTES
# Chunks that one commit deletes: it then takes hardly longer than without.
DELETED_MAX: Final = 256

# Called once from the writer's thread: None when durable, else why that is unknown. Must not block.
Settled = Callable[[BaseException | None], None]


@dataclass(frozen=True, slots=True)
class _Write:
    """What one batch puts, sealed where it can be before the writer has it."""

    settled: Settled
    chunks: Sequence[tuple[bytes, memoryview]] = ()
    portal_id: bytes = b""
    position: Position | None = None
    counters: Sequence[Counter] = ()
    turn: int | None = None
    size: int = 0
    deleted: Sequence[bytes] = ()
    # Sealed rows of other tables.
    rows: Sequence[tuple[int, bytes, bytearray]] = ()


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """A batch ready for `submit`."""

    chunks: list[tuple[bytes, memoryview]]
    stored: Stored


class ReadLog(StoredReads):
    """The files with their writer."""

    def __init__(
        self,
        path: Path,
        key: bytes,
        *,
        map_gib: int = 64,
        on_stop: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        """Open as StoredReads. `on_stop` is told, from the writer's thread, of an error after which
        nothing is taken any more.
        """
        super().__init__(path, key, map_gib=map_gib)
        self._on_stop = on_stop
        # As of the last commit.
        self._counted = self.counted
        self._queue: TurnQueue[_Write | None] = TurnQueue(self._counted.turns)
        self._gate = threading.Lock()
        self._closed = False
        # Time that the writer spent in commits, all portals together.
        self.commit_ns = 0
        # Durable bytes that the kernel still keeps in memory, and where the file ended before them.
        self._kept_bytes = 0
        self._kept_from = os.fstat(self._file).st_size
        self._thread = threading.Thread(target=self._run, name="read-log", daemon=True)

    # -- writing ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def seal_block(self, portal_id: bytes, epoch: int, sequence: int, block: Block) -> SealedBlock:
        """A batch ready for `submit`, digested and sealed in the caller's thread."""
        packed = layout.pack_block(block)
        stored = stored_of(packed, block)
        chunks = list(layout.split_chunks(packed))
        keys = [layout.block_key(portal_id, epoch, sequence, chunk) for chunk in range(len(chunks))]
        return SealedBlock(self._sealer.seal_chunks(keys, chunks), stored)

    def submit(
        self,
        portal_id: bytes,
        position: Position,
        chunks: Sequence[tuple[bytes, memoryview]],
        counters: Sequence[Counter],
        settled: Settled,
        turn: int | None = None,
    ) -> None:
        """Hand in a sealed batch (none: `chunks` is empty) with the portal's new position.

        `turn` is that of a batch with counters. Nothing is durable on return; it is when
        `settled(None)` is called. Writes of one portal settle in the order in which they were handed
        in, and turns in theirs: none is durable before every earlier one is. Quick: for callers that hold a lock. How
        much waits is bounded by the callers: each stops at its own count of unsettled batches.
        Raises LedgerStopped if the log has stopped; then `settled` is never called.
        """
        size = sum(len(value) for _, value in chunks)
        self._put(_Write(settled, chunks, portal_id, position, counters, turn, size))

    def keep_terms(self, terms: bytes) -> bytes:
        """The digest by which batches name these terms: durable before any batch that is handed in
        after this. Raises LedgerStopped if the log has stopped.
        """
        digest = sha256(terms).digest()
        if self.terms(digest) is None:
            sealed = self._sealer.seal(layout.TERMS, digest, terms)
            self._put(_Write(_ignore, rows=[(layout.TERMS, digest, sealed)]))
        return digest

    def keep_counters(self, turn: int, counters: Iterable[Counter]) -> None:
        """Make the kept counters those from before the batch of this turn, in one commit: `counters`
        are the ones that change. Durable on return. Raises LedgerStopped.
        """
        rows = [
            (layout.KEPT, self.blinded(counter.identity), layout.pack_counter(counter))
            for counter in counters
        ]
        rows.append((layout.MARKS, layout.KEPT_MARK, layout.pack_mark(turn)))
        self._put_durable(rows=self._seal_rows(rows))

    def keep_time(self, moment: KeptTime, settled: Settled) -> None:
        """Hand in a moment of the service's time; `settled` is as for `submit`. Raises LedgerStopped."""
        rows = [
            (layout.MARKS, layout.TIME_MARK, layout.pack_mark(moment.now_ns)),
            (layout.MARKS, layout.CLOCK_MARK, layout.pack_mark(moment.shown_ns)),
        ]
        self._put(_Write(settled, rows=self._seal_rows(rows)))

    def _seal_rows(
        self, rows: Iterable[tuple[int, bytes, bytes]]
    ) -> list[tuple[int, bytes, bytearray]]:
        return [(table, key, self._sealer.seal(table, key, row)) for table, key, row in rows]

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
        rows: Sequence[tuple[int, bytes, bytearray]] = (),
    ) -> None:
        done = threading.Event()
        failure: list[BaseException] = []

        def settled(error: BaseException | None) -> None:
            if error is not None:
                failure.append(error)
            done.set()

        self._put(
            _Write(settled, portal_id=portal_id, position=position, deleted=deleted, rows=rows)
        )
        done.wait()
        if failure:
            raise failure[0]

    def _put(self, write: _Write) -> None:
        with self._gate:
            if self._closed:
                raise LedgerStopped("the read log has stopped")
            self._queue.put(write, write.turn)

    def stop(self) -> None:
        """Take no more, write what waits, end the thread. Safe to call twice."""
        with self._gate:
            first, self._closed = not self._closed, True
        if first:
            self._queue.put_now(None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def close(self) -> None:
        """Stop, then release the files. Safe to call twice."""
        self.stop()
        super().close()

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
            self._let_go(sum(write.size for write in writes))
        # Whoever had an earlier turn failed: the service ends.
        for parked in self._queue.take_parked():
            if parked is not None:
                parked.settled(LedgerStopped("the read log has stopped"))

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
        turns, total = self._counted.turns, self._counted.sum
        with self._env.begin(write=True) as txn:
            for write in writes:
                for key, chunk in write.chunks:
                    if not txn.put(key, chunk, db=blocks, overwrite=False):
                        raise LedgerCorrupt("read log", f"block {key.hex()} is there already")
                for key in write.deleted:
                    txn.delete(key, db=blocks)
                for counter in write.counters:
                    total += self._raise_counter(txn, counter)
                if write.turn is not None:
                    turns = max(turns, write.turn + 1)
                for table, key, sealed in write.rows:
                    txn.put(key, sealed, db=self._tables[table])
            counted = Counted(turns, total % MODULUS)
            if counted != self._counted:
                self._put_counted(txn, counted)
            for portal_id, position in positions.items():
                sealed = self._sealer.seal(
                    layout.POSITIONS, portal_id, layout.pack_position(position)
                )
                txn.put(portal_id, sealed, db=self._tables[layout.POSITIONS])
        self._newest_commit.write(self._env.info()["last_txnid"])
        self._counted = counted

    def _let_go(self, size: int) -> None:
        """Have the kernel drop pages that are durable and hardly ever read again: those of the next
        commits then find warm memory, where new memory costs more than all else about a write.
        """
        self._kept_bytes += size
        if self._kept_bytes < LET_GO_BYTES:
            return
        start, end = self._kept_from, os.fstat(self._file).st_size
        if end - start < self._kept_bytes:
            # Pages of deleted batches were used again: it lies anywhere, and looking takes longer.
            if self._kept_bytes < LET_GO_ANYWHERE_BYTES:
                return
            start = 0
        os.posix_fadvise(self._file, start, end - start, os.POSIX_FADV_DONTNEED)
        self._kept_bytes, self._kept_from = 0, end

    def _put_counted(self, txn: lmdb.Transaction, counted: Counted) -> None:
        name = layout.TURNS_MARK
        sealed = self._sealer.seal(layout.MARKS, name, layout.pack_counted(counted))
        txn.put(name, sealed, db=self._tables[layout.MARKS])

    def _raise_counter(self, txn: lmdb.Transaction, counter: Counter) -> int:
        """A counter never goes back, whatever is handed in. By how much the sum changes."""
        table, key = self._tables[layout.COUNTERS], self._sealer.blind(counter.identity)
        sealed = txn.get(key, db=table)
        before = None if sealed is None else self._sealer.open(layout.COUNTERS, key, sealed)
        if before is not None and layout.unpack_counter(before).counter >= counter.counter:
            return 0
        packed = layout.pack_counter(counter)
        txn.put(key, self._sealer.seal(layout.COUNTERS, key, packed), db=table)
        gone = 0 if before is None else self._sealer.hash_counter(before)
        return self._sealer.hash_counter(packed) - gone

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
        writes += [parked for parked in self._queue.take_parked() if parked is not None]
        for write in writes:
            write.settled(stopped)
        self._on_stop(error)


def stored_of(packed: bytes, block: Block) -> Stored:
    """What a segment knows of a batch. The digest is computed without the GIL."""
    return Stored(
        sha256(packed).digest(), len(packed), len(block.columns), block.received_ns,
        block.basis.turn, block.turn is not None,
    )  # fmt: skip


def counters_of(index: TagIndex, numbers: object, counters: object) -> list[Counter]:
    """The advanced counters of a batch by identity, only the last of each tag."""
    latest = dict(zip(np.asarray(numbers).tolist(), np.asarray(counters).tolist(), strict=True))
    return [Counter(index.identity_of(number), counter) for number, counter in latest.items()]


def _ignore(_: BaseException | None) -> None:
    """For what nobody waits for: whatever rests on it fails with it."""
