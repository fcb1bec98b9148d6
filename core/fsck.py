"""Proves a ledger.

Every hash, every checkpoint, and every table byte for byte by replaying the journal over empty
tables.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lmdb

from core.errors import LedgerCorrupt
from core.ledger.environment import open_environment
from core.ledger.ledger import Ledger
from core.ledger.merkle import Fetch, Frontier, leaf_hash
from core.ledger.note import NoteInvalid, open_note
from core.ledger.tables import TABLES, WritableState
from core.sequencer import record
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events

Progress = Callable[[str, int, int], None]
_COMMIT_EVERY = 10_000


@dataclass(frozen=True)
class Report:
    """What was verified.

    There is no report of a ledger that is not sound: LedgerCorrupt names the first difference.
    """

    entries: int
    checkpoints: int
    rows: int
    root_hash: bytes


def fsck(ledger: Ledger, progress: Progress = lambda _stage, _done, _total: None) -> Report:
    """Verify everything in an opened ledger that nobody writes.

    Raises LedgerCorrupt naming where and what first differs.
    """
    with tempfile.TemporaryDirectory(prefix="jinku-fsck-", dir=ledger.path) as scratch:
        env, handles = open_environment(Path(scratch), ledger.map_gib)
        try:
            with ledger.nodes() as node:
                checkpoints = _replay(ledger, node, env, handles, progress)
            rows = _compare(ledger, env, handles, progress)
        finally:
            env.close()
    return Report(ledger.size, checkpoints, rows, ledger.checkpoint().root_hash)


def _replay(
    ledger: Ledger,
    node: Fetch,
    env: lmdb.Environment,
    handles: dict[int, lmdb._Database],
    progress: Progress,
) -> int:
    """Hash every entry, check nodes and checkpoints on the way, and apply its events to empty
    tables. How many checkpoints there are.
    """
    expected = _checkpoints(ledger)
    checkpoints = len(expected)
    frontier = Frontier(0, ledger.node)
    txn = env.begin(write=True)
    try:
        for index, entry in ledger.entries():
            header = EntryHeader.FromString(entry.header)
            if (header.index, header.realm) != (index, ledger.realm):
                raise LedgerCorrupt(f"entry {index}", "stands at a place that is not its own")
            for level, at, hashed in frontier.append(leaf_hash(entry.leaf)):
                if node(level, at) != hashed:
                    raise LedgerCorrupt(f"Merkle node {level}/{at}", f"does not fit entry {index}")
            root = expected.pop(index + 1, None)
            if root is not None and root != frontier.root():
                raise LedgerCorrupt(f"checkpoint {index + 1}", "has another root hash")
            tables = WritableState(txn, handles, ledger.sealer)
            record(header, Events.FromString(entry.events), tables)
            if index % _COMMIT_EVERY == _COMMIT_EVERY - 1:
                txn.commit()
                txn = env.begin(write=True)
                progress("replay", index + 1, ledger.size)
        txn.commit()
    except BaseException:
        txn.abort()
        raise
    if frontier.size != ledger.size:
        raise LedgerCorrupt("the journal", f"ends at {frontier.size}, not at {ledger.size}")
    if expected:
        raise LedgerCorrupt(f"checkpoint {min(expected)}", "is of entries that are not there")
    progress("replay", ledger.size, ledger.size)
    return checkpoints


def _checkpoints(ledger: Ledger) -> dict[int, bytes]:
    """Tree size → root hash of every stored checkpoint, signatures verified: one for each commit,
    because an entry's receipt is made with that of its own.
    """
    found = {}
    for checkpoint in ledger.checkpoints():
        try:
            open_note(checkpoint.note, ledger.verifier_key)
        except NoteInvalid as error:
            raise LedgerCorrupt(f"checkpoint {checkpoint.tree_size}", str(error)) from None
        found[checkpoint.tree_size] = checkpoint.root_hash
    ends = {*itertools.islice(ledger.commits(), 1, None), *([ledger.size] if ledger.size else [])}
    odd = ends ^ found.keys()
    if odd:
        what = "is missing" if min(odd) in ends else "is of no commit"
        raise LedgerCorrupt(f"checkpoint {min(odd)}", what)
    return found


def _compare(
    ledger: Ledger, env: lmdb.Environment, handles: dict[int, lmdb._Database], progress: Progress
) -> int:
    """The replayed tables against the stored ones, sealed bytes and all."""
    rows = 0
    for table in TABLES:
        with env.begin() as replayed, replayed.cursor(db=handles[table.number]) as cursor:
            have = ledger.raw_rows(table.number)
            for key, value in cursor:
                if next(have, None) != (bytes(key), bytes(value)):
                    where = f"table {table.number}, key {bytes(key).hex()}"
                    raise LedgerCorrupt(where, "is not what the journal makes of it")
                rows += 1
            extra = next(have, None)
            if extra is not None:
                where = f"table {table.number}, key {extra[0].hex()}"
                raise LedgerCorrupt(where, "is there, and the journal knows nothing of it")
        progress("compare", table.number, len(TABLES))
    return rows
