"""One realm's ledger: journal, Merkle nodes, checkpoints and state tables in one LMDB environment.

Writing happens in `core.sequencer` alone, through `Ledger.writing`; everything else here reads
committed state.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import lmdb

from core.errors import LedgerCorrupt, LedgerStopped
from core.files import OwnerFile
from core.keys import RealmKeys
from core.ledger import layout
from core.ledger.environment import explain, open_environment, probe
from core.ledger.merkle import EMPTY_ROOT, Fetch, Frontier, inclusion_proof, leaf_hash, root_at
from core.ledger.note import Checkpoint, NoteInvalid, NoteSigner, open_note, parse_note
from core.ledger.seal import Sealer
from core.ledger.tables import TABLES, State, WritableState
from core.ledger.witnessed import WitnessedCheckpoint
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.v1.common_pb2 import Receipt

RECEIPT_SIZE_MAX = 4096
# What a receipt has left for the header: 63 hashes of a proof, the events' digest and the note of
# the longest trust domain taken off.
HEADER_SIZE_MAX = 1200
_LOCK_FILE = "owner.lock"


@dataclass(frozen=True)
class Entry:
    """A journal entry, as its bytes were hashed."""

    header: bytes
    events: bytes

    @property
    def leaf(self) -> bytes:
        """What the Merkle tree hashes: header ‖ SHA-256(events)."""
        return self.header + sha256(self.events).digest()


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
    ) -> None:
        """Open the ledger in directory `path`, or begin an empty one there, and verify its end.

        After a fail-stop the whole journal is verified before anything is answered. `probed`, and
        after a fail-stop always: a child process reads every page first, so that a file whose
        damage would end the process is named too. Raises LedgerInUse if another process has it,
        LedgerCorrupt if what is stored is not what was written.
        """
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self.map_gib = map_gib
        self.realm = realm
        self.trust_domain = trust_domain
        self._signer: NoteSigner = keys.signer(trust_domain, realm)
        self.sealer = Sealer(keys.row_key, keys.index_key, realm)
        self._journal_sealer = Sealer(keys.journal_key, keys.index_key, realm)
        self.witnessed = WitnessedCheckpoint(path, self.sealer)
        self._tip = self._signer.sign(0, EMPTY_ROOT)
        self._frontier: Frontier | None = None
        # Of the newest entry: the writer's clock goes on from there.
        self.last_decided_at_ns = 0
        self._owner = OwnerFile(path / _LOCK_FILE)
        self._closed = False
        self._env: lmdb.Environment | None = None
        try:
            suspect = self._owner.suspect
            if probed or suspect:
                probe(path)
            self._env, self._handles = open_environment(path, map_gib)
            self._cached_chunk = lru_cache(maxsize=64)(self._chunk)
            self._verify_end(everything=suspect)
            self._owner.mark_suspect(False)
        except BaseException:
            self.close()
            raise

    # -- reading

    @property
    def size(self) -> int:
        """How many entries are durable."""
        return self._tip.tree_size

    @property
    def verifier_key(self) -> str:
        """The key that checks this ledger's checkpoints, as C2SP writes it."""
        return self._signer.verifier_key

    @contextmanager
    def read(self) -> Iterator[State]:
        """The tables as of the last commit."""
        with self._snapshot() as txn:
            yield State(txn, self._handles, self.sealer)

    def checkpoint(self) -> Checkpoint:
        """The newest signed checkpoint."""
        return self._tip

    def entry(self, index: int) -> Entry:
        """One entry. IndexError if the journal is shorter."""
        if not 0 <= index < self.size:
            raise IndexError(f"the journal has {self.size} entries, there is no number {index}")
        with self._snapshot() as txn, txn.cursor(db=self._handles[layout.JOURNAL]) as cursor:
            if not cursor.set_range(layout.index_key(index)):
                cursor.last()
            elif cursor.key() != layout.index_key(index):
                cursor.prev()
            first = _index_of("journal", cursor.key())
        chunk = self._cached_chunk(first)
        if index - first >= len(chunk):
            raise LedgerCorrupt(f"entry {index}", "is missing")
        return chunk[index - first]

    def entries(self, start: int = 0) -> Iterator[tuple[int, Entry]]:
        """Index and entry of all that is durable now, from the commit on that holds `start`."""
        with self._snapshot() as txn, txn.cursor(db=self._handles[layout.JOURNAL]) as cursor:
            at_or_after = cursor.set_range(layout.index_key(start))
            beyond = not at_or_after or _index_of("journal", cursor.key()) > start
            if beyond and not cursor.prev():
                return
            for raw, sealed in cursor:
                first = _index_of("journal", raw)
                for offset, entry in enumerate(self._open_chunk(first, bytes(sealed))):
                    if first + offset >= start:
                        yield first + offset, entry

    def commits(self) -> Iterator[int]:
        """Index of the first entry of every commit, in order."""
        with self._snapshot() as txn, txn.cursor(db=self._handles[layout.JOURNAL]) as cursor:
            for key in cursor.iternext(keys=True, values=False):
                yield _index_of("journal", key)

    def proof(self, index: int, tree_size: int) -> list[bytes]:
        """RFC 6962 inclusion proof. ValueError unless index < tree_size ≤ size."""
        with self._snapshot() as txn:
            if tree_size > self.size:
                raise ValueError(f"the journal has not yet {tree_size} entries")
            return inclusion_proof(index, tree_size, self._fetch(txn))

    def root(self, tree_size: int) -> bytes:
        """Root hash of the first `tree_size` entries. ValueError unless tree_size ≤ size."""
        with self._snapshot() as txn:
            if tree_size > self.size:
                raise ValueError(f"the journal has not yet {tree_size} entries")
            return root_at(tree_size, self._fetch(txn))

    def receipt(self, index: int, *, with_events: bool = True) -> Receipt:
        """Proves entry `index` under the checkpoint of the commit that wrote it: always the same
        bytes, at most 4 KB.

        The events are left out where they do not fit; their digest stands for them.
        """
        entry = self.entry(index)
        with self._snapshot() as txn:
            checkpoint = self._checkpoint(txn, index)
            path = inclusion_proof(index, checkpoint.tree_size, self._fetch(txn))
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
        with self._snapshot() as txn:
            yield self._fetch(txn)

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Every stored checkpoint in order of size, its signature not verified."""
        with self._snapshot() as txn, txn.cursor(db=self._handles[layout.CHECKPOINTS]) as cursor:
            for key, sealed in cursor:
                note = self.sealer.open(layout.CHECKPOINTS, bytes(key), bytes(sealed))
                yield parse_note(note.decode())

    def raw_rows(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """Key and sealed value of every row of a table, as stored."""
        with self._snapshot() as txn, txn.cursor(db=self._handles[number]) as cursor:
            for key, value in cursor:
                yield bytes(key), bytes(value)

    def count(self, number: int) -> int:
        """How many rows a numbered database has."""
        with self._snapshot() as txn:
            return int(txn.stat(self._handles[number])["entries"])

    def close(self) -> None:
        """Release the files; whoever reads on gets LedgerStopped. Safe to call twice."""
        if not self._closed:
            self._closed = True
            if self._env is not None:
                self._env.close()
            self._owner.release()

    # -- writing: for the sequencer

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """One write transaction, durable when the block has ended.

        After an exception this object writes no more.
        """
        frontier, self._frontier = self._frontier, None
        if frontier is None:
            raise LedgerStopped("an earlier commit failed; open the ledger again")
        with self._snapshot(write=True) as txn:
            writing = Writing(self, txn, frontier)
            yield writing
            tip = writing.finish()
        self._frontier = frontier
        self._tip = tip or self._tip

    def suspect(self) -> None:
        """Note that the outcome of a commit is unknown, so that the next opening verifies
        everything.
        """
        self._owner.mark_suspect(True)

    # -- inside

    @contextmanager
    def _snapshot(self, *, write: bool = False) -> Iterator[lmdb.Transaction]:
        """A transaction, its errors told as ours."""
        if self._env is None or self._closed:
            raise LedgerStopped("the ledger is closed")
        try:
            with self._env.begin(write=write) as txn:
                yield txn
        except lmdb.Error as error:
            if self._closed:
                raise LedgerStopped("the ledger is closed") from None
            raise explain(error) from error

    def _fetch(self, txn: lmdb.Transaction) -> Fetch:
        handle = self._handles[layout.NODES]

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
        with txn.cursor(db=self._handles[layout.CHECKPOINTS]) as cursor:
            found = (
                cursor.last() if index is None else cursor.set_range(layout.index_key(index + 1))
            )
            if not found:
                return self._signer.sign(0, EMPTY_ROOT)
            key = bytes(cursor.key())
            tree_size = _index_of("checkpoint", key)
            note = self.sealer.open(layout.CHECKPOINTS, key, bytes(cursor.value())).decode()
        checkpoint = parse_note(note)
        if checkpoint.tree_size != tree_size:
            raise LedgerCorrupt(f"checkpoint {tree_size}", "is of another tree size")
        return checkpoint

    def _chunk(self, first: int) -> list[Entry]:
        with self._snapshot() as txn:
            sealed = txn.get(layout.index_key(first), db=self._handles[layout.JOURNAL])
        if sealed is None:
            raise LedgerCorrupt(f"journal from {first}", "is missing")
        return self._open_chunk(first, bytes(sealed))

    def _open_chunk(self, first: int, sealed: bytes) -> list[Entry]:
        packed = self._journal_sealer.open(layout.JOURNAL, layout.index_key(first), sealed)
        try:
            return [Entry(header, events) for header, events in layout.unpack_entries(packed)]
        except ValueError as error:
            raise LedgerCorrupt(f"journal from {first}", str(error)) from None

    def _verify_end(self, *, everything: bool) -> None:
        """Check the newest checkpoint against the nodes, and the entries of the last commit, or of
        all, against both.
        """
        with self._snapshot() as txn:
            self._tip = self._checkpoint(txn, None)
            frontier = Frontier(self._tip.tree_size, self._fetch(txn))
        try:
            open_note(self._tip.note, self.verifier_key)
        except NoteInvalid as error:
            raise LedgerCorrupt("the newest checkpoint", str(error)) from None
        if frontier.root() != self._tip.root_hash:
            raise LedgerCorrupt("the newest checkpoint", "its root hash is not that of the nodes")
        self._frontier = frontier
        self._verify_counts()
        seen = 0 if everything else max(0, self.size - 1)
        rehashed = Frontier(0, self.node) if everything else None
        for index, entry in self.entries(seen):
            self._verify_entry(index, entry)
            if rehashed is not None:
                rehashed.append(leaf_hash(entry.leaf))
            seen = index + 1
        if seen != self.size:
            raise LedgerCorrupt("the journal", f"ends at {seen}, not {self.size}")
        if rehashed is not None and rehashed.root() != self._tip.root_hash:
            raise LedgerCorrupt("the newest checkpoint", "its root hash is not that of the entries")

    def _verify_counts(self) -> None:
        """A commit is one journal value, one checkpoint and its nodes: what was cut off or put back
        at the end does not add up.
        """
        nodes, complete = self.count(layout.NODES), 2 * self.size - self.size.bit_count()
        if nodes != complete:
            raise LedgerCorrupt("the Merkle nodes", f"are {nodes}, not {complete}")
        commits, checkpoints = self.count(layout.JOURNAL), self.count(layout.CHECKPOINTS)
        if commits != checkpoints:
            raise LedgerCorrupt("the journal", f"{commits} commits, {checkpoints} checkpoints")
        if not self.size and any(self.count(table.number) for table in TABLES):
            raise LedgerCorrupt("the journal", "is empty, and the tables are not")

    def _verify_entry(self, index: int, entry: Entry) -> None:
        header = EntryHeader.FromString(entry.header)
        if leaf_hash(entry.leaf) != self.node(0, index) or (header.index, header.realm) != (
            index,
            self.realm,
        ):
            raise LedgerCorrupt(f"entry {index}", "is not what was hashed")
        self.last_decided_at_ns = header.decided_at_ns


class Writing:
    """The journal's end and the tables inside one write transaction."""

    def __init__(self, ledger: Ledger, txn: lmdb.Transaction, frontier: Frontier) -> None:
        self._ledger = ledger
        self._txn = txn
        handles = ledger._handles
        self.state = State(txn, handles, ledger.sealer)
        self.tables = WritableState(txn, handles, ledger.sealer)
        self._first = frontier.size
        self._frontier = frontier
        self._entries: list[Entry] = []
        self._nodes: list[tuple[bytes, bytes]] = []

    @property
    def next_index(self) -> int:
        """Where the next entry goes."""
        return self._frontier.size

    def append(self, entry: Entry) -> None:
        """Add an entry to the journal."""
        self._entries.append(entry)
        for level, index, hashed in self._frontier.append(leaf_hash(entry.leaf)):
            self._nodes.append((layout.node_key(level, index), hashed))

    def entry(self, index: int) -> Entry:
        """An entry, durable already or of this very transaction."""
        if index >= self._first:
            return self._entries[index - self._first]
        return self._ledger.entry(index)

    def finish(self) -> Checkpoint | None:
        """Write what was appended and the checkpoint over it, and give that.

        Durable when the transaction commits.
        """
        if not self._entries:
            return None
        ledger, handles = self._ledger, self._ledger._handles
        key = layout.index_key(self._first)
        packed = layout.pack_entries((e.header, e.events) for e in self._entries)
        sealed = ledger._journal_sealer.seal(layout.JOURNAL, key, packed)
        self._txn.put(key, sealed, db=handles[layout.JOURNAL], append=True)
        with self._txn.cursor(db=handles[layout.NODES]) as cursor:
            cursor.putmulti(self._nodes)
        checkpoint = ledger._signer.sign(self._frontier.size, self._frontier.root())
        key = layout.index_key(checkpoint.tree_size)
        note = ledger.sealer.seal(layout.CHECKPOINTS, key, checkpoint.note.encode())
        self._txn.put(key, note, db=handles[layout.CHECKPOINTS], append=True)
        return checkpoint


def _index_of(what: str, key: bytes | memoryview) -> int:
    try:
        return layout.key_index(bytes(key))
    except struct.error:
        raise LedgerCorrupt(f"{what} {bytes(key).hex()}", "has a key that is no number") from None
