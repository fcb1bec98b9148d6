"""What a request ought to be answered, by the auditor's reading of the rules; imports nothing of
`core`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from google.protobuf.message import Message

from auditor_books import ACTIVE, DEAD_READ, FROZEN, FROZEN_READ, RETIRED, WITH_HOLDER, Books
from jinku.event.v1.event_pb2 import Events

SUN = 5
SCHEMES = {1, 2, 3, 4, 5, 6}


class Asked(NamedTuple):
    """Who asks, when, and which versions of tag masters are loaded."""

    by: bytes
    now_ns: int
    keys: Collection[int]


def expected_reasons(request: Message, books: Books, asked: Asked) -> list[int] | None:
    """Numbers of the reasons against it, in order, but for those in UNKNOWABLE; none if it ought to be
    accepted. None: the auditor cannot know (what may be read of persons' values).
    """
    rule = RULES.get(type(request).__name__)
    return None if rule is None else list(rule(request, books, asked))


Rule = Callable[[Any, Books, Asked], Iterator[int]]
# A key that is gone; how long values are kept; a clock that was stepped.
UNKNOWABLE = {608, 610, 611}


def institution(request: Any, books: Books, _: Asked) -> Iterator[int]:
    """ORG-01: a tree, each code once."""
    if request.parent_code == request.code:
        yield 210
    elif request.parent_code and request.parent_code not in books.institutions:
        yield 202
    if request.code in books.institutions:
        yield 201


def vault(request: Any, books: Books, _: Asked) -> Iterator[int]:
    if request.institution_code not in books.institutions:
        yield 202
    if request.code in books.vaults:
        yield 203


def portal(request: Any, books: Books, _: Asked) -> Iterator[int]:
    """POR-02: it can tell inside from outside."""
    if request.vault_code not in books.vaults:
        yield 204
    if request.name in books.portals:
        yield 205
    sides = {antenna.side for antenna in request.antennas}
    yield from (209 for side in (1, 2) if side not in sides)
    ports = Counter(antenna.port for antenna in request.antennas)
    yield from (209 for count in ports.values() if count > 1)
    yield from (209 for port in ports if not 1 <= port <= 255)


def container(request: Any, books: Books, _: Asked) -> Iterator[int]:
    """TAG-03: each label once, of an institution and a vault that are there."""
    if request.institution_code not in books.institutions:
        yield 202
    if request.vault_code not in books.vaults:
        yield 204
    if request.label in books.labels:
        yield 207


def issue(request: Any, books: Books, asked: Asked) -> Iterator[int]:
    """TAG-01, TAG-02: one live tag on a box, an identity once for ever, its key at hand."""
    box = books.labels.get(request.container_label)
    if box is None:
        yield 208
    else:
        live = books.live(box)
        if live and not request.replaces:
            yield 302
        if not live and request.replaces:
            yield 310
    sizes = {7} if request.scheme == SUN else {7, 8, 12, 16}
    if len(request.identity) not in sizes or not any(request.identity):
        yield 307
    elif request.identity in books.identities:
        yield 301
    if request.scheme not in SCHEMES:
        yield 308
    newest = max(asked.keys)
    if (request.key_version if request.HasField("key_version") else newest) not in asked.keys:
        yield 309


def state_of(request: Any, books: Books) -> int:
    tag = books.identities.get(request.identity)
    return books.tags[tag].state if tag else 0


def freeze(request: Any, books: Books, _: Asked) -> Iterator[int]:
    yield from {0: [303], FROZEN: [305], RETIRED: [304]}.get(state_of(request, books), [])


def unfreeze(request: Any, books: Books, _: Asked) -> Iterator[int]:
    yield from {0: [303], 1: [306], RETIRED: [304]}.get(state_of(request, books), [])


def retire(request: Any, books: Books, _: Asked) -> Iterator[int]:
    yield from {0: [303], RETIRED: [304]}.get(state_of(request, books), [])


# -- persons


def register_contact(request: Any, books: Books, _: Asked) -> Iterator[int]:
    """An institution has one contact, who is replaced and never joined."""
    institution_id = books.institutions.get(request.institution_code)
    if institution_id is None:
        yield 202
    elif (institution_id in books.contacts) != request.replaces:
        yield 602 if request.replaces else 601


def person_faults(person_id: bytes, books: Books) -> list[int]:
    person = books.persons.get(person_id)
    return [606] if person is None else [607] * person.erased


def contact_faults(person_id: bytes, books: Books) -> list[int]:
    """An office ends once, and nothing of it changes afterwards."""
    faults = person_faults(person_id, books)
    return faults or [603] * books.persons[person_id].ended


def change_contact(request: Any, books: Books, _: Asked) -> Iterator[int]:
    said = request.HasField("name") or request.HasField("telephone")
    yield from contact_faults(request.contact_id, books) or [605] * (not said)


def end_contact(request: Any, books: Books, _: Asked) -> Iterator[int]:
    yield from contact_faults(request.contact_id, books)


def request_erasure(request: Any, books: Books, asked: Asked) -> Iterator[int]:
    """Of nobody in office; one request at a time."""
    yield from erasure_faults(request.subject_id, books)
    erased = person_faults(request.subject_id, books)
    if not erased and any(
        one.person == request.subject_id and not one.used and asked.now_ns <= one.expires_ns
        for one in books.erasures.values()
    ):
        yield 612


def confirm_erasure(request: Any, books: Books, asked: Asked) -> Iterator[int]:
    """By another principal than asked for it, while that still counts."""
    erasure = books.erasures.get(request.erasure_id)
    if erasure is None or erasure.person != request.subject_id:
        yield 613
        return
    yield from erasure_faults(request.subject_id, books)
    if erasure.by == asked.by:
        yield 614
    if asked.now_ns > erasure.expires_ns:
        yield 615


def erasure_faults(person_id: bytes, books: Books) -> list[int]:
    faults = person_faults(person_id, books)
    return faults or [604] * (not books.persons[person_id].ended)


RULES: dict[str, Rule] = {
    "RegisterInstitutionRequest": institution,
    "RegisterVaultRequest": vault,
    "RegisterPortalRequest": portal,
    "RegisterContainerRequest": container,
    "IssueTagRequest": issue,
    "FreezeTagRequest": freeze,
    "UnfreezeTagRequest": unfreeze,
    "RetireTagRequest": retire,
    "RegisterContactRequest": register_contact,
    "ChangeContactRequest": change_contact,
    "EndContactRequest": end_contact,
    "RequestErasureRequest": request_erasure,
    "ConfirmErasureRequest": confirm_erasure,
}
# What was asked for, and where the last event must say the same.
SAME = (
    "code", "name", "kind", "time_zone", "label", "identity", "scheme", "note", "antennas",
    "contact_id", "subject_id", "erasure_id",
)  # fmt: skip


def misread(request: Any, events: Events, books: Books) -> Iterator[str]:
    """Fields of an accepted request that its event does not say again."""
    event = events.events[-1]
    made: Any = getattr(event, event.WhichOneof("event") or "")
    asked, told = request.DESCRIPTOR.fields_by_name, made.DESCRIPTOR.fields_by_name
    for name in SAME:
        if name in asked and name in told and getattr(request, name) != getattr(made, name):
            yield name
    if "extras" in asked and list(request.extras) != list(events.extras):
        yield "extras"
    named = {
        "institution_code": ("institution_id", books.institutions),
        "parent_code": ("parent_id", books.institutions),
        "vault_code": ("vault_id", books.vaults),
        "container_label": ("container_id", books.labels),
    }
    for name, (where, known) in named.items():
        if name in asked and getattr(made, where) != known.get(getattr(request, name), b""):
            yield name
    about_a_tag = "identity" in asked and "identity" not in told
    if about_a_tag and made.tag_id != books.identities.get(request.identity):
        yield "identity"


def expected_presentation(
    identity: bytes, vault_id: bytes, books: Books, *, forged: bool
) -> tuple[list[int], bool]:
    """Why a tag that came near is held, by number, nothing if it is released; and whether that is
    alarmed. `vault_id` is the gate's; `forged`: the tag did not prove itself.
    """
    tag = books.tags.get(books.identities.get(identity, b""))
    if tag is None:
        return [401], True
    # A copy of a frozen tag is a copy before it is frozen: nothing else of it is believed.
    if forged:
        return [402], True
    if tag.state != ACTIVE:
        return [FROZEN_READ if tag.state == FROZEN else DEAD_READ], True
    box = books.boxes[tag.box]
    elsewhere = box.holder in books.vault_owner and box.holder != vault_id
    return ([408] if elsewhere and box.place == WITH_HOLDER else []), False
