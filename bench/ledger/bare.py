"""The peer: bare LMDB, doing the same puts in the same commits, with nothing around them.

The puts are made again from the journal, which they follow from, before the clock runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import lmdb
from google.protobuf.message import Message

from bench.ledger.realm import scratch
from core.ledger import layout
from core.ledger.environment import open_environment
from core.ledger.ledger import Ledger
from core.ledger.merkle import Frontier, leaf_hash
from core.ledger.tables import Table, WritableState
from core.sequencer import record
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events

Put = tuple[int, bytes, bytes]


@dataclass(frozen=True)
class Commit:
    """What one commit of ours wrote, in order; the nodes in one call, as we write them."""

    puts: list[Put]
    nodes: list[tuple[bytes, bytes]]


class Recorder(WritableState):
    """The tables, remembering what is written to them."""

    puts: list[Put]

    def put(self, table: Table[Message], key: bytes, row: Message) -> None:  # type: ignore[override]
        super().put(table, key, row)
        sealed = self._txn.get(key, db=self._handles[table.number])
        self.puts.append((table.number, key, bytes(sealed or b"")))


def commits_of(ledger: Ledger, start: int) -> Iterator[Commit]:
    """What every commit from entry `start` on wrote."""
    bounds = [first for first in ledger.commits() if first >= start] + [ledger.size]
    journal = dict(ledger.raw_rows(layout.JOURNAL))
    checkpoints = dict(ledger.raw_rows(layout.CHECKPOINTS))
    entries = iter(ledger.entries())
    with scratch() as directory:
        env, handles = open_environment(directory, 64)
        with env.begin(write=True) as txn:
            tables = Recorder(txn, handles, ledger.sealer)
            frontier = Frontier(0, ledger.node)
            for first, last in pairwise([0, *bounds]):
                tables.puts, nodes = [], []
                for _, entry in islice(entries, last - first):
                    header = EntryHeader.FromString(entry.header)
                    record(header, Events.FromString(entry.events), tables)
                    for level, index, hashed in frontier.append(leaf_hash(entry.leaf)):
                        nodes.append((layout.node_key(level, index), hashed))
                if first >= start and last > first:
                    key, end = layout.index_key(first), layout.index_key(last)
                    tables.puts.append((layout.JOURNAL, key, journal[key]))
                    tables.puts.append((layout.CHECKPOINTS, end, checkpoints[end]))
                    yield Commit(tables.puts, sorted(nodes))
        env.close()


def write(commits: list[Commit], directory: Path) -> float:
    """Seconds that bare LMDB takes for them, synced as ours are."""
    env, handles = open_environment(directory, 64)
    try:
        began = time.perf_counter()
        for commit in commits:
            _write_one(commit, env, handles)
        return time.perf_counter() - began
    finally:
        env.close()


def _write_one(commit: Commit, env: lmdb.Environment, handles: dict[int, lmdb._Database]) -> None:
    with env.begin(write=True) as txn:
        for number, key, value in commit.puts:
            txn.put(key, value, db=handles[number])
        with txn.cursor(db=handles[layout.NODES]) as cursor:
            cursor.putmulti(commit.nodes)
