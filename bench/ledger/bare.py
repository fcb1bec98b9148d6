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

from bench.ledger.realm import scratch
from core.ledger import layout
from core.ledger.changes import Changes
from core.ledger.environment import open_environment
from core.ledger.ledger import Ledger
from core.ledger.merkle import Frontier, leaf_hash
from core.ledger.stamps import Stamp
from core.ledger.tables import WritableState
from core.sequencer import record
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events


@dataclass(frozen=True)
class Commit:
    """What one commit of ours wrote, in order: each table's rows and the nodes in one call, as we
    write them.
    """

    tables: list[tuple[int, list[tuple[bytes, bytes]]]]
    journal: tuple[bytes, bytes]
    checkpoint: tuple[bytes, bytes]
    stamp: tuple[bytes, bytes]
    nodes: list[tuple[bytes, bytes]]


def commits_of(ledger: Ledger, start: int) -> Iterator[Commit]:
    """What every commit from entry `start` on wrote."""
    bounds = [first for first in ledger.commits() if first >= start] + [ledger.size]
    journal = dict(ledger.raw_rows(layout.JOURNAL))
    checkpoints = dict(ledger.raw_rows(layout.CHECKPOINTS))
    stamps = dict(_stamps(ledger))
    entries = iter(ledger.entries())
    with scratch() as directory:
        env, handles = open_environment(directory, 64)
        with env.begin(write=True) as txn:
            frontier = Frontier(0, ledger.node)
            for first, last in pairwise([0, *bounds]):
                changes = Changes()
                tables = WritableState(txn, handles, ledger.sealer, changes)
                nodes = []
                for _, entry in islice(entries, last - first):
                    header = EntryHeader.FromString(entry.header)
                    record(header, Events.FromString(entry.events), tables)
                    for level, index, hashed in frontier.append(leaf_hash(entry.leaf)):
                        nodes.append((layout.node_key(level, index), hashed))
                written = list(changes.sealed(ledger.sealer))
                for change in written:
                    change.write(txn, handles[change.number])
                if first >= start and last > first:
                    key, end = layout.index_key(first), layout.index_key(last)
                    yield Commit(
                        [(change.number, change.rows) for change in written],
                        (key, journal[key]), (end, checkpoints[end]), stamps[last], sorted(nodes),
                    )  # fmt: skip
        env.close()


def _stamps(ledger: Ledger) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    """Key and value of every commit's stamp, by the size that it left the journal with."""
    for key, sealed in ledger.raw_rows(layout.STAMPS):
        packed = ledger.sealer.open(layout.STAMPS, key, sealed)
        yield Stamp.unpack(layout.key_index(key), packed, b"").size, (key, sealed)


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
        for number, rows in [*commit.tables, (layout.NODES, commit.nodes)]:
            with txn.cursor(db=handles[number]) as cursor:
                cursor.putmulti(rows)
        for number, (key, value) in (
            (layout.JOURNAL, commit.journal), (layout.CHECKPOINTS, commit.checkpoint),
            (layout.STAMPS, commit.stamp),
        ):  # fmt: skip
            txn.put(key, value, db=handles[number], append=True)
