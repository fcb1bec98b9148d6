"""A ledger whose file somebody else wrote to is not served, and an older row put back is not answered."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import lmdb
import pytest

from core.errors import LedgerCorrupt, LedgerStopped
from core.fsck import fsck
from core.ledger import layout
from core.ledger.currency import MARKS
from core.ledger.heads import NEWEST_FILE
from core.ledger.ledger import Ledger
from core.ledger.tables import (
    CHANGING,
    CONTAINERS,
    SUPPRESSED,
    TABLES,
    TAGS,
    IndexKind,
)
from core.sequencer import Sequencer
from core.store.v1.commands_pb2 import RecordPassage
from core.store.v1.rows_pb2 import ContainerRow, SuppressedRow, TagRow
from jinku.type.v1.tag_pb2 import Direction
from ledgers import HANDLERS, command, reopen
from put_back import edit, overwrite, put_beside, rows
from registrar import Registrar, container, freeze, institution, issue, portal, unfreeze, vault

FIRST = bytes([1]) * 12
JOURNAL, NODES, CHECKPOINTS, STAMPS = (
    layout.JOURNAL, layout.NODES, layout.CHECKPOINTS, layout.STAMPS,
)  # fmt: skip


class Site:
    """A ledger with a few tags; `older` are its rows before the last of them changed."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.ledger_path = directory / "ledger"
        self.registrar = Registrar(directory)
        self.portal_id = b""
        for request in (institution(), vault(), portal()):
            self.registrar.accept(request)
        for number in range(1, 6):
            self.registrar.accept(container(f"B-{number}"))
            self.registrar.accept(issue(bytes([number]) * 12, f"B-{number}"))
        with self.ledger.read() as state:
            found = [
                state.find(kind, name)
                for kind, name in (
                    (IndexKind.TAG_IDENTITY, FIRST),
                    (IndexKind.CONTAINER_LABEL, b"B-1"),
                    (IndexKind.PORTAL_NAME, b"gate-1"),
                )
            ]
        self.tag_id, self.container_id, self.portal_id = (one or b"" for one in found)
        self.pass_portal(1, "DIRECTION_IN")
        self.older = {number: dict(self.ledger.raw_rows(number)) for number in CHANGING}
        self.frozen = False
        self.change(1)
        self.pass_portal(2, "DIRECTION_OUT")

    @property
    def ledger(self) -> Ledger:
        return self.registrar.ledger

    def pass_portal(self, at: int, direction: str) -> None:
        request = RecordPassage(
            portal_id=self.portal_id, tag_id=self.tag_id, direction=Direction.Value(direction),
            portal_epoch=1, first_sequence=at, last_read_ns=at,
        )  # fmt: skip
        (committed,) = self.registrar.writer.commit([command(request)])
        if isinstance(committed, Exception):
            raise committed
        assert committed.accepted

    def change(self, count: int) -> None:
        """So many commits, each of which changes a row that changed before."""
        for _ in range(count):
            self.registrar.accept((unfreeze if self.frozen else freeze)(FIRST))
            self.frozen = not self.frozen

    def reopen(self, **options: bool) -> Ledger:
        self.ledger.close()
        self.registrar = Registrar.of(reopen(self.path, **options))
        return self.ledger

    def tag(self) -> TagRow:
        with self.ledger.read() as state:
            row = state.get(TAGS, self.tag_id)
        assert row is not None
        return row


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.ledger.close()


# ── another program wrote to the file ───────────────────────────────────────────────────────────


def test_what_this_service_left_is_opened_again_and_believed(site: Site) -> None:
    for _ in range(3):
        assert site.reopen().doubt == ""
        site.change(2)
    assert site.tag().state == 2
    site.registrar.verify()


def put_older(site: Site, number: int, key: bytes) -> None:
    edit(site.ledger_path, number, lambda txn, db: txn.put(key, site.older[number][key], db=db))


def cut_last_commit(site: Site) -> None:
    for number in (JOURNAL, CHECKPOINTS):
        edit(site.ledger_path, number, lambda txn, db: txn.delete(last_key(txn, db), db=db))
    last = layout.key_index(max(rows(site.ledger_path, CHECKPOINTS)))
    level = 0
    while True:
        node = layout.node_key(level, last >> level)
        edit(site.ledger_path, NODES, lambda txn, db, node=node: txn.delete(node, db=db))
        if not last >> level & 1:
            return
        level += 1


