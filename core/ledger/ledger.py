"""One realm's ledger: journal, Merkle nodes, checkpoints and state tables in one LMDB environment.

The first implementation of `LogPort`. Writing happens in `core.sequencer` alone, through
`append_if`; everything else here reads committed state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar

import lmdb

from core.errors import HeadMoved, LedgerCorrupt, LedgerStopped
from core.files import OWNER_FILE, OwnerFile
from core.keys import RealmKeys
from core.ledger import layout
from core.ledger.currency import MARKS, Currency
from core.ledger.environment import probe
from core.ledger.journal import Journal, index_of
from core.ledger.merkle import (
    EMPTY_ROOT,
    Fetch,
    Frontier,
    consistency_proof,
    consistency_roots,
    inclusion_proof,
    leaf_hash,
    path_root,
    root_at,
)
from core.ledger.note import Checkpoint, NoteSigner, parse_note
from core.ledger.opening import verify_entries, verify_tip
from core.ledger.port import Batch, Entry, Head, Limits
from core.ledger.seal import Sealer
from core.ledger.store import Store, Usage, rows_from
from core.ledger.tables import State
from core.ledger.versions import MarksFile
from core.ledger.witnessed import WitnessedCheckpoint
from core.ledger.writing import Writing
from jinku.v1.common_pb2 import Receipt

__all__ = ["HEADER_SIZE_MAX", "RECEIPT_SIZE_MAX", "Entry", "Ledger", "Writing"]

T = TypeVar("T")

RECEIPT_SIZE_MAX: Final = 4096
HEADER_SIZE_MAX: Final = Limits().header_bytes_max


class Ledger:
    """Opens, reads and proves. One process may hold it; its writer is the sequencer."""

    def __init__(
        self,
        path: Path,
        keys: RealmKeys,
        realm: int,
        trust_domain: str,
        *,
        map_gib: int = 64,
        probed: bool = False,
        as_found: bool = False,
    ) -> None:
        """Open the ledger in directory `path`, or begin an empty one there, and verify its end.

        After a fail-stop the whole journal is verified before anything is answered. `probed`, and
        after a fail-stop always: a child process reads every page first, so that a file whose
        damage would end the process is named too. `as_found`: also if another program has written to
        it; for who verifies all of it. Raises LedgerInUse if another process has it, LedgerCorrupt if
        what is stored is not what was written.

        `doubt` says why the rows that change are taken as they are stored, until `believe`; empty: an
        older version of one is not answered.
        """
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self.map_gib = map_gib
        self.realm = realm
        self.trust_domain = trust_domain
        self.limits = Limits()
        self._signer: NoteSigner = keys.signer(trust_domain, realm)
        self.sealer = Sealer(keys.row_key, keys.index_key, realm)
        self.witnessed = WitnessedCheckpoint(path, self.sealer)
        self._tip = self._signer.sign(0, EMPTY_ROOT)
        # One writes at a time; None: to be made from the nodes again.
        self._lock = threading.Lock()
        self._frontier: Frontier | None = None
        self._stopped = False
        self._owner = OwnerFile(path / OWNER_FILE)
        self._store: Store | None = None
        try:
            suspect = self._owner.suspect
            if probed or suspect:
                probe(path)
            self._store = Store(path, map_gib)
            self._journal = Journal(self._store, Sealer(keys.journal_key, keys.index_key, realm))
            self._currency = Currency(
                self._store, self.sealer, MarksFile(path / MARKS, keys.marks_key, realm)
            )
            # Of the newest entry: the writer's clock goes on from there.
            self.last_decided_at_ns = self._verify(everything=suspect)
            self._currency.open(self.head, as_found=as_found, suspect=suspect)
        except BaseException:
            self.close()
            raise

    # -- reading

    @property
    def size(self) -> int:
        """How many entries are durable."""
        return self._tip.tree_size

    @property
    def head(self) -> Head:
        """How far the journal goes, durably."""
        tip = self._tip
        return Head(tip.tree_size, tip.root_hash)

    @property
    def verifier_key(self) -> str:
        """The key that checks this ledger's checkpoints, as C2SP writes it."""
        return self._signer.verifier_key

    @contextmanager
    def read(self) -> Iterator[State]:
        """The tables as of the last commit. While it is open the file cannot use freed pages again:
        not to be kept while anybody outside is waited for.
        """
        store = self._opened()
        with store.snapshot() as txn:
            yield State(txn, store.handles, self._currency.opener)

    def usage(self) -> Usage:
        """How full the file is, and who may be keeping it from using its own room again."""
        return self._opened().usage()

    def checkpoint(self) -> Checkpoint:
        """The newest signed checkpoint."""
        return self._tip

    def entry(self, index: int) -> Entry:
        """One entry. IndexError if the journal is shorter."""
        first, entries = self._commit_of(index)
        return entries[index - first]

    def _commit_of(self, index: int) -> tuple[int, Sequence[Entry]]:
        """`Journal.commit`. IndexError if the journal is shorter."""
        if not self._holds(index):
            raise IndexError(f"the journal has {self.size} entries, there is no number {index}")
        return self._journal.commit(index)

    def entries(self, start: int = 0) -> Iterator[tuple[int, Entry]]:
        """Index and entry of all that is durable now, from the commit on that holds `start`.

        However long the reader takes, it keeps nothing from being used again.
        """
        self._opened()
        return self._journal.entries(start)

    def read_from(self, index: int) -> Iterator[tuple[int, Entry]]:
        """`entries`, as `LogPort` calls it."""
        return self.entries(index)

    def packed(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Index of the first entry, and all entries as `layout.pack_entries` has them, of every
        commit from the one on that holds `start`. For who verifies or copies the whole journal.
        """
        self._opened()
        return self._journal.packed(start) if start < self.size else iter(())

    def commits(self) -> Iterator[int]:
        """Index of the first entry of every commit, in order."""
        return self._journal.commits()

    def proof(self, index: int, tree_size: int) -> list[bytes]:
        """RFC 6962 inclusion proof. ValueError unless index < tree_size ≤ size, LedgerCorrupt unless it
        leads from the stored leaf's hash to the root.
        """
        root = self.root(tree_size)
        with self._nodes_of(tree_size) as fetch:
            path = inclusion_proof(index, tree_size, fetch)
            leaf = fetch(0, index)
        _check_path(leaf, index, tree_size, path, root)
        return path

    def root(self, tree_size: int) -> bytes:
        """Root hash of the first `tree_size` entries. ValueError unless tree_size ≤ size, LedgerCorrupt
        unless the first checkpoint that holds them follows from it.
        """
        if not tree_size:
            return EMPTY_ROOT
        with self._nodes_of(tree_size) as fetch:
            root = root_at(tree_size, fetch)
        with self._opened().snapshot() as txn:
            checkpoint = self._checkpoint(txn, tree_size - 1)
            path = consistency_proof(tree_size, checkpoint.tree_size, self._fetch(txn))
        _check_growth(tree_size, checkpoint.tree_size, (root, checkpoint.root_hash), path)
        return root

    def consistency(self, first: int, second: int) -> tuple[list[bytes], bytes, bytes]:
        """RFC 6962 consistency proof, and the roots of both trees. ValueError unless
        0 < first ≤ second ≤ size, LedgerCorrupt unless it leads to them.
        """
        with self._nodes_of(second) as fetch:
            path = consistency_proof(first, second, fetch)
        roots = self.root(first), self.root(second)
        _check_growth(first, second, roots, path)
        return path, *roots

    def receipt(self, index: int, *, with_events: bool = True) -> Receipt:
        """Proves entry `index` under the checkpoint of the commit that wrote it: always the same
        bytes, at most 4 KB.

        The events are left out where they do not fit; their digest stands for them. LedgerCorrupt if
        what is stored does not prove it.
        """
        first, entries = self._commit_of(index)
        entry, end = entries[index - first], first + len(entries)
        with self._opened().snapshot() as txn:
            checkpoint = self._checkpoint(txn, index)
            if checkpoint.tree_size != end:
                raise LedgerCorrupt(f"checkpoint {end}", "is missing")
            path = inclusion_proof(index, end, self._fetch(txn))
        leaf = leaf_hash(entry.leaf)
        _check_path(leaf, index, end, path, checkpoint.root_hash)
        receipt = Receipt(
            header=entry.header,
            events_digest=sha256(entry.events).digest(),
            inclusion_proof=path,
            checkpoint=checkpoint.note,
        )
        if with_events and receipt.ByteSize() + len(entry.events) + 4 <= RECEIPT_SIZE_MAX:
            receipt.events = entry.events
        return receipt

    def node(self, level: int, index: int) -> bytes:
        """The stored hash of a complete subtree, 32 bytes. LedgerCorrupt if it is missing."""
        with self.nodes() as fetch:
            return fetch(level, index)

    @contextmanager
    def nodes(self) -> Iterator[Fetch]:
        """`node`, many times over."""
        with self._opened().snapshot() as txn:
            yield self._fetch(txn)

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Every stored checkpoint in order of size, its signature not verified."""
        for key, sealed in self._opened().pages(layout.CHECKPOINTS):
            yield self._open_checkpoint(key, sealed)

    def raw_rows(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """Key and sealed value of every row of a table, as stored, in one snapshot."""
        store = self._opened()
        with store.snapshot() as txn, txn.cursor(db=store.handles[number]) as cursor:
            for key, value in cursor:
                yield bytes(key), bytes(value)

    def rows_from(self, number: int, start: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """Key and value, as stored, of at most `count` rows of a numbered database from key `start`
        on (empty: from its first).
        """
        store = self._opened()
        with store.snapshot() as txn:
            return rows_from(txn, store.handles[number], start, count)

    def sign(self, tree_size: int, root_hash: bytes) -> Checkpoint:
        """The checkpoint that this ledger would make of such a tree. For who verifies."""
        return self._signer.sign(tree_size, root_hash)

    def count(self, number: int) -> int:
        """How many rows a numbered database has."""
        store = self._opened()
        with store.snapshot() as txn:
            return int(txn.stat(store.handles[number])["entries"])

    @property
    def doubt(self) -> str:
        """Why it is not known that rows are the current versions of themselves; empty: it is."""
        return self._currency.doubt

    def watch(self, on_foreign: Callable[[LedgerCorrupt], None]) -> None:
        """Have it told, in any thread, when another program has written to the file meanwhile."""
        self._opened().on_foreign = on_foreign

    def check(self) -> None:
        """LedgerCorrupt if journal or tables have another end than the last commit left."""
        self._currency.check(self.head)

    def believe(self) -> None:
        """Everything in it was verified, and nobody writes: go on from what is stored. OSError."""
        self._currency.believe(self.head)
        self._owner.mark_suspect(False)

    def marks_due(self, ending: bool) -> bool:
        """Whether `save_marks` is worth it now, or at an orderly end."""
        return self._currency.is_due(ending)

    def save_marks(self) -> None:
        """Write what the next opening knows the current rows by; durable on return. OSError."""
        with self._lock:
            self._check_head(None)
            copied = self._currency.copy()
        self._currency.save(copied)

    def close(self) -> None:
        """Release the files; whoever reads on gets LedgerStopped. Safe to call twice."""
        if self._store is not None:
            self._store.close()
        self._owner.release()

    # -- writing: for the sequencer

    def append_if(self, expected: Head, decide: Callable[[Batch], T]) -> T:
        """`LogPort.append_if`: entries, tables, nodes and checkpoint in one commit."""
        with self.writing(expected) as writing:
            return decide(writing)

    @contextmanager
    def writing(self, expected: Head | None = None) -> Iterator[Writing]:
        """One write transaction, durable when the block has ended; `expected` as `append_if` has it.

        What the block raises is passed on, and nothing is written. After a commit that failed this
        object writes no more: LedgerStopped.
        """
        store = self._opened()
        with self._lock:
            self._check_head(expected)
            txn = store.begin_write()
            try:
                frontier, self._frontier = self._frontier, None
                frontier = frontier or Frontier(self.size, self._fetch(txn))
                writing = Writing(
                    txn, store.handles, self.sealer, self._journal, frontier, self.limits,
                    self._currency.versions,
                )  # fmt: skip
                yield writing
                tip = writing.finish(self._signer)
                stamp = self._currency.stamp(txn, writing, tip or self._tip)
            except lmdb.Error as error:
                store.abort(txn)
                raise store.explain(error) from error
            except BaseException:
                store.abort(txn)
                raise
            # After an error LMDB itself would go on and acknowledge; nobody knows what is on the disk.
            self._stopped = True
            self._commit(txn)
            store.committed(changed=stamp is not None)
            self._currency.committed(stamp)
            if tip is not None:
                self._journal.committed(writing.first, writing.entries)
                self._tip = tip
            self._frontier, self._stopped = frontier, False

    def _check_head(self, expected: Head | None) -> None:
        if self._stopped:
            raise LedgerStopped("an earlier commit failed; open the ledger again")
        if expected is not None and expected != self.head:
            raise HeadMoved(f"the journal has {self.size} entries, not {expected.size}")

    def _commit(self, txn: lmdb.Transaction) -> None:
        try:
            txn.commit()
        except lmdb.Error as error:
            raise self._opened().explain(error) from error

    def suspect(self) -> None:
        """Note that the outcome of a commit is unknown, or that something was found: from now on every
        opening verifies everything, until `believe`.
        """
        self._owner.mark_suspect(True)

    # -- inside

    def _opened(self) -> Store:
        if self._store is None:
            raise LedgerStopped("the ledger is closed")
        return self._store

    def _holds(self, index: int) -> bool:
        """Whether it is durable: who reads rows may see a commit a moment before `size` has it."""
        store = self._opened()
        if 0 <= index < self.size:
            return True
        with store.snapshot() as txn:
            return 0 <= index < self._checkpoint(txn, None).tree_size

    @contextmanager
    def _nodes_of(self, tree_size: int) -> Iterator[Fetch]:
        with self.nodes() as fetch:
            if tree_size > self.size:
                raise ValueError(f"the journal has not yet {tree_size} entries")
            yield fetch

    def _fetch(self, txn: lmdb.Transaction) -> Fetch:
        handle = self._opened().handles[layout.NODES]

        def fetch(level: int, index: int) -> bytes:
            value = txn.get(layout.node_key(level, index), db=handle)
            if value is None or len(value) != 32:
                raise LedgerCorrupt(f"Merkle node {level}/{index}", "is missing or not 32 bytes")
            return bytes(value)

        return fetch

    def _checkpoint(self, txn: lmdb.Transaction, index: int | None) -> Checkpoint:
        """The newest checkpoint, or the first one that covers entry `index`.

        Sealed by us, so not verified again.
        """
        with txn.cursor(db=self._opened().handles[layout.CHECKPOINTS]) as cursor:
            found = (
                cursor.last() if index is None else cursor.set_range(layout.index_key(index + 1))
            )
            if not found:
                return self._signer.sign(0, EMPTY_ROOT)
            key = bytes(cursor.key())
            tree_size = index_of("checkpoint", key)
            checkpoint = self._open_checkpoint(key, bytes(cursor.value()))
        if checkpoint.tree_size != tree_size:
            raise LedgerCorrupt(f"checkpoint {tree_size}", "is of another tree size")
        return checkpoint

    def _open_checkpoint(self, key: bytes, sealed: bytes) -> Checkpoint:
        try:
            return parse_note(self.sealer.open(layout.CHECKPOINTS, key, sealed).decode())
        except (LedgerCorrupt, ValueError):
            where = f"checkpoint {index_of('checkpoint', key)}"
            what = "does not open: it was altered, or moved here from another place"
            raise LedgerCorrupt(where, what) from None

    def _verify(self, *, everything: bool) -> int:
        """Check the end, or all, of what is stored; when the newest entry was decided."""
        with self._opened().snapshot() as txn:
            self._tip = self._checkpoint(txn, None)
            self._frontier = verify_tip(self._tip, self.verifier_key, self._fetch(txn))
        return verify_entries(self, self._tip, everything=everything)


def _check_path(leaf: bytes, index: int, tree_size: int, path: list[bytes], root: bytes) -> None:
    """No proof leaves that does not prove: the nodes are stored as they are, sealed by nobody."""
    if path_root(leaf, index, tree_size, path) != root:
        raise LedgerCorrupt(
            f"the Merkle nodes of entry {index}", f"do not lead to the root of {tree_size} entries"
        )


def _check_growth(first: int, second: int, roots: tuple[bytes, bytes], path: list[bytes]) -> None:
    """The same for the proof that a tree begins another."""
    if consistency_roots(first, second, roots[0], path) != roots:
        raise LedgerCorrupt(
            f"the Merkle nodes of {second} entries",
            f"do not lead from the root of {first} entries to that of the signed checkpoint",
        )
