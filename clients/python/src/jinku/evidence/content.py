"""What a package is made of. Everything else in it, texts and manifest, follows from this alone."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from jinku import notes
from jinku.evidence.entries import (
    Entry,
    EvidenceInvalid,
    concerns,
    each,
    ids_of_box,
    made_in,
    realm_of,
)
from jinku.verdicts import Fault


class Selection(StrEnum):
    """Which entries about the box are in the package."""

    # Those with an event about it.
    EVENTS = "events"
    # And the refused commands whose reasons name it.
    EVENTS_AND_REFUSALS = "events and refusals"


@dataclass(frozen=True, slots=True)
class Earlier:
    """A checkpoint that somebody holds, and the proof that the package's goes on from it."""

    tree_size: int
    note: str
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """A personal value in clear, for which the journal has a commitment only."""

    subject_id: bytes
    field: int
    entry_index: int
    value: str
    opening: bytes

    @property
    def commitment(self) -> bytes:
        """docs/formats.md, Personal values."""
        message = b"jinku commitment v1\0" + self.subject_id + self.field.to_bytes(4)
        return hmac.digest(self.opening, message + self.value.encode(), hashlib.sha256)


@dataclass(frozen=True)
class Content:
    """Entries about one box, what they rest on, and the proofs."""

    container_id: bytes
    selection: Selection
    # Contacts of the box's institution whose entries are here too.
    persons: tuple[bytes, ...]
    note: str
    # In order of their indices.
    entries: tuple[Entry, ...]
    proofs: dict[int, tuple[bytes, ...]]
    earlier: tuple[Earlier, ...] = ()
    opened: tuple[Opened, ...] = ()

    @cached_property
    def checkpoint(self) -> notes.Checkpoint:
        return notes.parse_checkpoint(notes.Note.parse(self.note).text)

    @cached_property
    def by_index(self) -> dict[int, Entry]:
        return {entry.index: entry for entry in self.entries}

    @cached_property
    def box(self) -> Any:
        """The box as it was registered; None if that is not here."""
        registered = each(self.entries, "container_registered")
        return next((one for one in registered if one.container_id == self.container_id), None)

    @cached_property
    def subject(self) -> tuple[Entry, ...]:
        """The entries about the box itself."""
        ids = ids_of_box(self.container_id, self.entries)
        return tuple(e for e in self.entries if self.concerns_box(e, ids))

    @cached_property
    def of_persons(self) -> tuple[Entry, ...]:
        """The entries about persons."""
        return tuple(e for e in self.entries if not e.named.isdisjoint(self.persons))

    def concerns_box(self, entry: Entry, ids: Collection[bytes]) -> bool:
        """Whether an entry is about the box, whose and whose tags' ids these are, by the selection."""
        wanted = self.selection is Selection.EVENTS_AND_REFUSALS
        return concerns(entry, ids, with_refusals=wanted)

    def select(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Those of other entries in order that have to be here as well: about the box, with all tags
        that one or the other issue to it, and where persons are here, about all contacts of its
        institution.
        """
        ids, persons = set(ids_of_box(self.container_id, self.entries)), set(self.persons)
        for entry in entries:
            ids |= ids_of_box(self.container_id, [entry])
            if persons:
                persons |= self.find_contacts(entry)
            if self.concerns_box(entry, ids) or not entry.named.isdisjoint(persons):
                yield entry

    def find_contacts(self, entry: Entry) -> set[bytes]:
        """The contacts of the box's institution that the entry registers."""
        institution_id = self.box.institution_id if self.box else b""
        registered = each([entry], "contact_registered")
        return {one.contact_id for one in registered if one.institution_id == institution_id}

    @cached_property
    def needed(self) -> frozenset[int]:
        """Indices of the entries that must be here: about the box, about persons, and those that
        made whatever these name, and so on. The founding entry always.
        """
        found: set[int] = set()
        waiting = {0, *(entry.index for entry in (*self.subject, *self.of_persons))}
        while waiting:
            index = waiting.pop()
            found.add(index)
            entry = self.by_index.get(index)
            if entry is not None:
                waiting |= set(rests_on(entry)) - found
        return frozenset(found)

    @cached_property
    def erased(self) -> dict[bytes, int]:
        """Which persons were erased, and by which entry."""
        return {
            one.subject_id: entry.index
            for entry in self.entries
            for one in each([entry], "subject_erased")
        }

    def commitments(self) -> Iterator[tuple[bytes, int, int, bytes]]:
        """Person, field, entry and commitment of every personal value that the entries commit to."""
        for entry in self.entries:
            for kind in ("contact_registered", "contact_changed"):
                for one in each([entry], kind):
                    for value in one.values:
                        yield one.contact_id, value.field, entry.index, value.commitment

    def check(self) -> None:
        """EvidenceInvalid unless just the right entries are here, each id was made where it says,
        and opened values are those that were committed to.
        """
        if self.box is None:
            where = f"registration of {self.container_id.hex()}"
            raise EvidenceInvalid(Fault.ENTRY_MISSING, where)
        for index in sorted(self.needed - self.by_index.keys()):
            raise EvidenceInvalid(Fault.ENTRY_MISSING, f"entry {index}")
        for index in sorted(self.by_index.keys() - self.needed):
            raise EvidenceInvalid(Fault.ENTRY_UNRELATED, f"entry {index}")
        for entry in self.entries:
            for id_ in entry.context:
                maker = self.by_index.get(made_in(id_))
                if is_ours(id_, entry) and (maker is None or id_ not in maker.header.made_ids):
                    where = f"entry {entry.index}"
                    raise EvidenceInvalid(Fault.ENTRY_MALFORMED, where, f"id {id_.hex()}")
        self.check_persons()

    def check_persons(self) -> None:
        contacts = {one for entry in self.entries for one in self.find_contacts(entry)}
        for person in self.persons:
            if person not in contacts:
                raise EvidenceInvalid(Fault.ENTRY_UNRELATED, f"person {person.hex()}")
        committed = {(who, field, index): sum_ for who, field, index, sum_ in self.commitments()}
        for one in self.opened:
            where = f"personal value {one.field} of {one.subject_id.hex()}, entry {one.entry_index}"
            if one.subject_id in self.erased:
                raise EvidenceInvalid(Fault.ERASED, where)
            wanted = committed.get((one.subject_id, one.field, one.entry_index))
            if len(one.opening) != notes.HASH_SIZE or one.commitment != wanted:
                raise EvidenceInvalid(Fault.COMMITMENT_WRONG, where)


def is_ours(id_: bytes, entry: Entry) -> bool:
    """Whether this realm's journal made it."""
    return realm_of(id_) == entry.header.realm


def rests_on(entry: Entry) -> Iterator[int]:
    """Indices of the entries that made what this one names."""
    return (made_in(id_) for id_ in entry.context if is_ours(id_, entry))