def last_key(txn: lmdb.Transaction, db: lmdb._Database) -> bytes:
    with txn.cursor(db=db) as cursor:
        cursor.last()
        return bytes(cursor.key())


FOREIGN: dict[str, tuple[Callable[[Site], None], str]] = {
    "older row": (lambda site: put_older(site, TAGS.number, site.tag_id), "by another program"),
    "the same row": (
        lambda site: edit(
            site.ledger_path, TAGS.number,
            lambda txn, db: txn.put(site.tag_id, txn.get(site.tag_id, db=db) or b"", db=db),
        ),
        "by another program",
    ),
    "row deleted": (
        lambda site: edit(
            site.ledger_path, TAGS.number, lambda txn, db: txn.delete(site.tag_id, db=db)
        ),
        f"table {TAGS.number}: has 4 rows, and the last commit left 5",
    ),
    "row of no table that changes": (
        lambda site: edit(
            site.ledger_path, 8, lambda txn, db: txn.delete(last_key(txn, db), db=db)
        ),
        "table 8: has",
    ),
    "journal cut clean": (cut_last_commit, "the journal: ends with"),
    "stamp gone": (
        lambda site: edit(
            site.ledger_path, STAMPS, lambda txn, db: txn.delete(last_key(txn, db), db=db)
        ),
        "the journal: ends with",
    ),
    "new database": (lambda site: edit(site.ledger_path, 999, lambda txn, db: None), "another"),
}  # fmt: skip


@pytest.mark.parametrize("how", FOREIGN)
def test_a_file_that_another_program_wrote_to_is_not_opened(site: Site, how: str) -> None:
    change, named = FOREIGN[how]
    site.ledger.close()
    change(site)
    with pytest.raises(LedgerCorrupt, match=f"{named}.*jinkud fsck"):
        reopen(site.path)
    # But by who says more.
    found = reopen(site.path, as_found=True)
    assert named in found.doubt
    found.close()


def test_what_was_verified_is_believed_again(site: Site) -> None:
    """Nothing was wrong with what the other program wrote."""
    site.ledger.close()
    FOREIGN["the same row"][0](site)
    found = reopen(site.path, as_found=True)
    fsck(found)
    found.believe()
    found.close()
    assert site.reopen().doubt == ""
    site.change(1)


@pytest.mark.parametrize("how", ["row deleted", "journal cut clean"])
def test_nobody_believes_another_end(site: Site, how: str) -> None:
    site.ledger.close()
    FOREIGN[how][0](site)
    found = reopen(site.path, as_found=True)
    with pytest.raises(LedgerCorrupt, match="last commit left"):
        found.believe()
    found.close()


def test_a_write_beside_the_open_ledger_is_noticed_at_once(site: Site) -> None:
    site.tag()
    put_beside(site.ledger_path, *older_tag(site))
    for _ in range(2):
        with pytest.raises(LedgerCorrupt, match="by another program"):
            site.tag()
        with pytest.raises(LedgerCorrupt, match="by another program"):
            site.change(1)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_write_that_heeds_no_lock_is_noticed_too(site: Site, times: int) -> None:
    site.tag()
    put_beside(site.ledger_path, *older_tag(site), lock=False, times=times)
    with pytest.raises(LedgerCorrupt, match="by another program"):
        site.change(1)


def older_tag(site: Site) -> tuple[int, bytes, bytes]:
    return TAGS.number, site.tag_id, site.older[TAGS.number][site.tag_id]


def test_the_sequencer_stops_for_good(site: Site) -> None:
    stopped: list[BaseException] = []
    sequencer = Sequencer(site.ledger, HANDLERS, on_stop=stopped.append)
    sequencer.start()
    sequencer.submit(command(unfreeze(FIRST))).result(20)
    put_beside(site.ledger_path, *older_tag(site))
    with pytest.raises(LedgerStopped):
        sequencer.submit(command(freeze(FIRST))).result(20)
    sequencer.stop()
    (error,) = stopped
    assert isinstance(error, LedgerCorrupt)


def test_rows_beside_alone_are_stamped(site: Site) -> None:
    def suppress(batch: Any, count: int) -> None:
        batch.tables.put_beside(SUPPRESSED, b"somebody", SuppressedRow(count=count))

    for count in (1, 2):
        site.ledger.append_if(site.ledger.head, lambda batch, count=count: suppress(batch, count))
    assert site.reopen().doubt == ""
    with site.ledger.read() as state:
        assert state.get(SUPPRESSED, b"somebody") == SuppressedRow(count=2)
    before = dict(site.ledger.raw_rows(STAMPS))
    site.ledger.append_if(site.ledger.head, lambda batch: list(batch.state.scan(SUPPRESSED)))
    assert dict(site.ledger.raw_rows(STAMPS)) == before


