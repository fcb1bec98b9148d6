"""The ledger's LMDB environment: opened so that an acknowledged commit survives a power cut."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import lmdb

from core.errors import LedgerBusy, LedgerCorrupt, LedgerFull, LedgerStopped, SettingsError
from core.files import DATA_FILE, naming, sync_directory
from core.ledger import layout
from core.ledger.heads import verify_heads
from core.ledger.tables import BESIDE, TABLES

# What LMDB says of a file that it did not leave like this.
_DAMAGE: Final = (
    lmdb.BadDbiError, lmdb.BadTxnError, lmdb.BadValsizeError, lmdb.CorruptedError,
    lmdb.CursorFullError, lmdb.IncompatibleError, lmdb.InvalidError, lmdb.PageFullError,
    lmdb.PageNotFoundError, lmdb.VersionMismatchError,
)  # fmt: skip
FILE: Final = "the ledger's file"
# Snapshots that LMDB has room for, in all threads together. A call holds one at a time.
READERS_MAX: Final = 512
DATABASES_MAX: Final = 128
# Of LMDB's table of readers: a head of two, and one for each.
_LOCK_FILE: Final = "lock.mdb"
_READER_BYTES: Final = 64


def open_environment(
    path: Path, map_gib: int
) -> tuple[lmdb.Environment, dict[int, lmdb._Database]]:
    """An LMDB environment whose acknowledged commits survive a power cut, and its numbered
    databases. OSError if there is no room for the table of its readers.
    """
    verify_heads(path, FILE)
    reserve_readers(path, READERS_MAX)
    try:
        env = lmdb.open(
            str(path), map_size=map_gib << 30, max_dbs=DATABASES_MAX, max_readers=READERS_MAX,
            sync=True, metasync=True, writemap=False, readahead=False, mode=0o600,
        )  # fmt: skip
    except lmdb.Error as error:
        raise explain(error) from error
    try:
        env.reader_check()
        numbers = [t.number for t in TABLES + BESIDE]
        numbers += [layout.JOURNAL, layout.NODES, layout.CHECKPOINTS, layout.STAMPS]
        handles = {number: env.open_db(b"%d" % number) for number in numbers}
    except lmdb.Error as error:
        env.close()
        raise explain(error) from error
    # LMDB syncs its files, not the directories that name them.
    sync_directory(path)
    sync_directory(path.parent)
    return env, handles


def reserve_readers(path: Path, readers: int) -> None:
    """Make room on the disk for so many readers of the environment in a directory, before LMDB opens it.

    LMDB takes their number from the length of this file, whoever made it, and writes to it through a
    mapping: where the disk has no room for that, the process is ended instead of told.
    """
    file = path / _LOCK_FILE
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with naming(file):
            os.posix_fallocate(descriptor, 0, (readers + 2) * _READER_BYTES)
    finally:
        os.close(descriptor)


# Reads every row of every database in order, and looks each up by its key; 3: LMDB says no, or a tree is
# not one. The last line is for `told`.
_PROBE = """
import lmdb, sys

def look(cursor, keys):
    if len(cursor.getmulti(keys)) != len(keys):
        print("CorruptedError a row that is there is not found by its key: a page above it is damaged")
        sys.exit(3)

try:
    env = lmdb.open(sys.argv[1], readonly=True, lock=False, max_dbs=128)
    with env.begin() as txn:
        for name in [bytes(key) for key, _ in txn.cursor()]:
            handle = env.open_db(name, txn=txn, create=False)
            before, keys, looked = b"", [], txn.cursor(db=handle)
            for key, value in txn.cursor(db=handle):
                if bytes(key) <= before:
                    print("CorruptedError keys do not ascend: a page points back, or to another's")
                    sys.exit(3)
                before = bytes(key)
                keys.append(before)
                if len(keys) == 1024:
                    look(looked, keys)
                    keys = []
            look(looked, keys)
except lmdb.NotFoundError:
    print("CorruptedError a database that is listed is not found under its name")
    sys.exit(3)
except lmdb.Error as error:
    print(type(error).__name__, error)
    sys.exit(3)
"""


def probe(path: Path) -> None:
    """Read the whole environment in a child process. LedgerCorrupt if that one does not survive,
    SettingsError or lmdb.Error if it cannot be read, which says nothing of what is in it.

    LMDB trusts its file: a page that points nowhere, or a file that was cut off, can end a process.
    """
    if not (path / DATA_FILE).exists():
        return
    child = subprocess.run(
        [sys.executable, "-P", "-c", _PROBE, str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if child.returncode == 3:
        raise explain(told(child.stdout))
    if child.returncode < 0:
        how = signal.Signals(-child.returncode).name
        raise LedgerCorrupt(FILE, f"its pages are damaged or cut off: reading it ends in {how}")
    if child.returncode:
        raise SettingsError(f"{path}: could not be probed: {child.stderr.strip()}")


def told(said: str) -> lmdb.Error:
    """LMDB's error of a child process that has written its name and its text as the last line."""
    name, _, text = said.strip().rpartition("\n")[2].partition(" ")
    kind: type[lmdb.Error] = getattr(lmdb, name)
    return kind(text)


def explain(error: lmdb.Error, where: str = FILE) -> Exception:
    """What LMDB says of a file, as ours if it is about what is stored, how much there is room for, who
    may use it, or that it has stopped.
    """
    if isinstance(error, lmdb.MapFullError):
        return LedgerFull("the ledger's map is full: raise storage.ledger_map_gib, start again")
    if isinstance(error, lmdb.ReadersFullError):
        return LedgerBusy("too many snapshots of the ledger are open at once; repeat later")
    if isinstance(error, lmdb.PanicError):
        # Since its head could not be written LMDB does nothing any more.
        return LedgerStopped("an earlier commit failed; open the ledger again")
    if isinstance(error, lmdb.ReadonlyError):
        # LMDB names the directory.
        return SettingsError(
            f"{error}; data.mdb and lock.mdb there must be the service's user's, with mode 600: run "
            "this as that user, or give them to it"
        )
    return LedgerCorrupt(where, str(error)) if isinstance(error, _DAMAGE) else error


def foreign(found: int, own: int) -> LedgerCorrupt:
    """What to say of a file that another program has written to."""
    what = (
        "was written by another program than this service, or put back in part: LMDB is at "
        f"transaction {found}, and the service's last one was {own}; run `jinkud fsck`"
    )
    return LedgerCorrupt(FILE, what)
