"""The whole journal read through, and its root computed: so nothing of it was kept back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from jinku import notes
from jinku.evidence.content import Content
from jinku.evidence.entries import Entry, EvidenceInvalid, concerns, ids_of_box
from jinku.ledger import LedgerClient
from jinku.v1.ledger_pb2 import ListEntriesRequest
from jinku.verdicts import Fault

Told = Callable[[int], None]


class Frontier:
    """The roots of the complete subtrees of a tree that leaves are added to (RFC 6962)."""

    def __init__(self) -> None:
        self.size = 0
        self.roots: list[bytes] = []

    def add(self, leaf_hash: bytes) -> None:
        node, size = leaf_hash, self.size
        while size & 1:
            node = notes.hash_node(self.roots.pop(), node)
            size >>= 1
        self.roots.append(node)
        self.size += 1

    def root(self) -> bytes:
        if not self.roots:
            return notes.EMPTY_ROOT
        root, *others = reversed(self.roots)
        for node in others:
            root = notes.hash_node(node, root)
        return root


def list_entries(
    ledger: LedgerClient, tree_size: int, start: int = 0, subject_id: bytes | None = None
) -> Iterator[Entry]:
    """Entries from `start` on, below `tree_size`; of one subject only, if it is named."""
    request = ListEntriesRequest(start_index=start, subject_id=subject_id)
    while True:
        page = ledger.list_entries(request)
        for one in page.entries:
            entry = Entry(one.header, one.events)
            if entry.index >= tree_size:
                return
            yield entry
        if not page.HasField("next_index"):
            return
        request.start_index = page.next_index


def scan(
    ledger: LedgerClient, checkpoint: notes.Checkpoint, told: Told = lambda _: None
) -> Iterator[Entry]:
    """Every entry of the checkpoint's tree. When it ends, these were all: EvidenceInvalid otherwise."""
    frontier, where = Frontier(), f"journal of {checkpoint.tree_size} entries"
    for entry in list_entries(ledger, checkpoint.tree_size):
        if entry.index != frontier.size:
            raise EvidenceInvalid(Fault.ENTRY_MISSING, f"entry {frontier.size}", where)
        frontier.add(notes.hash_leaf(entry.leaf))
        told(frontier.size)
        yield entry
    if (frontier.size, frontier.root()) != (checkpoint.tree_size, checkpoint.root_hash):
        raise EvidenceInvalid(Fault.NOT_IN_JOURNAL, where, "the entries have another root")


def find_concerning(
    entries: Iterator[Entry], container_id: bytes, *, with_refusals: bool
) -> Iterator[Entry]:
    """Those about a box, of all in order: a tag is known from its issue on."""
    ids: Collection[bytes] = frozenset({container_id})
    for entry in entries:
        if concerns(entry, ids, with_refusals=with_refusals):
            ids = frozenset(ids) | ids_of_box(container_id, [entry])
            yield entry


def find_left_out(ledger: LedgerClient, content: Content, told: Told = lambda _: None) -> list[int]:
    """Indices of the entries that a package leaves out, by its own selection: about its box, and about
    the contacts of the box's institution if it has any.
    """
    found = content.select(scan(ledger, content.checkpoint, told))
    return [entry.index for entry in found if entry.index not in content.by_index]
