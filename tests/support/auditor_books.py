"""The auditor's books: what there is, who holds what, and what about an event is against the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events

ACCEPTED, REFUSED = 1, 2
ACTIVE, FROZEN, RETIRED = 1, 2, 3
WITH_HOLDER, IN_TRANSIT = 1, 2
IN, OUT, TURNED_BACK, UNDETERMINED = 1, 2, 3, 5
REUSED, SUPPRESSED, JUMPED = 101, 103, 104
FROZEN_READ, PASSAGE_UNDETERMINED, DEAD_READ = 404, 406, 407
PORTAL_REASONS = {401, 402, 403, 404, 405, 406, 407, 409}
OWN = "core.store.v1."
HASH = 32


@dataclass
class Tag:
    identity: bytes
    box: bytes
    state: int = ACTIVE
    ever_frozen: bool = False


@dataclass
class Box:
    label: str
    institution: bytes
    vault: bytes
    holder: bytes
    place: int
    tags: list[bytes] = field(default_factory=list)
    # (entry index, event), as a history tells them.
    history: list[tuple[int, Message]] = field(default_factory=list)


@dataclass
class Person:
    institution: bytes
    ended: bool = False
    erased: bool = False


@dataclass
class Erasure:
    person: bytes
    by: bytes
    expires_ns: int
    used: bool = False


@dataclass
class Books:
    """What the journal has made so far. Ids are 16 bytes, natural identifiers as they were said."""

    realm: int = 0
    trust_domain: str = ""
    services: dict[bytes, tuple[str, set[str]]] = field(default_factory=dict)
    institutions: dict[str, bytes] = field(default_factory=dict)
    vaults: dict[str, bytes] = field(default_factory=dict)
    vault_owner: dict[bytes, bytes] = field(default_factory=dict)
    portals: dict[str, bytes] = field(default_factory=dict)
    portal_vault: dict[bytes, bytes] = field(default_factory=dict)
    labels: dict[str, bytes] = field(default_factory=dict)
    boxes: dict[bytes, Box] = field(default_factory=dict)
    identities: dict[bytes, bytes] = field(default_factory=dict)
    tags: dict[bytes, Tag] = field(default_factory=dict)
    persons: dict[bytes, Person] = field(default_factory=dict)
    contacts: dict[bytes, bytes] = field(default_factory=dict)
    erasures: dict[bytes, Erasure] = field(default_factory=dict)
    alarms: dict[bytes, int] = field(default_factory=dict)
    passages: dict[tuple[bytes, bytes, int], int] = field(default_factory=dict)
    sealed: dict[tuple[bytes, int], dict[int, int]] = field(default_factory=dict)
    pruned: set[tuple[bytes, int, int]] = field(default_factory=set)
    # Refusals without entries of their own.
    counted: int = 0
    # By principal and whether each would have raised an alarm.
    summaries: dict[tuple[str, bool], list[Any]] = field(default_factory=dict)
    wrapping: int = 0
    destroyed: int = 0

    def live(self, box: bytes) -> bytes:
        """The box's one tag that is not retired."""
        found = [one for one in self.boxes[box].tags if self.tags[one].state != RETIRED]
        return found[-1] if found else b""

    def end_contact(self, person: bytes) -> None:
        if person in self.persons:
            self.persons[person].ended = True
            self.contacts.pop(self.persons[person].institution, None)


Book = Callable[[Books, Any, EntryHeader, Events], Iterator[str]]
BOOKS: dict[str, Book] = {}


def book(kind: str) -> Callable[[Book], Book]:
    """Keeps the books for events of this kind."""

    def register(function: Book) -> Book:
        BOOKS[kind] = function
        return function

    return register