def test_the_page_of_the_commit_before_is_the_ledger_before(site: Site) -> None:
    """LMDB falls back to its other head: an older ledger, whole, with its own stamp. That is what a power
    cut leaves of a commit that nobody was told of.
    """
    size = site.ledger.size
    site.ledger.close()
    heads = Heads(site.ledger_path / "data.mdb")
    heads.write(heads.newest, heads.numbers[heads.newest] - 2)
    # Of a commit that was acknowledged there is its number beside the file.
    with pytest.raises(LedgerCorrupt, match="the last one acknowledged was"):
        reopen(site.path)
    (site.ledger_path / NEWEST_FILE).unlink()
    assert site.reopen().size == size - 1


def test_a_head_that_lost_a_bit_is_no_older_ledger(site: Site) -> None:
    """LMDB alone would take the other head, and the newest commit would be gone without a word."""
    site.ledger.close()
    heads = Heads(site.ledger_path / "data.mdb")
    for page, number in enumerate(heads.numbers):
        for bit in range(64):
            heads.write(page, number ^ 1 << bit)
            with pytest.raises(
                LedgerCorrupt, match="its heads are of|the last one acknowledged|another program"
            ):
                reopen(site.path)
        heads.write(page, number)
    assert site.reopen().doubt == ""


@pytest.mark.parametrize("cut", [1, 151, 4096, 4096 + 151])
def test_heads_that_are_cut_off(site: Site, cut: int) -> None:
    site.ledger.close()
    data = site.ledger_path / "data.mdb"
    data.write_bytes(data.read_bytes()[:cut])
    with pytest.raises(LedgerCorrupt, match="its heads are damaged or cut off"):
        reopen(site.path)


class Heads:
    """The numbers of the transactions that LMDB's two heads are of."""

    def __init__(self, data: Path) -> None:
        self._data = data
        content = data.read_bytes()
        self.numbers = [struct.unpack_from("<Q", content, page * 4096 + 144)[0] for page in (0, 1)]
        self.newest = self.numbers.index(max(self.numbers))

    def write(self, page: int, number: int) -> None:
        content = bytearray(self._data.read_bytes())
        struct.pack_into("<Q", content, page * 4096 + 144, number)
        self._data.write_bytes(content)


# ── an older row, put back byte by byte ─────────────────────────────────────────────────────────


def put_back_bytes(site: Site, number: int, key: bytes) -> None:
    overwrite(site.ledger_path, rows(site.ledger_path, number)[key], site.older[number][key])


@pytest.mark.parametrize("table", [TAGS, CONTAINERS], ids=["tag", "custody"])
def test_an_older_row_put_back_is_never_answered(site: Site, table: Any) -> None:
    key = site.tag_id if table is TAGS else site.container_id
    site.ledger.close()
    put_back_bytes(site, table.number, key)
    ledger = site.reopen()
    assert ledger.doubt == ""
    named = f"table {table.number}, row {key.hex()}: is an older version, put back"
    with ledger.read() as state:
        with pytest.raises(LedgerCorrupt, match=named):
            state.get(table, key)
        with pytest.raises(LedgerCorrupt, match=named):
            list(state.scan(table))
        with pytest.raises(LedgerCorrupt, match=named):
            state.last(table, key, 16)
    with pytest.raises(LedgerCorrupt, match=named):
        site.registrar.get(label="B-1")
    # Nor decided on, and nothing is written over it.
    with pytest.raises(Exception, match=named):
        site.change(1) if table is TAGS else site.pass_portal(3, "DIRECTION_IN")
    with pytest.raises(LedgerCorrupt, match="is not what the journal makes of it"):
        fsck(ledger)


def test_an_older_row_is_not_laundered_by_writing_over_it(site: Site) -> None:
    """By a command that does not read it first."""
    site.ledger.close()
    put_back_bytes(site, CONTAINERS.number, site.container_id)
    ledger = site.reopen()

    def write(batch: Any) -> None:
        batch.tables.put(CONTAINERS, site.container_id, ContainerRow(label="anything"))

    with pytest.raises(LedgerCorrupt, match="is an older version, put back"):
        ledger.append_if(ledger.head, write)
    with (
        ledger.read() as state,
        pytest.raises(LedgerCorrupt, match="is an older version, put back"),
    ):
        state.get(CONTAINERS, site.container_id)


