"""Rows that wait in memory while a commit is made, and the one way from there into the tables.

Each is sealed once, however often it changed, and each table is written in order of its keys.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple

import lmdb

from core.ledger.seal import Sealer


class TableChange(NamedTuple):
    """All that one commit changes in one table."""

    number: int
    keys: list[bytes]  # of every row that changes, ascending
    rows: list[tuple[bytes, bytes]]  # those that are there afterwards, sealed, ascending
    removed: list[bytes]  # keys of the others, ascending

    def write(self, txn: lmdb.Transaction, handle: lmdb._Database) -> None:
        """Change the table; durable when the transaction commits."""
        for key in self.removed:
            txn.delete(key, db=handle)
        # In order of keys each page of the table is found once.
        with txn.cursor(db=handle) as cursor:
            cursor.putmulti(self.rows)


class Changes:
    """The rows that a transaction has read or changed, by number of the table and by key: their bytes,
    or None where there is none. A command's rows are asked for again and again.
    """

    def __init__(self) -> None:
        self.rows: defaultdict[int, dict[bytes, bytes | None]] = defaultdict(dict)
        # Keys of those that wait to be written.
        self.waiting: defaultdict[int, set[bytes]] = defaultdict(set)

    def sealed(self, sealer: Sealer) -> Iterator[TableChange]:
        """What is to be written, table by table."""
        for number, waiting in sorted(self.waiting.items()):
            known, keys = self.rows[number], sorted(waiting)
            rows = [(key, row) for key in keys if (row := known[key]) is not None]
            removed = [key for key in keys if known[key] is None]
            yield TableChange(number, keys, sealer.seal_many(number, rows), removed)


def overlay(
    stored: Iterable[tuple[bytes, bytes]], waiting: Iterable[tuple[bytes, bytes | None]]
) -> Iterator[tuple[bytes, bytes]]:
    """Rows in order of their keys, each as it waits, or as it is stored if none waits. Both ascend."""
    before = None
    # Of equal keys what waits comes first.
    for key, row in heapq.merge(waiting, stored, key=itemgetter(0)):
        if key != before and row is not None:
            yield key, row
        before = key
