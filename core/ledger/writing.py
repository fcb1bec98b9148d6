"""One commit while it is made: entries, nodes, checkpoint and tables in one write transaction."""

from __future__ import annotations

import lmdb

from core.errors import LimitExceeded
from core.kernels import leaf_hashes, split_fields
from core.ledger import layout
from core.ledger.changes import Changes
from core.ledger.journal import Journal
from core.ledger.merkle import Frontier
from core.ledger.note import Checkpoint, NoteSigner
from core.ledger.port import Entry, Limits
from core.ledger.seal import Sealer
from core.ledger.store import Handles
from core.ledger.tables import State, WritableState
from core.ledger.versions import Versions


class Writing:
    """The journal's end and the tables inside one write transaction."""

    def __init__(
        self,
        txn: lmdb.Transaction,
        handles: Handles,
        sealer: Sealer,
        journal: Journal,
        frontier: Frontier,
        limits: Limits,
        versions: Versions | None,
    ) -> None:
        """`versions`: which rows are current ones; None where that is not known."""
        self._txn = txn
        self._handles = handles
        self._sealer = sealer
        self._journal = journal
        self._limits = limits
        self._changes = Changes()
        self._versions = versions
        opener = sealer if versions is None else versions.writing
        self.state = State(txn, handles, opener, self._changes)
        self.tables = WritableState(txn, handles, opener, self._changes)
        self.frontier = frontier
        self.first = frontier.size
        self.entries: list[Entry] = []
        # By `finish`: numbers of the tables that changed, and the marks that went and came.
        self.changed: list[int] = []
        self.removed = self.added = b""

    @property
    def next_index(self) -> int:
        """Where the next entry goes."""
        return self.first + len(self.entries)

    def append(self, entry: Entry) -> None:
        """Add an entry to the journal. LimitExceeded if it, or one more, is too much."""
        fault = self._limits.fault(entry)
        if fault:
            raise LimitExceeded(f"entry {self.next_index}: {fault}")
        if len(self.entries) == self._limits.entries_max:
            raise LimitExceeded(f"a batch has at most {self._limits.entries_max} entries")
        self.entries.append(entry)

    def entry(self, index: int) -> Entry:
        """An entry, durable already or of this very transaction. IndexError if there is none."""
        if not 0 <= index < self.next_index:
            raise IndexError(
                f"the journal has {self.next_index} entries, there is no number {index}"
            )
        if index >= self.first:
            return self.entries[index - self.first]
        return self._journal.entry(index, self._txn)

    def finish(self, signer: NoteSigner) -> Checkpoint | None:
        """Write the rows that changed, what was appended and the checkpoint over it, and give that;
        None if nothing was appended.

        Durable when the transaction commits. LedgerCorrupt if a row that changed is not the current
        version of itself.
        """
        txn, handles = self._txn, self._handles
        for change in self._changes.sealed(self._sealer):
            if not change.keys:
                # Only looked at.
                continue
            if self._versions is not None:
                removed, added = self._versions.turnover(txn, change)
                self.removed += removed
                self.added += added
            change.write(txn, handles[change.number])
            self.changed.append(change.number)
        if not self.entries:
            return None
        packed = layout.pack_entries(self.entries)
        key, sealed = self._journal.seal(self.first, packed)
        txn.put(key, sealed, db=handles[layout.JOURNAL], append=True)
        hashes = leaf_hashes(packed, split_fields(packed))
        made = self.frontier.extend([row.tobytes() for row in hashes])
        nodes = [(layout.node_key(level, index), hashed) for level, index, hashed in made]
        with txn.cursor(db=handles[layout.NODES]) as cursor:
            cursor.putmulti(nodes)
        checkpoint = signer.sign(self.frontier.size, self.frontier.root())
        key = layout.index_key(checkpoint.tree_size)
        note = self._sealer.seal(layout.CHECKPOINTS, key, checkpoint.note.encode())
        txn.put(key, note, db=handles[layout.CHECKPOINTS], append=True)
        return checkpoint
