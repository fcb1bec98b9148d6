"""Where a realm's entries are put in order and kept: the narrow port that the sequencer writes to.

The ledger itself is the first implementation: one LMDB commit is entries, tables, nodes and
checkpoint. Another engine (a replicated stream) stands behind the same port: inside `append_if` it
lets `decide` fill a batch in its ledger's transaction, publishes the batch's entries with its head
as the expected last sequence, and commits that transaction when they are acknowledged.
`tests/conformance` is what any implementation must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Protocol, TypeVar

from core.ledger.tables import State, WritableState

T = TypeVar("T")


class Entry(NamedTuple):
    """A journal entry, as its bytes were hashed."""

    header: bytes
    events: bytes

    @property
    def leaf(self) -> bytes:
        """What the Merkle tree hashes: header ‖ SHA-256(events)."""
        return self.header + sha256(self.events).digest()


class Head(NamedTuple):
    """How far a log goes: the number of its entries, and the root hash (32 bytes) over them."""

    size: int
    root_hash: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """What one append takes. A second engine may take less: a stream's atomic batch has 1,000."""

    entries_max: int = 4096
    # Header and events of one entry together.
    entry_bytes_max: int = 65_535
    # What a receipt has left for the header: 63 hashes of a proof, the events' digest and the note
    # of the longest trust domain taken off.
    header_bytes_max: int = 1200

    def fault(self, entry: Entry) -> str:
        """Why an entry is not taken; empty if it is."""
        if len(entry.header) > self.header_bytes_max:
            return f"{len(entry.header)} bytes of header, at most {self.header_bytes_max}"
        size = len(entry.header) + len(entry.events)
        if size > self.entry_bytes_max:
            return f"{size} bytes of header and events, at most {self.entry_bytes_max}"
        return ""


class Batch(Protocol):
    """Entries while they are decided: they and what they do to the tables become durable together."""

    @property
    def state(self) -> State:
        """The tables as the entry before left them."""
        ...

    @property
    def tables(self) -> WritableState:
        """The same, to be changed."""
        ...

    @property
    def next_index(self) -> int:
        """Where the next entry goes."""
        ...

    def append(self, entry: Entry) -> None:
        """Add an entry. LimitExceeded if it, or one more, is more than the log takes."""
        ...

    def entry(self, index: int) -> Entry:
        """An entry, durable already or of this very batch. IndexError if there is none."""
        ...


class LogPort(Protocol):
    """One realm's log. Any number of threads may read and append."""

    @property
    def realm(self) -> int:
        """Whose journal it is."""
        ...

    @property
    def trust_domain(self) -> str:
        """Of the realm."""
        ...

    @property
    def last_decided_at_ns(self) -> int:
        """When the newest entry was decided, as of the log's opening; 0 if there was none."""
        ...

    @property
    def limits(self) -> Limits:
        """What one append takes."""
        ...

    @property
    def head(self) -> Head:
        """What is durable. After an append whose outcome was unknown, this tells it."""
        ...

    def read_from(self, index: int) -> Iterator[tuple[int, Entry]]:
        """Index and entry of what is durable, without a gap, from `index` on.

        Ends at what was the head when it began, or later. Nothing if there is not so much. Reading
        holds up no append, and a reader that pauses keeps nothing from being used again.
        """
        ...

    def append_if(self, expected: Head, decide: Callable[[Batch], T]) -> T:
        """Append what `decide` puts into the batch, if the log ends at `expected`. Durable on
        return, all of it; gives what `decide` gave.

        HeadMoved if it ends elsewhere: `decide` is not asked. What `decide` raises is passed on,
        and so is LimitExceeded: nothing is written. LedgerStopped: the outcome is unknown, and
        nothing more is taken until the log is opened again.
        """
        ...

    def suspect(self) -> None:
        """Note that the outcome of an append is unknown: the next opening verifies everything."""
        ...