@book("realm_founded")
def found(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if header.index:
        yield "a realm is founded a second time"
    books.realm, books.trust_domain = event.realm, event.trust_domain
    for one in event.services:
        books.services[one.service_id] = (one.name, set(one.roles))


@book("institution_registered")
def institution(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if event.code in books.institutions:
        yield f"institution {event.code} is there already"
    if event.parent_id and event.parent_id not in books.institutions.values():
        yield "the institution above is not there"
    books.institutions[event.code] = event.institution_id


@book("vault_registered")
def vault(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if event.code in books.vaults:
        yield f"vault {event.code} is there already"
    if event.institution_id not in books.institutions.values():
        yield "the vault's institution is not there"
    books.vaults[event.code] = event.vault_id
    books.vault_owner[event.vault_id] = event.institution_id


@book("portal_registered")
def portal(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if event.name in books.portals:
        yield f"portal {event.name} is there already"
    if books.vault_owner.get(event.vault_id) != event.institution_id:
        yield "the portal's vault is not there, or another's"
    if {antenna.side for antenna in event.antennas} != {1, 2}:
        yield "the portal cannot tell inside from outside"
    books.portals[event.name] = event.portal_id
    books.portal_vault[event.portal_id] = event.vault_id


@book("container_registered")
def container(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if event.label in books.labels:
        yield f"box {event.label} is there already"
    if event.institution_id not in books.institutions.values():
        yield "the box's institution is not there"
    if event.vault_id not in books.vault_owner:
        yield "the box's vault is not there"
    custody = event.custody
    if (custody.holder_id, custody.place) != (event.institution_id, WITH_HOLDER):
        yield "a box begins with the institution that owns it"
    books.labels[event.label] = event.container_id
    books.boxes[event.container_id] = Box(
        event.label, event.institution_id, event.vault_id, custody.holder_id, custody.place
    )


# -- tags


@book("tag_issued")
def issue(books: Books, event: Any, header: EntryHeader, events: Events) -> Iterator[str]:
    box = books.boxes.get(event.container_id)
    if box is None:
        yield "a tag for a box that is not there"
        return
    if books.live(event.container_id):
        yield f"box {box.label} has two live tags"
    if event.identity in books.identities:
        yield f"identity {event.identity.hex()} is bound a second time"
    if len(event.identity) not in {7, 8, 12, 16} or not any(event.identity):
        yield "no identity"
    if (event.issuing_realm, event.institution_id) != (header.realm, box.institution):
        yield "the tag is of another realm or institution"
    retired = [one.tag_retired.tag_id for one in events.events if one.HasField("tag_retired")]
    if ([event.replaces_tag_id] if event.replaces_tag_id else []) != retired:
        yield "it replaces another tag than the one that is retired with it"
    books.identities[event.identity] = event.tag_id
    books.tags[event.tag_id] = Tag(event.identity, event.container_id)
    box.tags.append(event.tag_id)


def turn(books: Books, tag_id: bytes, wanted: set[int], state: int) -> Iterator[str]:
    tag = books.tags.get(tag_id)
    if tag is None:
        yield "a tag that is not there"
        return
    if tag.state not in wanted:
        yield f"tag {tag.identity.hex()} goes from {tag.state} to {state}"
    tag.state = state
    tag.ever_frozen |= state == FROZEN


@book("tag_frozen")
def freeze(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    return turn(books, event.tag_id, {ACTIVE}, FROZEN)


@book("tag_unfrozen")
def unfreeze(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    return turn(books, event.tag_id, {FROZEN}, ACTIVE)


@book("tag_retired")
def retire(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    return turn(books, event.tag_id, {ACTIVE, FROZEN}, RETIRED)


# -- portals


@book("passage_recorded")
def passage(books: Books, event: Any, header: EntryHeader, events: Events) -> Iterator[str]:
    """Decision 0003: what each direction does to custody, and which one alarms."""
    tag, vault_id = books.tags.get(event.tag_id), books.portal_vault.get(event.portal_id)
    if tag is None or vault_id is None or event.portal_id != header.device_id:
        yield "a passage of nothing, or nowhere"
        return
    if event.container_id != tag.box:
        yield "a passage of another box than the tag's"
    if event.direction not in {IN, OUT, TURNED_BACK, UNDETERMINED}:
        yield f"a passage of direction {event.direction} is not journalled"
    if event.direction in {IN, OUT} and not (event.reads_inner and event.reads_outer):
        yield "a crossing that one side alone saw"
    if not 0 < event.first_sequence <= event.last_sequence:
        yield "a passage without batches"
    key = (event.portal_id, event.tag_id, event.portal_epoch)
    if not books.passages.get(key, 0) < event.last_read_ns >= event.first_read_ns:
        yield "the same reads make a second passage"
    books.passages[key] = event.last_read_ns
    box = books.boxes[tag.box]
    ought = {IN: (vault_id, WITH_HOLDER), OUT: (box.holder, IN_TRANSIT)}.get(
        event.direction, (box.holder, box.place)
    )
    moves = [one.custody_moved for one in events.events if one.HasField("custody_moved")]
    ends = [(one.after.holder_id, one.after.place) for one in moves]
    if ends != ([ought] if ought != (box.holder, box.place) else []):
        yield f"custody of {box.label} ought to be {ought[0].hex()} {ought[1]} after it, it is {ends}"
    codes = [
        reason.code
        for one in events.events
        if one.HasField("alarm_raised")
        for reason in one.alarm_raised.reasons
    ]
    if codes != ([PASSAGE_UNDETERMINED] if event.direction == UNDETERMINED else []):
        yield f"a passage of direction {event.direction} has alarms {codes}"


@book("custody_moved")
def move(books: Books, event: Any, header: EntryHeader, events: Events) -> Iterator[str]:
    box = books.boxes.get(event.container_id)
    if box is None:
        yield "custody of a box that is not there"
        return
    if (event.before.holder_id, event.before.place) != (box.holder, box.place):
        yield f"custody of {box.label} moves from who does not hold it"
    holders = {*books.institutions.values(), *books.vault_owner}
    if event.after.holder_id not in holders or event.after.place not in {WITH_HOLDER, IN_TRANSIT}:
        yield f"nobody holds {box.label}"
    if event.after == event.before:
        yield "custody moves to where it was"
    box.holder, box.place = event.after.holder_id, event.after.place


@book("alarm_raised")
def alarm(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if event.alarm_id in books.alarms:
        yield "an alarm twice"
    books.alarms[event.alarm_id] = header.index
    codes = {reason.code for reason in event.reasons}
    if not codes:
        yield "an alarm without a reason"
    wanted = {
        OWN + "RaisePortalAlarm": PORTAL_REASONS,
        OWN + "RecordPassage": {PASSAGE_UNDETERMINED},
        OWN + "SumUpRefusals": {SUPPRESSED},
        OWN + "RaiseTimeAlarm": {JUMPED},
    }.get(header.command, {REUSED})
    if not codes <= wanted:
        yield f"an alarm for {sorted(codes)} by {header.command}"
    if event.tag_id:
        yield from alarm_of_tag(books, event, codes)
    elif header.command == OWN + "RaisePortalAlarm" and event.identity in books.identities:
        yield "an alarm calls a registered tag unknown"
    if header.command.startswith(OWN) and event.portal_id != header.device_id:
        yield "an alarm of another portal"


def alarm_of_tag(books: Books, event: Any, codes: set[int]) -> Iterator[str]:
    tag = books.tags.get(event.tag_id)
    if tag is None or event.container_id != tag.box or event.identity:
        yield "an alarm about a tag that is not there, or another's"
        return
    if event.institution_id != books.boxes[tag.box].institution:
        yield "an alarm told to another institution"
    if FROZEN_READ in codes and not tag.ever_frozen:
        yield "an alarm calls a tag frozen that never was"
    if DEAD_READ in codes and tag.state != RETIRED:
        yield "an alarm calls a tag dead that is not"


@book("read_segment_sealed")
def seal(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    runs = books.sealed.setdefault((event.portal_id, event.portal_epoch), {})
    if event.first_sequence != max(runs.values(), default=0) + 1:
        yield "a run of batches that does not follow the one before"
    if event.last_sequence < event.first_sequence or len(event.digest) != HASH:
        yield "a run without batches or digest"
    if event.portal_id not in books.portal_vault:
        yield "a run of a portal that is not there"
    runs[event.first_sequence] = event.last_sequence


@book("read_segment_pruned")
def prune(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    runs = books.sealed.get((event.portal_id, event.portal_epoch), {})
    key = (event.portal_id, event.portal_epoch, event.first_sequence)
    if runs.get(event.first_sequence) != event.last_sequence or key in books.pruned:
        yield "a run is deleted that was not sealed, or twice"
    if event.retention_days < 30:
        yield "reads are deleted before their time"
    books.pruned.add(key)


@book("counters_kept")
def keep(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if len(event.digest) != HASH:
        yield "counters without a digest"


@book("refusals_counted")
def count(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if not event.count or event.first_ns > event.last_ns or len(event.digest) != HASH:
        yield "a summary of no refusals"
    if event.last_ns > header.decided_at_ns:
        yield "a summary of refusals to come"
    if header.device_id or books.services.get(event.device_id, ("",))[0] not in event.principal:
        yield "a summary of another's refusals"
    books.counted += event.count
    books.summaries.setdefault((event.principal, event.alarming), []).append(event)


# -- persons


@book("contact_registered")
def contact(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if books.contacts.get(event.institution_id, b"") != event.replaces_contact_id:
        yield "an institution has two contacts"
    yield from commitments(event)
    books.end_contact(event.replaces_contact_id)
    books.persons[event.contact_id] = Person(event.institution_id)
    books.contacts[event.institution_id] = event.contact_id


@book("contact_changed")
def change(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if event.contact_id not in books.contacts.values():
        yield "somebody is changed who is no contact"
    yield from commitments(event)


@book("contact_ended")
def end(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if event.contact_id not in books.contacts.values():
        yield "somebody ends who is no contact"
    books.end_contact(event.contact_id)


def commitments(event: Any) -> Iterator[str]:
    fields = [value.field for value in event.values]
    if not fields or len(set(fields)) != len(fields):
        yield "not one commitment for each value"
    if any(len(value.commitment) != HASH for value in event.values):
        yield "a commitment that is none"


@book("personal_values_read")
def read(books: Books, event: Any, header: EntryHeader, events: Events) -> Iterator[str]:
    person = books.persons.get(event.subject_id)
    if person is None or person.erased:
        yield "values are read of nobody, or of somebody erased"
    _, roles = books.services.get(header.device_id, ("", set()))
    if (event.superseded or event.openings) and "PRIVACY_OFFICER" not in roles:
        yield "more was read than the role is given"
    if not event.purpose:
        yield "values are read without a purpose"


@book("erasure_requested")
def request_erasure(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    person = books.persons.get(event.subject_id)
    if person is None or person.erased or not person.ended:
        yield "an erasure of nobody, or of somebody in office"
    if event.requested_by != header.device_id or event.expires_at_ns <= header.decided_at_ns:
        yield "an erasure asked for by nobody, or over already"
    waiting = [
        one for one in books.erasures.values() if one.person == event.subject_id and not one.used
    ]
    if any(header.decided_at_ns <= one.expires_ns for one in waiting):
        yield "an erasure is asked for twice"
    asked = Erasure(event.subject_id, event.requested_by, event.expires_at_ns)
    books.erasures[event.erasure_id] = asked


@book("subject_erased")
def erase(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    person = books.persons.get(event.subject_id)
    if person is None or person.erased:
        yield "nobody is erased, or somebody twice"
        return
    person.erased = person.ended = True
    if not event.erasure_id:
        if header.command != OWN + "CarryErasure":
            yield "an erasure that nobody asked for"
        return
    asked = books.erasures.get(event.erasure_id)
    if asked is None or asked.used or asked.person != event.subject_id:
        yield "an erasure that was not asked for"
        return
    asked.used = True
    if event.confirmed_by != header.device_id or event.confirmed_by == asked.by:
        yield "an erasure on one principal's word"
    if header.decided_at_ns > asked.expires_ns or header.decided_at_ns < event.retention_until_ns:
        yield "an erasure out of its time"


@book("wrapping_key_taken")
def take_key(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if event.generation <= books.wrapping:
        yield "a wrapping key that is not newer"
    books.wrapping = event.generation


@book("subject_keys_rewrapped")
def rewrap(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if event.generation != books.wrapping or not event.count:
        yield "nothing is wrapped, or under an old key"


@book("wrapping_key_destroyed")
def destroy(books: Books, event: Any, header: EntryHeader, _: Events) -> Iterator[str]:
    if not books.destroyed < event.generation < books.wrapping:
        yield "a wrapping key is destroyed that is in use, or gone"
    books.destroyed = event.generation