def test_every_table_says_whether_its_rows_change(site: Site) -> None:
    """Rows of the others are never written again: an older version of one is no other one."""
    seen: dict[tuple[int, bytes], bytes] = {}
    still = [table.number for table in TABLES if table.number not in CHANGING]
    for step in range(3):
        for number in still:
            for key, value in site.ledger.raw_rows(number):
                assert seen.setdefault((number, key), value) == value
        site.change(2)
        site.pass_portal(10 + step, "DIRECTION_IN")


# ── the snapshot of the marks ───────────────────────────────────────────────────────────────────


def trimmed(site: Site) -> Path:
    """A closed ledger whose first stamps are deleted, because a snapshot holds what they said."""
    site.ledger.save_marks()
    site.change(2)
    site.ledger.close()
    return site.ledger_path / MARKS


def stamps(site: Site) -> list[int]:
    return [layout.key_index(key) for key, _ in site.ledger.raw_rows(STAMPS)]


def test_a_start_from_snapshot_and_stamps(site: Site) -> None:
    trimmed(site)
    assert site.reopen().doubt == ""
    assert len(stamps(site)) == 2
    assert site.tag().state == 2
    site.change(3)
    assert site.reopen().doubt == ""


def test_an_older_row_is_found_by_snapshot_and_stamps(site: Site) -> None:
    trimmed(site)
    put_back_bytes(site, TAGS.number, site.tag_id)
    site.reopen()
    with pytest.raises(LedgerCorrupt, match="older version"):
        site.tag()


SNAPSHOT_FAULTS: dict[str, Callable[[Path, bytes], object]] = {
    "there is none": lambda path, older: path.unlink(),
    "are not all there": lambda path, older: path.write_bytes(older),
    "does not open": lambda path, older: path.write_bytes(
        path.read_bytes()[:-9] + bytes([path.read_bytes()[-9] ^ 4]) + path.read_bytes()[-8:]
    ),
    "is not whole": lambda path, older: path.write_bytes(path.read_bytes()[:-9]),
    "unknown layout": lambda path, older: path.write_bytes(b"something else"),
}


@pytest.mark.parametrize("why", SNAPSHOT_FAULTS)
def test_without_a_snapshot_nothing_is_believed_until_it_was_verified(site: Site, why: str) -> None:
    site.ledger.save_marks()
    older = (site.ledger_path / MARKS).read_bytes()
    site.change(2)
    path = trimmed(site)
    SNAPSHOT_FAULTS[why](path, older)
    ledger = site.reopen()
    assert why in ledger.doubt
    assert not ledger.marks_due(ending=True)
    fsck(ledger)
    ledger.believe()
    assert ledger.doubt == ""
    assert site.reopen().doubt == ""
    assert site.tag().state == 2


def test_every_change_of_the_snapshot_is_found(site: Site) -> None:
    path = trimmed(site)
    sound = path.read_bytes()
    chance = random.Random(1)
    for at in [*range(60), *chance.sample(range(60, len(sound)), 20)]:
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
        assert site.reopen().doubt
    path.write_bytes(sound)
    assert site.reopen().doubt == ""


def test_a_suspect_ledger_is_verified_first(site: Site) -> None:
    site.ledger.suspect()
    assert "was not known" in site.reopen().doubt


def test_a_ledger_of_an_earlier_version_is_verified_first(site: Site) -> None:
    """Its commits have no stamps."""
    site.ledger.close()
    edit(site.ledger_path, STAMPS, lambda txn, db: txn.drop(db, delete=False))
    ledger = site.reopen()
    assert ledger.doubt == "its commits have no stamps yet"
    site.change(1)
    # Nor are they after the first one that has.
    assert site.reopen().doubt
    fsck(site.ledger)
    site.ledger.believe()
    site.change(1)
    assert site.reopen().doubt == ""


