"""Copies of LMDB environments as they all stood at one instant, also while another process writes.

A child process does it, for the same reason as with `probe`: LMDB trusts its file, and reading a
damaged one can end a process. The child opens for reading only, beside the service: LMDB's reader
table keeps the pages of its snapshots from being used again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from core.errors import JinkuError, LedgerCorrupt, LedgerInUse, SettingsError
from core.files import DATA_FILE, naming, sync_directory
from core.ledger.environment import READERS_MAX, explain, reserve_readers, told

Progress = Callable[[str, int, int], None]

LEDGER: Final = "ledger"
_FILES: Final = "the ledger's or the read log's file"
_MIB: Final = 1 << 20
_TOLD_SECONDS: Final = 0.1

# The snapshots are of one instant: none of the environments has gone on since its own was taken, when
# the last one was. 3: LMDB says no; the last line is for `told`.
_COPY = """
import ctypes, lmdb, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with its parent
pairs = list(zip(sys.argv[1::2], sys.argv[2::2]))
try:
    # map_size 0: that of the writer, who may make the file longer at any moment.
    envs = [lmdb.open(source, map_size=0, readonly=True, readahead=False) for source, _ in pairs]
    for env in envs:
        env.reader_check()  # of a backup that was killed: its snapshot would keep pages for ever
    while True:
        txns = [env.begin() for env in envs]
        if all(env.info()["last_txnid"] == txn.id() for env, txn in zip(envs, txns)):
            break
        for txn in txns:
            txn.abort()
    for env, txn, (_, target) in zip(envs, txns, pairs):
        env.copy(target, compact=True, txn=txn)
        print(txn.id())
except lmdb.Error as error:
    print(type(error).__name__, error)
    sys.exit(3)
"""


def environments(directory: Path) -> list[str]:
    """Names of the directories of LMDB environments in a storage directory."""
    return sorted(path.parent.name for path in directory.glob(f"*/{DATA_FILE}"))


def copy_environments(pairs: Sequence[tuple[Path, Path]], progress: Progress) -> list[int]:
    """Copy each environment into its new, existing directory: live pages only, all of one instant.
    LMDB's numbers of the transactions that they were copied as of; in the copies it counts anew.

    Everything that was committed when this is called is in the copies. Not synced yet. LedgerCorrupt
    if a page that is read is damaged, SettingsError if there is no room.
    """
    for source, _ in pairs:
        # The child may be the first since the machine was started that opens it.
        reserve_readers(source, READERS_MAX)
    total = sum((source / DATA_FILE).stat().st_blocks * 512 for source, _ in pairs) // _MIB
    arguments = [str(path) for pair in pairs for path in pair]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _COPY, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            while child.poll() is None:
                time.sleep(_TOLD_SECONDS)
                done = sum(_size(target / DATA_FILE) for _, target in pairs)
                if done > _MIB + sum(_size(source / DATA_FILE) for source, _ in pairs):
                    raise LedgerCorrupt(_FILES, "a page points back: the copy gets longer than it")
                progress("copy (MiB)", min(done // _MIB, total), total + 1)
        except BaseException:
            child.kill()
            raise
        said, errors = child.communicate()
    if child.returncode == 3:
        raise not_written(pairs[0][1].parent, told(said))
    if child.returncode < 0:
        how = signal.Signals(-child.returncode).name
        raise LedgerCorrupt(_FILES, f"its pages are damaged or cut off: copying it ends in {how}")
    if child.returncode:
        raise JinkuError(f"{pairs[0][0]}: could not be copied: {errors.strip()}")
    done = sum(_size(target / DATA_FILE) for _, target in pairs) // _MIB
    progress("copy (MiB)", done, done)
    return [int(transaction) for transaction in said.split()]


def not_written(place: Path, error: lmdb.Error) -> Exception:
    """What to say of an error of LMDB's while a copy was made below `place`: if nothing else is known
    of it, there is no room.
    """
    known = explain(error, _FILES)
    if known is not error:
        return known
    return SettingsError(f"{place}: {error}; make room, or name another place")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def held(directory: Path, *, alone: bool) -> Iterator[None]:
    """Keep a storage directory's files in their place: `alone` to replace them, else to read them
    beside a running service. LedgerInUse if somebody who excludes that is at it.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        what = "a backup is being taken of it" if alone else "it is being compacted"
        raise LedgerInUse(f"{directory}: {what}") from None
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def appearing(directory: Path) -> Iterator[Path]:
    """A directory beside this one that takes its name when the block has ended, synced: there is the
    whole of it or nothing.

    SettingsError if there is something under that name, or no room, and as `unfinished` says.
    """
    refuse_existing(directory)
    with unfinished(directory) as partial:
        try:
            yield partial
        except lmdb.Error as error:
            raise not_written(partial, error) from error
        for folder, _, names in os.walk(partial):
            for name in names:
                sync_file(Path(folder) / name)
            sync_directory(Path(folder))
        refuse_existing(directory)
        partial.rename(directory)
        sync_directory(directory.parent)


@contextmanager
def unfinished(output: Path) -> Iterator[Path]:
    """An empty directory beside `output`, for what has not its name yet: removed when the block has
    ended, and what an earlier, killed attempt left in it is removed first.

    SettingsError if it is a link, or somebody else is at it, or `output` has no name.
    """
    if output.name in {"", ".."}:
        raise SettingsError(f"{output}: has no name of its own; give that of what is to be made")
    partial = output.with_name(f"{output.name}.partial")
    if partial.is_symlink():
        raise SettingsError(f"{partial}: is a link, and is not followed; remove it")
    partial.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SettingsError(f"{partial}: another process is writing it") from None
    try:
        _empty(partial)
        with naming(partial):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(descriptor)


def refuse_existing(directory: Path) -> None:
    """SettingsError if there is anything under this name but an empty directory that can be replaced."""
    if directory.is_mount():
        raise SettingsError(f"{directory}: a file system is mounted there; name a directory in it")
    if directory.is_symlink() or (
        directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    ):
        raise SettingsError(f"{directory}: is there already, and is never overwritten")


def sync_file(path: Path) -> None:
    """Its content survives a power cut from now on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
