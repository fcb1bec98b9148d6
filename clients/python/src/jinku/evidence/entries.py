"""Entries as a package holds them, and which of them concern a box."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from jinku.event.v1.entry_pb2 import EntryHeader, Outcome
from jinku.event.v1.event_pb2 import Event, Events
from jinku.verdicts import Fault, NotProven

ID_SIZE = 16
# Fields that hold an id, besides those that end in `_id`.
ID_FIELDS = frozenset({"requested_by", "confirmed_by"})


class EvidenceInvalid(NotProven):
    """The package proves nothing; the message names what of it is wrong."""


@dataclass(frozen=True)
class Entry:
    """One entry, as the bytes that were hashed."""

    header_bytes: bytes
    events_bytes: bytes

    @cached_property
    def header(self) -> EntryHeader:
        return EntryHeader.FromString(self.header_bytes)

    @cached_property
    def events(self) -> Events:
        return Events.FromString(self.events_bytes)

    @property
    def index(self) -> int:
        return self.header.index

    @property
    def leaf(self) -> bytes:
        """What the Merkle tree hashes."""
        return self.header_bytes + hashlib.sha256(self.events_bytes).digest()

    @property
    def refused(self) -> bool:
        return bool(self.header.outcome == Outcome.OUTCOME_REFUSED)

    @cached_property
    def named(self) -> frozenset[bytes]:
        """Every id that an event of it names."""
        return frozenset(find_ids(self.events))

    @property
    def context(self) -> frozenset[bytes]:
        """And the device or service that did it."""
        device_id = self.header.device_id
        return self.named | {device_id} if device_id else self.named

    def check(self, where: str) -> None:
        """EvidenceInvalid unless header and events are such, of kinds that this version knows."""
        try:
            known = is_known(self.header) and is_known(self.events)
        except DecodeError as error:
            raise EvidenceInvalid(Fault.ENTRY_MALFORMED, where) from error
        if not known:
            detail = "use a newer jinku / 请换用较新版本的 jinku"
            raise EvidenceInvalid(Fault.OTHER_VERSION, where, detail)


def find_ids(message: Message) -> Iterator[bytes]:
    """The ids in a message's fields, also those of messages in it."""
    for field, values in list_fields(message):
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for one in values:
                yield from find_ids(one)
        elif field.type == FieldDescriptor.TYPE_BYTES and is_id_field(field.name):
            yield from (one for one in values if len(one) == ID_SIZE)


def is_id_field(name: str) -> bool:
    return name.endswith("_id") or name in ID_FIELDS


def is_known(message: Message) -> bool:
    """Whether this version knows every field of it and of the messages in it."""
    return not len(UnknownFieldSet(message)) and all(
        is_known(one)
        for field, values in list_fields(message)
        if field.type == FieldDescriptor.TYPE_MESSAGE
        for one in values
    )


def list_fields(message: Message) -> Iterator[tuple[Any, Iterable[Any]]]:
    """The fields that are said, each with its values."""
    for field, value in message.ListFields():
        yield field, value if field.is_repeated else [value]


def made_in(id_: bytes) -> int:
    """Index of the entry that made an id: realm ‖ u64 index ‖ ordinal."""
    return int.from_bytes(id_[4:12])


def realm_of(id_: bytes) -> int:
    return int.from_bytes(id_[:4])


def each(entries: Iterable[Entry], kind: str) -> Iterator[Any]:
    """Every event of a kind, in order."""
    events: Iterator[Event] = (event for entry in entries for event in entry.events.events)
    return (getattr(event, kind) for event in events if event.WhichOneof("event") == kind)


def in_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Each entry once, in order of their indices."""
    return tuple(entry for _, entry in sorted({e.index: e for e in entries}.items()))


def ids_of_box(container_id: bytes, entries: Iterable[Entry]) -> frozenset[bytes]:
    """The box's own id and those of all tags that were ever issued to it."""
    issued = each(entries, "tag_issued")
    tags = {one.tag_id for one in issued if one.container_id == container_id}
    return frozenset({container_id, *tags})


def concerns(entry: Entry, ids: Collection[bytes], *, with_refusals: bool) -> bool:
    """Whether an event of the entry names one of them or, where that is asked for, it is a refusal
    for a reason that does.
    """
    if not entry.named.isdisjoint(ids):
        return True
    return with_refusals and any(
        one in ids for reason in entry.header.reasons for one in find_ids(reason)
    )
