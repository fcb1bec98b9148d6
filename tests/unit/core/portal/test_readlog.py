"""The read log: group commit, order, damage, and stopping at the first doubt."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from core.errors import LedgerCorrupt, LedgerStopped
from core.kernels import TagIndex
from core.portal.columns import Columns
from core.readlog import layout
from core.readlog.layout import Basis, Block, Counter, Position
from core.readlog.log import COMMIT_BYTES_MAX, LET_GO_BYTES, ReadLog

KEY = bytes(range(32))
PORTALS = [bytes([number]) * 16 for number in range(1, 4)]


def block(reads: int, seed: int = 0) -> Block:
    rng = np.random.default_rng(seed)
    u8 = rng.integers(0, 256, reads, np.uint8)
    columns = Columns(
        2, b"x" * 9, 1 + seed, rng.integers(0, 256, (reads, 12), np.uint8),
        rng.integers(0, 256, (reads, 16), np.uint8), u8, u8, u8.astype("<i2"),
        np.empty(0, "<u2"), np.empty(0, "<i2"), u8.astype("<u4"),
    )  # fmt: skip
    basis = Basis(1, seed, 0, bytes(32))
    return Block(columns, np.ones(reads, np.uint8), 5, 2, np.ones(256, np.uint8), 1, basis)


class Log:
    """A log in a directory, with what it told."""

    def __init__(self, path: Path) -> None:
        self.stopped: list[BaseException] = []
        self.settled: list[tuple[bytes, int, BaseException | None]] = []
        self.log = ReadLog(path, KEY, map_gib=1, on_stop=self.stopped.append)
        self.log.start()

    def put(self, portal_id: bytes, sequence: int, reads: int = 3, **more: Any) -> None:
        position = Position(epoch=1, last_sequence=sequence)
        sealed = self.log.seal_block(portal_id, 1, sequence, block(reads, sequence))
        self.log.submit(
            portal_id, position, sealed.chunks, more.get("counters", ()),
            lambda error: self.settled.append((portal_id, sequence, error)),
        )  # fmt: skip


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path)
    yield log
    log.log.close()


def resident_bytes(path: Path) -> int:
    """How much of a file the kernel keeps in memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        pages = (ctypes.c_ubyte * -(-len(view) // mmap.PAGESIZE))()
        at = np.frombuffer(view, np.uint8)
        address = ctypes.c_void_p(at.ctypes.data)
        assert not ctypes.CDLL(None).mincore(address, ctypes.c_size_t(len(view)), pages)
        del at
        return mmap.PAGESIZE * sum(one & 1 for one in pages)


def test_what_is_durable_is_not_kept_in_memory(opened: Log, tmp_path: Path) -> None:
    data = tmp_path / "data.mdb"
    for sequence in range(1, 65):
        opened.put(PORTALS[0], sequence, 16_384)
    opened.log.flush()
    assert data.stat().st_size > 6 * LET_GO_BYTES
    # Its end may wait for more; what LMDB itself looks at is little.
    assert resident_bytes(data) < 2 * LET_GO_BYTES + COMMIT_BYTES_MAX
    assert len(dict(opened.log.batches(PORTALS[0], 1))) == 64


def test_every_portals_batches_come_back_in_order(opened: Log, tmp_path: Path) -> None:
    def send(portal_id: bytes) -> None:
        for sequence in range(1, 21):
            opened.put(portal_id, sequence, 5000)

    threads = [threading.Thread(target=send, args=(portal_id,)) for portal_id in PORTALS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened.log.flush()
    for portal_id in PORTALS:
        order = [sequence for owner, sequence, _ in opened.settled if owner == portal_id]
        assert order == list(range(1, 21))
    opened.log.close()
    again = ReadLog(tmp_path, KEY, map_gib=1)
    for portal_id in PORTALS:
        assert again.position(portal_id) == Position(epoch=1, last_sequence=20)
        kept = list(again.batches(portal_id, 1, 15))
        assert [sequence for sequence, _ in kept] == list(range(15, 21))
        for sequence, stored in kept:
            expected = block(5000, sequence)
            assert np.array_equal(stored.columns.evidence, expected.columns.evidence)
        assert again.block(portal_id, 1, 21) is None
        assert again.block(portal_id, 2, 1) is None
    again.start()
    again.close()


def test_the_greater_counter_stays(opened: Log) -> None:
    index = TagIndex()
    tag, foreign = b"\x04" * 7, b"\x05" * 7
    index.put(tag, 3, 1, 0)
    for sequence, counter in enumerate((5, 9, 7), 1):
        opened.put(PORTALS[0], sequence, counters=[Counter(tag, counter), Counter(foreign, 1)])
    opened.log.flush()
    assert opened.log.load_counters(index) == 2
    found = index.get(tag)
    assert found is not None
    assert found.counter == 9


def test_a_counter_that_was_put_back_is_not_taken(opened: Log, tmp_path: Path) -> None:
    """With the older one an answer that was taken once would be taken again."""
    tags = [number.to_bytes(7) for number in range(1, 1500)]
    opened.put(PORTALS[0], 1, counters=[Counter(tag, 5) for tag in tags])
    opened.log.flush()
    opened.log.close()
    before, mark = rows(tmp_path, layout.COUNTERS), rows(tmp_path, layout.MARKS)
    log = Log(tmp_path)
    log.put(PORTALS[0], 2, counters=[Counter(tags[7], 900), Counter(tags[8], 4)])
    log.log.flush()
    log.log.close()
    after = rows(tmp_path, layout.COUNTERS)
    (changed,) = (key for key in after if after[key] != before[key])

    def load() -> int:
        log = ReadLog(tmp_path, KEY, map_gib=1)
        try:
            return log.load_counters(TagIndex())
        finally:
            log.start()
            log.close()

    assert load() == len(tags)
    for change, undo in (
        (
            lambda txn: txn.put(changed, before[changed]),
            lambda txn: txn.put(changed, after[changed]),
        ),
        (lambda txn: txn.delete(changed), lambda txn: txn.put(changed, after[changed])),
    ):
        damage(tmp_path, change, layout.COUNTERS)
        with pytest.raises(LedgerCorrupt, match="some were put back to older ones, or removed"):
            load()
        damage(tmp_path, undo, layout.COUNTERS)
        assert load() == len(tags)
    # The sum alone.
    damage(tmp_path, lambda txn: txn.put(layout.TURNS_MARK, mark[layout.TURNS_MARK]), layout.MARKS)
    with pytest.raises(LedgerCorrupt, match="some were put back"):
        load()
    # And without it.
    damage(tmp_path, lambda txn: txn.delete(layout.TURNS_MARK), layout.MARKS)
    with pytest.raises(LedgerCorrupt, match="some were put back"):
        load()


def test_another_key_is_refused(opened: Log, tmp_path: Path) -> None:
    opened.put(PORTALS[0], 1)
    opened.log.close()
    with pytest.raises(LedgerCorrupt):
        ReadLog(tmp_path, bytes(32), map_gib=1)


def rows(path: Path, number: int) -> dict[bytes, bytes]:
    with lmdb.open(str(path), max_dbs=8, map_size=1 << 30) as env:
        table = env.open_db(b"%d" % number)
        with env.begin(db=table) as txn, txn.cursor() as cursor:
            return {bytes(key): bytes(value) for key, value in cursor}


def damage(path: Path, change: Any, number: int = layout.BLOCKS) -> None:
    with lmdb.open(str(path), max_dbs=8, map_size=1 << 30) as env:
        table = env.open_db(b"%d" % number)
        with env.begin(write=True, db=table) as txn:
            change(txn)


def test_damage_is_found(opened: Log, tmp_path: Path) -> None:
    opened.put(PORTALS[0], 1, 5000)
    opened.put(PORTALS[1], 1, 5000)
    opened.log.close()
    first, second = (layout.block_key(PORTALS[0], 1, 1, chunk) for chunk in (0, 1))
    other = layout.block_key(PORTALS[1], 1, 1, 0)
    changes = [
        lambda txn: txn.put(first, bytes(txn.get(other))),
        lambda txn: txn.put(first, bytes(txn.get(second))),
        lambda txn: txn.put(first, txn.get(first)[:-1] + b"\x00\x01"),
        lambda txn: txn.delete(second),
        lambda txn: txn.delete(first),
    ]
    for change in changes:
        damage(tmp_path, change)
        log = ReadLog(tmp_path, KEY, map_gib=1)
        with pytest.raises(LedgerCorrupt):
            log.block(PORTALS[0], 1, 1)
        log.start()
        log.close()


def test_stops_at_the_first_doubt(opened: Log) -> None:
    opened.put(PORTALS[0], 1)
    opened.log.flush()
    # The same key a second time can only be a bug: nothing of that commit is acknowledged.
    opened.put(PORTALS[0], 1)
    with pytest.raises(LedgerStopped):
        opened.log.flush()
    assert len(opened.stopped) == 1
    assert [type(error) for _, _, error in opened.settled] == [type(None), LedgerStopped]
    with pytest.raises(LedgerStopped):
        opened.put(PORTALS[1], 1)
    assert opened.log.position(PORTALS[1]) is None
