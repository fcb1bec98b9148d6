"""The tags as the journal had made them by one size of it after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from core.errors import LedgerCorrupt
from core.kernels import UNKNOWN_NUMBER, KeyArena, TagIndex, split_fields
from core.ledger.ledger import Ledger
from core.ledger.tables import TAGS, State
from core.portal.columns import U8, U32
from jinku.event.v1.event_pb2 import Event, Events, TagIssued
from jinku.type.v1.tag_pb2 import TagState

# No key of the arena.
NO_KEY: Final = 255
_STATES: Final[dict[str, int]] = {
    "tag_frozen": TagState.TAG_STATE_FROZEN,
    "tag_unfrozen": TagState.TAG_STATE_ACTIVE,
    "tag_retired": TagState.TAG_STATE_RETIRED,
}
_ID_SIZE: Final = 16
_AT_ONCE: Final = 4096

Master = tuple[int, int]


class TagsThen:
    """An index that only goes forwards. Numbers of tags are its own."""

    def __init__(self, ledger: Ledger, masters: Sequence[tuple[int, int, bytearray]]) -> None:
        """Moves the tag masters into the locked arena, wiping them."""
        self.arena = KeyArena()
        self._keys = {
            (realm, version): self.arena.add(realm, version, key) for realm, version, key in masters
        }
        self._ledger = ledger
        self.index = TagIndex()
        self.size = 0
        # Masters that tags were issued under, and the master of each tag by its place there.
        self.masters: list[Master] = []
        self._places: dict[Master, int] = {}
        self._master_of: npt.NDArray[np.uint16] = np.zeros(_AT_ONCE, np.uint16)
        self._tag_ids: npt.NDArray[np.uint8] = np.zeros((_AT_ONCE, _ID_SIZE), np.uint8)
        self._events = self._read()
        self._waiting: tuple[int, Event] | None = None

    def close(self) -> None:
        """Forget the tag masters."""
        self.arena.close()

    def loaded(self) -> frozenset[Master]:
        """(issuing realm, version) of the masters that are here."""
        return frozenset(self._keys)

    def master_of(self, numbers: U32) -> npt.NDArray[np.uint16]:
        """Of each tag (N,) the place of its master in `masters`."""
        return self._master_of[numbers]

    def tag_id(self, number: int) -> bytes:
        """The tag's id."""
        return bytes(self._tag_ids[number])

    def load_counters(self, identities: U8, counters: U32) -> None:
        """Raise counters. LedgerCorrupt if one is of a tag that nobody had registered by then."""
        numbers = self.index.find_many(identities)
        if (numbers == UNKNOWN_NUMBER).any():
            raise LedgerCorrupt(
                "read log, kept counters", "hold a tag that the journal did not know by then"
            )
        self.index.advance_counters(numbers, counters)

    def advance(self, size: int, where: str) -> None:
        """Stand where the journal had so many entries. LedgerCorrupt if it has not, or if that is before
        where it stands.
        """
        if size == self.size:
            return
        if not self.size < size <= self._ledger.size:
            raise LedgerCorrupt(
                where,
                f"saw the tags of {size} entries, between {self.size} and {self._ledger.size}",
            )
        self._apply(self._until(size))
        self.size = size

    def _until(self, size: int) -> Iterator[Event]:
        while True:
            found = self._waiting or next(self._events, None)
            self._waiting = None
            if found is None:
                return
            if found[0] >= size:
                self._waiting = found
                return
            yield found[1]

    def _apply(self, events: Iterable[Event]) -> None:
        issued: list[TagIssued] = []
        with self._ledger.read() as state:
            for event in events:
                kind = event.WhichOneof("event") or ""
                if kind == "tag_issued":
                    issued.append(event.tag_issued)
                if kind != "tag_issued" or len(issued) == _AT_ONCE:
                    self._issue(issued)
                    issued = []
                if kind in _STATES:
                    self._change(state, getattr(event, kind).tag_id, _STATES[kind])
        self._issue(issued)

    def _change(self, state: State, tag_id: bytes, of: int) -> None:
        row = state.get(TAGS, tag_id)
        if row is None or not self.index.set_state(row.identity, of):
            raise LedgerCorrupt(f"tag {tag_id.hex()}", "has events, and was not issued before")

    def _issue(self, issued: list[TagIssued]) -> None:
        first = len(self.index)
        tags = []
        self._make_room(first + len(issued))
        for number, event in enumerate(issued, first):
            master = (event.issuing_realm, event.key_version)
            if master not in self._places:
                self._places[master] = len(self.masters)
                self.masters.append(master)
            self._master_of[number] = self._places[master]
            self._tag_ids[number] = np.frombuffer(event.tag_id, np.uint8)
            key = self._keys.get(master, NO_KEY)
            tags.append((event.identity, event.scheme, TagState.TAG_STATE_ACTIVE, key))
        self.index.put_all(tags, 0)

    def _make_room(self, count: int) -> None:
        more = max(count, 2 * len(self._tag_ids)) - len(self._tag_ids)
        if count > len(self._tag_ids):
            self._tag_ids = np.pad(self._tag_ids, ((0, more), (0, 0)))
            self._master_of = np.pad(self._master_of, (0, more))

    def _read(self) -> Iterator[tuple[int, Event]]:
        """Index of the entry and event, of every event about a tag's life."""
        for first, packed in self._ledger.packed():
            fields = split_fields(packed).tolist()
            for at, (begin, end) in enumerate(fields[1::2]):
                for event in Events.FromString(packed[begin:end]).events:
                    kind = event.WhichOneof("event") or ""
                    if kind == "tag_issued" or kind in _STATES:
                        yield first + at, event
