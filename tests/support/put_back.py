"""Somebody who has the files of a ledger and no key: with an LMDB tool, or byte by byte."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb

Change = Callable[[lmdb.Transaction, lmdb._Database], object]


def rows(ledger: Path, number: int) -> dict[bytes, bytes]:
    """A numbered database of a ledger's directory, as a plain LMDB tool reads it."""
    with (
        lmdb.open(str(ledger), readonly=True, lock=False, max_dbs=128) as env,
        env.begin() as txn,
    ):
        handle = env.open_db(b"%d" % number, txn, create=False)
        return {bytes(key): bytes(value) for key, value in txn.cursor(db=handle)}


def edit(ledger: Path, number: int, change: Change) -> None:
    """As a plain LMDB tool edits it."""
    with lmdb.open(str(ledger), max_dbs=128) as env:
        handle = env.open_db(b"%d" % number)
        with env.begin(write=True) as txn:
            change(txn, handle)


def overwrite(ledger: Path, stored: bytes, other: bytes) -> None:
    """Put bytes in the place of others, of equal length, wherever these are in the file; also while a
    service has it open.
    """
    assert len(stored) == len(other)
    data = ledger / "data.mdb"
    content, at = data.read_bytes(), -1
    assert stored in content
    with data.open("r+b") as file:
        while (at := content.find(stored, at + 1)) >= 0:
            file.seek(at)
            file.write(other)


_BESIDE = """
import lmdb, sys
path, number, key, value, lock, times = sys.argv[1:]
with lmdb.open(path, max_dbs=128, map_size=1 << 30, lock=lock == "True") as env:
    handle = env.open_db(number.encode())
    for _ in range(int(times)):
        with env.begin(write=True) as txn:
            txn.put(bytes.fromhex(key), bytes.fromhex(value), db=handle)
"""


def put_beside(
    ledger: Path, number: int, key: bytes, value: bytes, *, lock: bool = True, times: int = 1
) -> None:
    """As `edit`, from another process, while a service has the ledger open; `lock`: heeding LMDB's."""
    arguments = [str(ledger), str(number), key.hex(), value.hex(), str(lock), str(times)]
    subprocess.run([sys.executable, "-c", _BESIDE, *arguments], check=True)
