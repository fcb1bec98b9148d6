"""Opens a ledger or a read log as the service does, and says what is in it; in a process of its own,
because a damaged file can end one.

    python state_reader.py DIRECTORY        then a line each: `ledger` or `reads`

Answers a line: `opened ENTRIES DIGEST`, DIGEST over every row as it is stored, or `corrupt WHAT`.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

import lmdb

from core.errors import LedgerCorrupt
from core.keys import RealmKeys
from core.readlog.log import ReadLog
from ledgers import reopen
from traced_commits import PORTAL


def open_ledger(directory: Path) -> int:
    ledger = reopen(directory)
    try:
        return ledger.size
    finally:
        ledger.close()


def open_reads(directory: Path) -> int:
    log = ReadLog(directory / "readlog", RealmKeys.load(directory / "keys").readlog_key, map_gib=1)
    try:
        position = log.position(PORTAL)
        for sequence, block in log.batches(PORTAL, 1):
            if position is None or sequence > position.last_sequence or not len(block.columns):
                raise LedgerCorrupt(f"batch {sequence}", "is beyond the position")
        return position.last_sequence if position is not None else 0
    finally:
        log.start()
        log.close()


def digest_rows(path: Path) -> str:
    """Over every database's name, keys and values."""
    hashed = sha256()
    with (
        lmdb.open(str(path), readonly=True, lock=False, max_dbs=128, map_size=1 << 30) as env,
        env.begin() as txn,
    ):
        for name in [bytes(key) for key, _ in txn.cursor()]:
            for key, value in txn.cursor(db=env.open_db(name, txn=txn, create=False)):
                for part in (name, bytes(key), bytes(value)):
                    hashed.update(len(part).to_bytes(4) + part)
    return hashed.hexdigest()


def main(directory: Path) -> None:
    for line in sys.stdin:
        store, read = ("ledger", open_ledger) if line == "ledger\n" else ("readlog", open_reads)
        try:
            entries = read(directory)
            print(f"opened {entries} {digest_rows(directory / store)}", flush=True)
        except (LedgerCorrupt, lmdb.Error) as error:
            print(f"corrupt {type(error).__name__} {error}".replace("\n", " "), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
