"""The native tag index, kept equal to the tags table: what the read pipeline looks up.

It starts from a snapshot and the entries after it, or, where there is no snapshot that may be
trusted, from every row of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from core.errors import LedgerCorrupt
from core.ids import ID_SIZE
from core.kernels import KeyArena, TagIndex
from core.ledger.ledger import Ledger
from core.ledger.tables import TAGS, State
from core.sealed_parts import SnapshotUnusable
from core.sequencer import Committed
from core.snapshot import SEGMENT_TAGS, Head, SnapshotFile, Tags, tags_of
from core.store.v1.rows_pb2 import TagRow
from jinku.event.v1.event_pb2 import Events

# Tags that there is room for at first.
_ROOM_MIN: Final = 4096
_IDENTITY_SIZE: Final = 16
# Rows of the table that are turned into columns at a time.
_PART_ROWS: Final = 16_384
# A snapshot is worth its writing when a start would have to look at so many rows or entries: some
# hundredths of a second of it at an orderly end or where there is none, half a second else.
_BEHIND_MIN: Final = 4_096
_BEHIND_MAX: Final = 65_536

# Rows done, rows in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Filled:
    """How the index came about at the start."""

    # Why not from the snapshot; empty: from it.
    why_rebuilt: str
    # Entries after the snapshot that were looked at.
    entries: int = 0


class TagDirectory:
    """Tags by identity for the kernels, tag ids by the index's dense numbers for the rest."""

    def __init__(
        self,
        ledger: Ledger,
        masters: Sequence[tuple[int, int, bytearray]],
        snapshot: SnapshotFile | None = None,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Move the tag masters into the locked arena, wiping them, and fill the index.

        `progress` is told while it is filled from the table.
        """
        arena = KeyArena()
        self._keys = {
            (realm, version): arena.add(realm, version, key) for realm, version, key in masters
        }
        self._ledger = ledger
        self._arena = arena
        self._snapshot = snapshot
        # Every entry before this one is in the index.
        self._followed = ledger.size
        # The same of the snapshot; None: there is none to start from.
        self._saved: int | None = None
        self.index = self._room()
        # By number, in parts of a segment each: room for more moves none, and takes little more
        # than they need.
        self._tag_ids: list[npt.NDArray[np.uint8]] = []
        self.filled = self._fill(progress)
        self.index.put_all([], self._followed)

    @property
    def arena(self) -> KeyArena:
        """The tag masters."""
        return self._arena

    def loaded_keys(self) -> frozenset[tuple[int, int]]:
        """(issuing realm, version) of every tag master that is loaded."""
        return frozenset(self._keys)

    def tag_id(self, number: int) -> bytes:
        """The 16-byte id of the tag with this number in the index."""
        return bytes(self._tag_ids[number // SEGMENT_TAGS][number % SEGMENT_TAGS])

    # -- following the journal -------------------------------------------------------------------

    def on_committed(self, committed: Sequence[Committed]) -> None:
        """Follow the journal.

        Called by the writer before it answers, so that a freeze that was answered is in force.
        """
        touched: dict[bytes, None] = {}
        for entry in committed:
            touched |= _touched(entry.events)
        if not committed:
            return
        followed = committed[-1].entry_index + 1
        if touched:
            with self._ledger.read() as state:
                self._put_all(_rows(state, touched), followed)
        self._followed = followed

    def _put_all(self, rows: Iterable[tuple[bytes, TagRow]], followed: int) -> None:
        """Tags as so many entries make them: a batch sees all of them or none, and is told which."""
        tags: list[tuple[bytes, int, int, int]] = []
        count = len(self.index)
        for tag_id, row in rows:
            key = self._keys.get((row.issuing_realm, row.key_version))
            if key is None:
                # Its issuing realm's master is not loaded here: read as unknown, never as genuine.
                continue
            # The id first: whoever finds the tag in the index may ask for it at once.
            known = self.index.get(row.identity)
            number = count if known is None else known.number
            count += known is None
            self._make_room(number + 1)
            part = self._tag_ids[number // SEGMENT_TAGS]
            part[number % SEGMENT_TAGS] = np.frombuffer(tag_id, np.uint8)
            tags.append((row.identity, row.scheme, row.state, key))
        self.index.put_all(tags, followed)

    def _make_room(self, count: int) -> None:
        """For the ids of so many tags."""
        while count > len(self._tag_ids) * SEGMENT_TAGS:
            self._tag_ids.append(np.zeros((SEGMENT_TAGS, ID_SIZE), np.uint8))

    # -- the start -------------------------------------------------------------------------------

    def _room(self) -> TagIndex:
        """An empty index, with room for the tags that there are and some more."""
        count = self._ledger.count(TAGS.number)
        return TagIndex(max(count + count // 8, _ROOM_MIN))

    def _fill(self, progress: Progress) -> Filled:
        try:
            return Filled("", self._load())
        except SnapshotUnusable as unusable:
            self.index, self._tag_ids = self._room(), []
            self._rebuild(progress)
            return Filled(str(unusable))

    def _load(self) -> int:
        """Fill from the snapshot and the entries after it; how many of those there are.

        SnapshotUnusable if there is none, or other masters are loaded: what was put so far is then
        worth nothing. LedgerCorrupt if it is not of this journal.
        """
        if self._snapshot is None:
            raise SnapshotUnusable("there is none")
        head, segments = self._snapshot.read()
        keys = self._check(head)
        for tags in segments:
            self._put_many(tags._replace(keys=keys[tags.keys]))
        touched: dict[bytes, None] = {}
        for _, entry in self._ledger.entries(head.followed):
            touched |= _touched(Events.FromString(entry.events))
        with self._ledger.read() as state:
            for _, tags in self._columns(_rows(state, touched)):
                self._put_many(tags)
        if not head.left_out and len(self.index) != self._ledger.count(TAGS.number):
            raise SnapshotUnusable("it and the entries after it do not make the tags of the table")
        self._saved = head.followed
        return self._followed - head.followed

    def _check(self, head: Head) -> npt.NDArray[np.uint8]:
        """The arena's number for each number of a key that the tags give."""
        if head.bound > self._ledger.size:
            raise LedgerCorrupt(
                "the journal",
                f"has {self._ledger.size} entries, and the tag index's snapshot beside it is of "
                f"{head.bound}: an older copy was put back, see docs/operations.md",
            )
        if self._ledger.root(head.bound) != head.root:
            raise LedgerCorrupt(
                "the journal",
                f"is another than the tag index's snapshot beside it is of: they differ in entry "
                f"{head.bound - 1} or before, see docs/operations.md",
            )
        if set(head.keys) - set(self._keys) or (
            head.left_out and set(head.keys) != set(self._keys)
        ):
            raise SnapshotUnusable("other tag masters were loaded when it was made")
        numbers = np.zeros(256, np.uint8)
        numbers[: len(head.keys)] = [self._keys[key] for key in head.keys]
        return numbers

    def _rebuild(self, progress: Progress) -> None:
        """Fill from every row of the table."""
        done, total = 0, self._ledger.count(TAGS.number)
        with self._ledger.read() as state:
            for rows, tags in self._columns(state.scan(TAGS)):
                self._put_many(tags)
                done += rows
                progress(done, total)

    def _columns(self, rows: Iterable[tuple[bytes, TagRow]]) -> Iterator[tuple[int, Tags]]:
        """Part by part: how many rows, and as columns those whose master is loaded."""
        rows = iter(rows)
        while True:
            done = 0
            ids: list[bytes] = []
            identities: list[bytes] = []
            widths, schemes, states, keys = (bytearray() for _ in range(4))
            for tag_id, row in islice(rows, _PART_ROWS):
                done += 1
                key = self._keys.get((row.issuing_realm, row.key_version))
                if key is not None:
                    ids.append(tag_id)
                    identities.append(row.identity.ljust(_IDENTITY_SIZE, b"\0"))
                    widths.append(len(row.identity))
                    schemes.append(row.scheme)
                    states.append(row.state)
                    keys.append(key)
            if not done:
                return
            yield done, tags_of(b"".join((*identities, *ids, widths, schemes, states, keys)))

    def _put_many(self, tags: Tags) -> None:
        """Only while nobody looks anything up: ids come after their tags."""
        for width in np.unique(tags.widths).tolist():
            rows = np.flatnonzero(tags.widths == width)
            numbers = self.index.put_many(
                np.ascontiguousarray(tags.identities[rows, :width]),
                tags.schemes[rows], tags.states[rows], tags.keys[rows],
            )  # fmt: skip
            self._make_room(int(numbers.max()) + 1)
            parts, within = np.divmod(numbers, SEGMENT_TAGS)
            for part in np.unique(parts).tolist():
                there = parts == part
                self._tag_ids[part][within[there]] = tags.ids[rows[there]]

    # -- the snapshot ----------------------------------------------------------------------------

    def is_due(self, ending: bool) -> bool:
        """Whether a start would look at so much that a snapshot is worth writing now."""
        if self._saved is None:
            return len(self.index) >= _BEHIND_MIN
        return self._followed - self._saved >= (_BEHIND_MIN if ending else _BEHIND_MAX)

    def save(self) -> None:
        """Write a snapshot; durable on return. For one thread at a time, while the writer goes on.

        What changes meanwhile may be in it or not: the entries from `followed` on are applied again
        by a start, and a journal without those before `bound` is not started from it. OSError.
        """
        if self._snapshot is None:
            return
        followed, count = self._followed, len(self.index)
        segments = [
            self._copy(first, min(SEGMENT_TAGS, count - first))
            for first in range(0, count, SEGMENT_TAGS)
        ]
        bound = self._ledger.size
        head = Head(
            followed, bound, self._ledger.root(bound), count,
            self._ledger.count(TAGS.number) > count, tuple(self._keys),
        )  # fmt: skip
        self._snapshot.write(head, segments)
        self._saved = followed

    def _copy(self, first: int, count: int) -> Tags:
        """One segment."""
        identities, *columns = self.index.copy(first, count)
        return Tags(identities, self._tag_ids[first // SEGMENT_TAGS][:count].copy(), *columns)


def _touched(events: Events) -> dict[bytes, None]:
    """Ids of the tags that events are about, in their order."""
    touched: dict[bytes, None] = {}
    for event in events.events:
        kind = event.WhichOneof("event") or ""
        if kind.startswith("tag_"):
            touched[getattr(event, kind).tag_id] = None
    return touched


def _rows(state: State, tag_ids: Iterable[bytes]) -> Iterator[tuple[bytes, TagRow]]:
    for tag_id in tag_ids:
        row = state.get(TAGS, tag_id)
        if row is not None:
            yield tag_id, row
