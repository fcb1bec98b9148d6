"""What the commands about persons share: makes committed and sealed values, and gives them back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from core.clock import Clock, system_clock
from core.decisions import Beside
from core.errors import LedgerCorrupt
from core.journal_clock import boot_clock
from core.ledger.ledger import Ledger
from core.ledger.tables import PERSONAL_VALUES, REALM_KEY, SUBJECT_KEYS, SUBJECTS, WRAPPING, State
from core.personal.format import (
    OPENING_SIZE,
    SUBJECT_KEY_SIZE,
    Opened,
    Place,
    commit,
    open_value,
    seal_value,
)
from core.personal.wrapping import WrappingKeys
from core.settings import PersonalSettings
from core.store.v1.personal_pb2 import (
    CommittedValue,
    PersonalValueRow,
    SubjectRow,
    WrappingRow,
)
from jinku.event.v1.event_pb2 import Event
from jinku.event.v1.personal_pb2 import WrappingKeyTaken
from jinku.type.v1.personal_pb2 import PersonalCommitment, PersonalField

# How far the journal's time may be from the clock's when something is erased for ever.
CLOCK_DIFFERENCE_NS_MAX: Final = 3_600 * 1_000_000_000


def steady_clock() -> Clock:
    """The time of day now, counted on by a clock that nobody can set: whoever steps the system's
    clock while the service runs does not step this one.
    """
    offset_ns = system_clock() - boot_clock()
    return lambda: offset_ns + boot_clock()


@dataclass(frozen=True)
class Office:
    """One per service, used by all threads."""

    ledger: Ledger
    keys: WrappingKeys
    settings: PersonalSettings
    steady: Clock = field(default_factory=steady_clock)


@dataclass(frozen=True)
class Given:
    """A value as its entry holds it, and as it is."""

    value: CommittedValue
    superseded: bool
    opened: Opened


class Sealing:
    """The values of one command: what of them enters the journal, and what lies beside it."""

    def __init__(self, office: Office, realm: int, entry_index: int, subject_id: bytes) -> None:
        self._office = office
        self._realm = realm
        self._entry_index = entry_index
        self._subject_id = subject_id
        self._key = b""
        self.commitments: list[PersonalCommitment] = []
        self.beside: list[Beside] = []
        self.events: list[Event] = []

    def begin(self, state: State) -> None:
        """A subject that is new: with a key of its own, under the newest wrapping key."""
        self._key = os.urandom(SUBJECT_KEY_SIZE)
        row = self._office.keys.wrap(self._subject_id, self._key)
        self.events += take(self._office.keys, row.generation, state)
        self.beside.append(Beside(SUBJECT_KEYS, self._subject_id, row))

    def go_on(self, state: State) -> None:
        """A subject that has a key. WrappingKeyMissing, LedgerCorrupt if it does not open."""
        self._key = subject_key(self._office.keys, state, self._subject_id)

    def add(self, number: PersonalField, text: str) -> None:
        """Commit to a value and seal it."""
        value, opening = text.encode(), os.urandom(OPENING_SIZE)
        place = Place(self._realm, self._subject_id, self._entry_index, number)
        made = commit(opening, self._subject_id, number, value)
        self.commitments.append(PersonalCommitment(field=number, commitment=made))
        sealed = seal_value(self._key, place, Opened(value, opening))
        row = PersonalValueRow(sealed=sealed)
        self.beside.append(Beside(PERSONAL_VALUES, place.key, row))


def take(keys: WrappingKeys, generation: int, state: State) -> Sequence[Event]:
    """The event that takes a wrapping key into use, unless it is."""
    taken = state.get(WRAPPING, REALM_KEY) or WrappingRow()
    if generation <= taken.generation:
        return []
    check = keys.check(generation)
    return [Event(wrapping_key_taken=WrappingKeyTaken(generation=generation, key_check=check))]


def subject_key(keys: WrappingKeys, state: State, subject_id: bytes) -> bytes:
    """A subject's key. WrappingKeyMissing, LedgerCorrupt if it does not open or is not there."""
    row = state.get(SUBJECT_KEYS, subject_id)
    if row is None:
        raise LedgerCorrupt(f"key of {subject_id.hex()}", "is missing")
    return keys.unwrap(subject_id, row)


def is_openable(keys: WrappingKeys, state: State, subject_id: bytes) -> bool:
    """Whether a subject's key is there, and what opens it."""
    row = state.get(SUBJECT_KEYS, subject_id)
    return row is not None and keys.can_unwrap(subject_id, row)


def open_values(
    keys: WrappingKeys, state: State, realm: int, subject_id: bytes, row: SubjectRow, before: int
) -> list[Given]:
    """Every value of a subject that is not erased, as entry `before` found them, oldest first, each
    held to its commitment. LedgerCorrupt, WrappingKeyMissing.
    """
    key = subject_key(keys, state, subject_id)
    values = [value for value in row.values if value.entry_index < before]
    newest = {value.field: value.entry_index for value in values}
    given = []
    for value in values:
        place = Place(realm, subject_id, value.entry_index, value.field)
        sealed = state.get(PERSONAL_VALUES, place.key)
        if sealed is None:
            raise LedgerCorrupt(str(place), "is missing")
        opened = open_value(key, place, sealed.sealed, value.commitment)
        given.append(Given(value, newest[value.field] != value.entry_index, opened))
    return given


def removal_of(row: SubjectRow, realm: int, subject_id: bytes) -> list[Beside]:
    """What takes everything of a subject away from beside the journal."""
    places = [Place(realm, subject_id, value.entry_index, value.field) for value in row.values]
    gone = [Beside(PERSONAL_VALUES, place.key, None) for place in places]
    return [Beside(SUBJECT_KEYS, subject_id, None), *gone]


def kept_subject(state: State, subject_id: bytes) -> SubjectRow | None:
    """A subject that is not erased, or None."""
    row = state.get(SUBJECTS, subject_id)
    return None if row is None or row.erased_at_ns else row
