"""What became of the box from entry to entry, and whether the entries follow from each other.

A change of custody says who held the box before, and a tag's states must be possible one after the
other: an entry that was taken out shows where that breaks, and only there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jinku.evidence.entries import Entry, EvidenceInvalid
from jinku.type.v1.place_pb2 import Custody
from jinku.type.v1.tag_pb2 import TagState
from jinku.verdicts import Fault

ACTIVE = TagState.TAG_STATE_ACTIVE
FROZEN = TagState.TAG_STATE_FROZEN
RETIRED = TagState.TAG_STATE_RETIRED


@dataclass(frozen=True, slots=True)
class TagChange:
    """A tag went from one state to another; before its issue it had none."""

    tag_id: bytes
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class CustodyChange:
    """Who answers for the box; before its registration nobody did."""

    before: Custody | None
    after: Custody


Change = TagChange | CustodyChange


@dataclass
class Life:
    """The box as its entries leave it. EvidenceInvalid where one does not follow."""

    container_id: bytes
    # As it was registered; None before that.
    box: Any = None
    custody: Custody = field(default_factory=Custody)
    tags: dict[bytes, int] = field(default_factory=dict)
    live: bytes = b""
    alarms: int = 0
    passages: int = 0

    def follow(self, entry: Entry) -> list[Change]:
        """Takes the next entry about the box; what it changed."""
        changes: list[Change] = []
        for event in entry.events.events:
            kind = event.WhichOneof("event") or ""
            take = TAKES.get(kind)
            if take is None:
                continue
            what = getattr(event, kind)
            fault = "" if kind == "container_registered" or self.box else "is not registered yet"
            fault = fault or take(self, what, changes)
            if fault:
                raise EvidenceInvalid(Fault.GAP, f"entry {entry.index}", fault)
        return changes

    def register(self, event: Any, changes: list[Change]) -> str:
        if event.container_id != self.container_id:
            return ""
        if self.box is not None:
            return "registers the box a second time"
        self.box, self.custody = event, event.custody
        changes.append(CustodyChange(None, event.custody))
        return ""

    def move(self, event: Any, changes: list[Change]) -> str:
        if event.container_id != self.container_id:
            return ""
        if event.before != self.custody:
            return "moves the box from a holder that does not hold it"
        changes.append(CustodyChange(self.custody, event.after))
        self.custody = event.after
        return ""

    def issue(self, event: Any, changes: list[Change]) -> str:
        if event.container_id != self.container_id:
            return ""
        if self.live or event.tag_id in self.tags:
            return "issues a tag to a box that has one"
        if event.replaces_tag_id and self.tags.get(event.replaces_tag_id) != RETIRED:
            return "replaces a tag that is not retired"
        self.live = event.tag_id
        return self.turn(event.tag_id, (None,), ACTIVE, changes)

    def freeze(self, event: Any, changes: list[Change]) -> str:
        return self.turn(event.tag_id, (ACTIVE,), FROZEN, changes)

    def unfreeze(self, event: Any, changes: list[Change]) -> str:
        return self.turn(event.tag_id, (FROZEN,), ACTIVE, changes)

    def retire(self, event: Any, changes: list[Change]) -> str:
        if event.tag_id == self.live:
            self.live = b""
        return self.turn(event.tag_id, (ACTIVE, FROZEN), RETIRED, changes)

    def turn(
        self, tag_id: bytes, wanted: tuple[int | None, ...], after: int, changes: list[Change]
    ) -> str:
        before = self.tags.get(tag_id)
        if before not in wanted:
            return f"tag {tag_id.hex()} is {TagState.Name(TagState.ValueType(before or 0))}"
        self.tags[tag_id] = after
        changes.append(TagChange(tag_id, before or 0, after))
        return ""

    def passed(self, event: Any, changes: list[Change]) -> str:
        if event.container_id == self.container_id and event.tag_id not in self.tags:
            return "a passage of a tag that the box never had"
        self.passages += event.container_id == self.container_id
        return ""

    def alarmed(self, event: Any, changes: list[Change]) -> str:
        self.alarms += 1
        return ""


Take = Callable[[Life, Any, list[Change]], str]
TAKES: dict[str, Take] = {
    "container_registered": Life.register,
    "custody_moved": Life.move,
    "tag_issued": Life.issue,
    "tag_frozen": Life.freeze,
    "tag_unfrozen": Life.unfreeze,
    "tag_retired": Life.retire,
    "passage_recorded": Life.passed,
    "alarm_raised": Life.alarmed,
}
