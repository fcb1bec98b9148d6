"""What an opening verifies: the ledger's end, or after a fail-stop all of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

from core.errors import LedgerCorrupt
from core.ledger import layout
from core.ledger.merkle import Fetch, Frontier, leaf_hash
from core.ledger.note import Checkpoint, NoteInvalid, open_note
from core.ledger.port import Entry
from core.ledger.tables import TABLES
from jinku.event.v1.entry_pb2 import EntryHeader


class Opened(Protocol):
    """What is read of a ledger that is being opened."""

    @property
    def realm(self) -> int: ...

    @property
    def verifier_key(self) -> str: ...

    def entries(self, start: int) -> Iterator[tuple[int, Entry]]: ...

    def commits(self) -> Iterator[int]: ...

    def raw_rows(self, number: int) -> Iterator[tuple[bytes, bytes]]: ...

    def node(self, level: int, index: int) -> bytes: ...

    def count(self, number: int) -> int: ...


def verify_tip(tip: Checkpoint, verifier_key: str, fetch: Fetch) -> Frontier:
    """The newest checkpoint's signature, and its root against the nodes. The journal's right edge."""
    frontier = Frontier(tip.tree_size, fetch)
    try:
        open_note(tip.note, verifier_key)
    except NoteInvalid as error:
        raise LedgerCorrupt("the newest checkpoint", str(error)) from None
    if frontier.root() != tip.root_hash:
        raise LedgerCorrupt("the newest checkpoint", "its root hash is not that of the nodes")
    return frontier


def verify_entries(ledger: Opened, tip: Checkpoint, *, everything: bool) -> int:
    """The entries of the last commit, or of all, against nodes and checkpoint; when the newest was
    decided. LedgerCorrupt names the first difference.
    """
    size = tip.tree_size
    _verify_counts(ledger, size)
    seen = 0 if everything else max(0, size - 1)
    rehashed = Frontier(0, ledger.node) if everything else None
    decided_at_ns = 0
    for index, entry in ledger.entries(seen):
        header = EntryHeader.FromString(entry.header)
        hashed = leaf_hash(entry.leaf)
        place = (header.index, header.realm)
        if hashed != ledger.node(0, index) or place != (index, ledger.realm):
            raise LedgerCorrupt(f"entry {index}", "is not what was hashed")
        for level, at, made in rehashed.append(hashed) if rehashed is not None else ():
            if made != ledger.node(level, at):
                raise LedgerCorrupt(f"Merkle node {level}/{at}", "is not that of its entries")
        decided_at_ns = header.decided_at_ns
        seen = index + 1
    if seen != size:
        raise LedgerCorrupt("the journal", f"ends at {seen}, not {size}")
    if rehashed is not None and rehashed.root() != tip.root_hash:
        raise LedgerCorrupt("the newest checkpoint", "its root hash is not that of the entries")
    return decided_at_ns


def _verify_counts(ledger: Opened, size: int) -> None:
    """A commit is one journal value, one checkpoint and its nodes: what was cut off or put back at
    the end does not add up.
    """
    commits, checkpoints = ledger.count(layout.JOURNAL), ledger.count(layout.CHECKPOINTS)
    if commits != checkpoints:
        raise _gap(ledger, size, f"{commits} commits, {checkpoints} checkpoints")
    nodes, complete = ledger.count(layout.NODES), 2 * size - size.bit_count()
    if nodes != complete:
        what = f"are {nodes}, not the {complete} of {size} entries: some were cut off or put in"
        raise LedgerCorrupt("the Merkle nodes", what)
    if not size and any(ledger.count(table.number) for table in TABLES):
        raise LedgerCorrupt("the journal", "is empty, and the tables are not")


def _gap(ledger: Opened, size: int, otherwise: str) -> LedgerCorrupt:
    """Which entry or checkpoint is missing: each commit ends where the next begins, with its own."""
    ends = itertools.chain(itertools.islice(ledger.commits(), 1, None), [size])
    sizes = (int.from_bytes(key, "big") for key, _ in ledger.raw_rows(layout.CHECKPOINTS))
    for end, tree_size in zip(ends, sizes, strict=False):
        if end > tree_size:
            return LedgerCorrupt(f"entry {tree_size}", "is missing")
        if end < tree_size:
            return LedgerCorrupt(f"checkpoint {end}", "is missing")
    return LedgerCorrupt("the journal", otherwise)
