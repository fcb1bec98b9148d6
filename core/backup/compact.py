"""Makes the files of a stopped service as small as what lives in them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import lmdb

from core.backup.copying import (
    LEDGER,
    Progress,
    copy_environments,
    environments,
    held,
    not_written,
    sync_file,
)
from core.errors import JinkuError
from core.files import DATA_FILE, OWNER_FILE, OwnerFile, sync_directory
from core.ledger.environment import DATABASES_MAX, probe
from core.ledger.heads import forget_newest, verify_heads
from core.ledger.seal import Sealer
from core.ledger.stamps import renew
from core.ledger.store import rows_from

_NEW: Final = "compact"
_PAGE: Final = 8192


@dataclass(frozen=True)
class Compacted:
    """One environment and its file's size in bytes, before and after."""

    name: str
    bytes_before: int
    bytes_after: int


def compact(directory: Path, sealer: Sealer, progress: Progress) -> list[Compacted]:
    """Rewrite every environment of a storage directory to its live pages.

    Each file is replaced by its rewritten copy in one step, when that is synced and every row of it
    was compared: killed at any instant, there is the old file or the new one, whole. `sealer` is the
    ledger's. Raises LedgerInUse while a service runs or a backup is taken, LedgerCorrupt if a file is
    damaged, SettingsError if there is no room.
    """
    with held(directory, alone=True):
        owner = OwnerFile(directory / "ledger" / OWNER_FILE)
        try:
            return [
                _compact(directory / name, sealer if name == LEDGER else None, progress)
                for name in environments(directory)
            ]
        finally:
            owner.release()


def _compact(path: Path, sealer: Sealer | None, progress: Progress) -> Compacted:
    new = path / _NEW
    shutil.rmtree(new, ignore_errors=True)
    verify_heads(path, f"{path.name}: its file")
    probe(path)
    new.mkdir(mode=0o700)
    try:
        before = (path / DATA_FILE).stat().st_size
        (transaction,) = copy_environments([(path, new)], progress)
        _compare(path, new, progress)
        if sealer is not None:
            renew(new, sealer, transaction)
        (new / DATA_FILE).chmod(0o600)
        sync_file(new / DATA_FILE)
        after = (new / DATA_FILE).stat().st_size
        forget_newest(path)
        (new / DATA_FILE).replace(path / DATA_FILE)
        sync_directory(path)
    except lmdb.Error as error:
        raise not_written(new, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return Compacted(path.name, before, after)


def _compare(old: Path, new: Path, progress: Progress) -> None:
    """JinkuError if one row differs."""
    count = 0
    with _open(old) as one, _open(new) as other:
        names = [bytes(key) for key, _ in rows_of(one)]
        if names != [bytes(key) for key, _ in rows_of(other)]:
            raise JinkuError(f"{new}: has not the databases of {old}")
        for name in names:
            handles = [env.open_db(name, create=False) for env in (one, other)]
            start = b""
            with one.begin() as txn, other.begin() as copied:
                while rows := rows_from(txn, handles[0], start, _PAGE):
                    if rows != rows_from(copied, handles[1], start, _PAGE):
                        raise JinkuError(f"{new}: database {name.decode()} differs from {old}")
                    start = rows[-1][0] + b"\x00"
                    count += len(rows)
                    progress("compare", count, count + 1)
                if rows_from(copied, handles[1], start, 1):
                    raise JinkuError(f"{new}: database {name.decode()} has more than {old}")
    progress("compare", count, count)


def rows_of(env: lmdb.Environment) -> list[tuple[bytes, bytes]]:
    """The names of an environment's databases, as rows of its first."""
    with env.begin() as txn, txn.cursor() as cursor:
        return [(bytes(key), bytes(value)) for key, value in cursor]


def _open(path: Path) -> lmdb.Environment:
    return lmdb.open(str(path), readonly=True, lock=False, readahead=False, max_dbs=DATABASES_MAX)