def test_a_snapshot_of_another_past_is_not_taken(site: Site, tmp_path: Path) -> None:
    """The ledger was put back and went on otherwise; position and size are the same."""
    site.ledger.save_marks()
    site.ledger.close()
    kept = tmp_path / "kept"
    shutil.copytree(site.ledger_path, kept)
    site.reopen()
    site.change(1)
    other = trimmed(site).read_bytes()
    shutil.rmtree(site.ledger_path)
    shutil.copytree(kept, site.ledger_path)
    site.frozen = True
    site.reopen()
    site.change(1)
    trimmed(site)
    (site.ledger_path / MARKS).write_bytes(other)
    assert site.reopen().doubt


def test_stamps_that_a_snapshot_holds_are_deleted_little_by_little(site: Site) -> None:
    site.change(200)
    site.ledger.save_marks()
    counts = [len(stamps(site))]
    for _ in range(8):
        site.change(1)
        counts.append(len(stamps(site)))
    assert all(before - after <= 63 for before, after in pairwise(counts))
    assert counts[-1] == 8


def test_a_disk_that_is_full_keeps_the_snapshot_before(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed(site)
    site.reopen()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("core.sealed_parts.os.fdatasync", full)
        with pytest.raises(OSError, match="No space"):
            site.ledger.save_marks()
    assert site.reopen().doubt == ""


KILLED = """
import os, sys, threading, time
from itertools import pairwise
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from ledgers import reopen
from registrar import Registrar, freeze, unfreeze
registrar = Registrar.of(reopen(Path(sys.argv[1])))
assert registrar.ledger.doubt == "", registrar.ledger.doubt
threading.Timer(float(sys.argv[3]), lambda: os._exit(9)).start()
first = bytes([1]) * 12
def save():
    while True:
        registrar.ledger.save_marks()
threading.Thread(target=save, daemon=True).start()
number = 0
while True:
    for request in (unfreeze(first), freeze(first)):
        registrar.run(request)
"""


def test_killed_anywhere_while_it_is_saved(site: Site) -> None:
    site.ledger.close()
    support = str(Path(__file__).parents[2] / "support")
    chance = random.Random(5)
    for _ in range(12):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(site.path), support, str(chance.uniform(0.02, 0.4))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 9, done.stderr
    assert site.reopen().doubt == ""
    site.registrar.verify()


# ── reading while rows change ───────────────────────────────────────────────────────────────────


def test_readers_of_rows_that_change_are_never_told_that_they_are_old(site: Site) -> None:
    """Snapshots of a commit or more ago; and a row that is old is still found meanwhile."""
    site.ledger.close()
    second = site.older[TAGS.number]
    site.registrar = Registrar.of(reopen(site.path))
    site.registrar.accept(freeze(bytes([2]) * 12))
    site.ledger.close()
    changed = [
        key for key, value in rows(site.ledger_path, TAGS.number).items()
        if value != second[key] and key != site.tag_id
    ]  # fmt: skip
    (control,) = changed
    put_back_bytes(site, TAGS.number, control)
    site.registrar = Registrar.of(reopen(site.path))
    ending, errors, looks = threading.Event(), [], [0, 0]

    def read() -> None:
        while not ending.is_set():
            with site.ledger.read() as state:
                for _ in range(random.randrange(4)):
                    time.sleep(0)
                try:
                    assert state.get(TAGS, site.tag_id) is not None
                    looks[0] += 1
                except Exception as error:
                    errors.append(error)
            with site.ledger.read() as state:
                try:
                    state.get(TAGS, control)
                    errors.append(AssertionError("an older row was answered"))
                except LedgerCorrupt:
                    looks[1] += 1

    def read_late() -> None:
        """Of a snapshot that several commits have passed."""
        while not ending.is_set():
            with site.ledger.read() as state:
                time.sleep(0.01)
                try:
                    assert state.get(TAGS, site.tag_id) is not None
                    assert len(list(state.scan(CONTAINERS))) == 5
                except Exception as error:
                    errors.append(error)

    threads = [threading.Thread(target=one) for one in (read, read, read_late, read_late)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 60
    changes = 0
    while min(*looks, changes) < 400 and time.monotonic() < until and not errors:
        site.change(2)
        changes += 2
    ending.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert min(*looks, changes) >= 400, (looks, changes)


def test_marks_are_those_of_the_rows_after_any_history(site: Site) -> None:
    site.change(7)
    versions = site.ledger._currency.versions
    assert versions is not None
    marks = [value[:8] for number in CHANGING for _, value in site.ledger.raw_rows(number)]
    dumped = versions.dump()
    assert sorted(marks) == sorted(dumped[at : at + 8] for at in range(0, len(dumped), 8))
