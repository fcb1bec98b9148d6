"""What a received message must be before anything else looks at it.

Refused here, with the field at fault: fields and enum numbers that this version does not know,
sizes outside the bounds that the schema marks, a `oneof` that says nothing, a command without its
id. What a message *means* is no business of the guard: that is decided, and answered with reasons.

The walk over a message's type is made once per type and kept; nothing is copied or serialised.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from core.errors import Violation, ViolationKind
from jinku.type.v1 import command_pb2, options_pb2

# A hostile message could be wrong in a million places; whoever mends it needs the first few.
VIOLATIONS_MAX = 32

# Listing unknown fields takes two microseconds each, and all threads wait meanwhile.
LISTED_BYTES_MAX = 16 << 10

COMMAND_ID = command_pb2.ClientCommandId.DESCRIPTOR.full_name

# In a command an unsaid enum is a mistake, except where the refusal is an answer of its own.
ZERO_IS_DECIDED = frozenset({"jinku.type.v1.TagScheme"})

# The natural id of a certificate (design, section 7); the settings ask the same of a service.
NATURAL_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
TELEPHONE = re.compile(r"\+?[0-9(][0-9 ()-]*[0-9]", re.A)
PATTERNS = {
    "jinku.v1.RegisterPortalRequest.name": NATURAL_ID,
    "jinku.v1.RegisterVaultRequest.time_zone": re.compile(r"[A-Za-z][\w+-]*(?:/[\w+-]+)*", re.A),
    "jinku.v1.RegisterContactRequest.telephone": TELEPHONE,
    "jinku.v1.ChangeContactRequest.telephone": TELEPHONE,
}
# Control, format, surrogate, private-use and unassigned characters, line and paragraph separators:
# no one can tell by looking that they are there.
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# 32 random bytes have fewer different values less than once in 10^19.
SALT_VALUES_MIN = 16

_SIZED = frozenset({FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING})
_FLOATING = frozenset({FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE})


@dataclass(frozen=True, slots=True)
class FieldRule:
    """What the guard asks of one field; made once per field of a type."""

    name: str
    repeated: bool
    # Absence can be told from emptiness, so an absent field has no least size.
    has_presence: bool
    size_min: int
    size_max: int
    element_max: int
    is_sized: bool
    numbers: frozenset[int]
    message: Descriptor | None
    pattern: re.Pattern[str] | None
    is_command_id: bool
    is_text: bool
    is_salt: bool


@dataclass(frozen=True, slots=True)
class TypeRule:
    """What the guard asks of one message type: only fields that can be wrong are listed."""

    name: str
    fields: tuple[FieldRule, ...]
    oneofs: tuple[tuple[str, str], ...]
    is_command: bool


def violations(message: Message, size: int | None = None) -> list[Violation]:
    """Everything wrong with a received message, at most VIOLATIONS_MAX of it; empty if nothing.

    `size` is the length of the received bytes, where the caller has them: a field that may be
    longer than its whole message is then not read, so that a large column is never copied.
    Raises nothing for any message of a known type.
    """
    walk = _Walk(size)
    rule = _rule(message.DESCRIPTOR)
    walk.message(message, rule, "", rule.is_command)
    return walk.found


def unlisted(message: Message, size: int) -> list[Violation]:
    """What is wrong with a message of `size` bytes, if it is large and has unknown fields: how many
    bytes of them, and they are dropped. For before `violations`, which lists them.
    """
    if size <= LISTED_BYTES_MAX:
        return []
    before = message.ByteSize()
    message.DiscardUnknownFields()
    unknown = before - message.ByteSize()
    if not unknown:
        return []
    described = f"{unknown} bytes of unknown fields"
    return [Violation(message.DESCRIPTOR.full_name, described, ViolationKind.UNKNOWN_FIELD)]


class _Walk:
    """One walk over one message."""

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.found: list[Violation] = []

    def add(self, field: str, description: str, kind: ViolationKind) -> None:
        if len(self.found) < VIOLATIONS_MAX:
            self.found.append(Violation(field, description, kind))

    def message(self, message: Message, rule: TypeRule, path: str, command: bool) -> None:
        unknown = UnknownFieldSet(message)
        if len(unknown):
            numbers = sorted({unknown[at].field_number for at in range(min(len(unknown), 8))})
            listed = ", ".join(map(str, numbers))
            description = f"{rule.name} has no field of number {listed}"
            place = path.removesuffix(".") or rule.name
            self.add(place, description, ViolationKind.UNKNOWN_FIELD)
        for oneof, choices in rule.oneofs:
            if message.WhichOneof(oneof) is None:
                self.add(path + oneof, f"one of {choices} is needed", ViolationKind.MISSING)
        for field in rule.fields:
            if len(self.found) >= VIOLATIONS_MAX:
                return
            self.field(message, field, path + field.name, command)

    def field(self, message: Message, rule: FieldRule, path: str, command: bool) -> None:
        if rule.repeated:
            self.elements(getattr(message, rule.name), rule, path, command)
        elif rule.has_presence and not message.HasField(rule.name):
            if rule.is_command_id:
                self.add(path, "every command needs its id", ViolationKind.MISSING)
        elif rule.message is not None:
            value = getattr(message, rule.name)
            self.message(value, _rule(rule.message), path + ".", command)
            if rule.is_command_id and not value.epoch:
                self.add(f"{path}.epoch", "must be drawn, not 0", ViolationKind.MISSING)
        elif rule.numbers:
            self.number(getattr(message, rule.name), rule, path, command)
        elif rule.is_text or rule.size_min or self.size is None or rule.size_max < self.size:
            value = getattr(message, rule.name)
            self.sized(value, rule.size_min, rule.size_max, path)
            if rule.is_text and (fault := text_fault(value)):
                self.add(path, fault, ViolationKind.VALUE)
            if rule.is_salt and len(set(value)) < SALT_VALUES_MIN:
                self.add(path, "must be random", ViolationKind.VALUE)
            if rule.pattern and not rule.pattern.fullmatch(value):
                asked = f"must look like {rule.pattern.pattern}"
                self.add(path, asked, ViolationKind.VALUE)

    def elements(self, values: Iterable[object], rule: FieldRule, path: str, command: bool) -> None:
        count = len(values)  # type: ignore[arg-type]  # every repeated container has a length
        if not rule.size_min <= count <= (rule.size_max or count):
            asked = f"{count} elements, {_range(rule.size_min, rule.size_max)} are accepted"
            self.add(path, asked, ViolationKind.VALUE)
            return
        if rule.message is None and not rule.numbers and not rule.element_max:
            return
        element = _rule(rule.message) if rule.message else None
        for index, value in enumerate(values):
            if len(self.found) >= VIOLATIONS_MAX:
                return
            if isinstance(value, Message) and element is not None:
                self.message(value, element, f"{path}[{index}].", command)
            elif isinstance(value, int):
                self.number(value, rule, f"{path}[{index}]", command)
            elif isinstance(value, (str, bytes)):
                self.sized(value, 0, rule.element_max, f"{path}[{index}]")
                if rule.is_text and (fault := text_fault(str(value))):
                    self.add(f"{path}[{index}]", fault, ViolationKind.VALUE)

    def number(self, value: int, rule: FieldRule, path: str, command: bool) -> None:
        if value not in rule.numbers:
            # `numbers` lacks 0 where a command must say something, see _numbers.
            if value == 0 and not command:
                return
            if value == 0:
                self.add(path, "must be said", ViolationKind.MISSING)
            else:
                self.add(path, f"{value} is not a known number", ViolationKind.UNKNOWN_NUMBER)

    def sized(self, value: str | bytes, size_min: int, size_max: int, path: str) -> None:
        size = len(value) if isinstance(value, bytes) or value.isascii() else len(value.encode())
        if not size_min <= size <= (size_max or size):
            asked = f"{size} bytes, {_range(size_min, size_max)} are accepted"
            self.add(path, asked, ViolationKind.VALUE)


def text_fault(text: str) -> str:
    """What is wrong with a text; empty if nothing. Never quotes it: it may be about a person.

    Two names that look alike are alike, and none writes a second line into an account or a log.
    """
    if text.isascii() and text.isprintable() and text == text.strip():
        return ""
    if not unicodedata.is_normalized("NFC", text):
        return "must be in Unicode normalisation form C"
    if not UNSEEN.isdisjoint(map(unicodedata.category, text)):
        return "has characters that cannot be seen"
    return "" if text == text.strip() else "begins or ends with a space"


def _range(least: int, greatest: int) -> str:
    if not greatest:
        return f"at least {least}"
    return f"{least} to {greatest}" if least != greatest else str(least)


@functools.cache
def _rule(descriptor: Any) -> TypeRule:
    """The rule of a message type; Any, because the stubs know two kinds of Descriptor."""
    rules = [_field_rule(field) for field in descriptor.fields]
    oneofs = [
        (oneof.name, ", ".join(field.name for field in oneof.fields))
        for oneof in descriptor.oneofs
        # The compiler writes `optional x` as a oneof `_x`.
        if not oneof.name.startswith("_")
    ]
    return TypeRule(
        name=descriptor.full_name,
        fields=tuple(rule for rule in rules if _can_be_wrong(rule)),
        oneofs=tuple(oneofs),
        is_command=any(rule.is_command_id for rule in rules),
    )


def _field_rule(field: FieldDescriptor) -> FieldRule:
    bounds = _bounds(field)
    return FieldRule(
        name=field.name,
        repeated=field.is_repeated,
        has_presence=field.has_presence,
        size_min=bounds.min,
        size_max=bounds.max,
        element_max=bounds.element_max,
        is_sized=field.type in _SIZED,
        numbers=_numbers(field.enum_type) if field.enum_type else frozenset(),
        message=field.message_type,
        pattern=PATTERNS.get(field.full_name),
        is_command_id=_is_command_id(field),
        is_text=field.type == FieldDescriptor.TYPE_STRING,
        is_salt=_is_salt(field),
    )


def _is_command_id(field: FieldDescriptor) -> bool:
    """Whether it makes its message a command; a CommandId merely chooses among kinds of ids."""
    if field.message_type is None or field.containing_oneof is not None:
        return False
    return bool(field.message_type.full_name == COMMAND_ID)


def _can_be_wrong(rule: FieldRule) -> bool:
    has_bounds = bool(rule.size_min or rule.size_max or rule.element_max)
    return bool(rule.message or rule.numbers or rule.is_text) or (
        (rule.repeated or rule.is_sized) and has_bounds
    )


def _numbers(enum: EnumDescriptor) -> frozenset[int]:
    """The numbers that say something; a zero that is decided on counts as saying something."""
    known = frozenset(enum.values_by_number)
    return known if enum.full_name in ZERO_IS_DECIDED else known - {0}


def _bounds(field: FieldDescriptor) -> options_pb2.Bounds:
    # The generated stub says FieldDescriptor where the option is an extension's handle.
    extension: Any = options_pb2.FieldMark.bounds
    bounds: options_pb2.Bounds = field.GetOptions().Extensions[extension]
    return bounds


def size_max(field: Any) -> int:
    """The greatest size that a field may have; 0: none is set."""
    return _bounds(field).max


def sensitivity(field: Any) -> int:
    """The mark of a field; Any, because the stubs know two kinds of FieldDescriptor."""
    extension: Any = options_pb2.FieldMark.sensitivity
    return int(field.GetOptions().Extensions[extension])


def is_personal(field: Any) -> bool:
    """Whether its value is about a person."""
    return sensitivity(field) == options_pb2.SENSITIVITY_PERSONAL


def _is_salt(field: Any) -> bool:
    """What keeps a request's digest from being guessed."""
    return bool(field.name == "salt" and field.type == FieldDescriptor.TYPE_BYTES)


def check_schema(request: Descriptor) -> list[str]:
    """What a request's type, and all it can hold, lacks for the guard to bound it; one line each.

    Every `bytes`, `string` and `repeated` field needs a greatest size, repeated sized ones also
    one per element, and there is no map.
    """
    wrong = []
    for field in _reachable(request):
        bounds = _bounds(field)
        if _is_map(field):
            wrong.append(f"{field.full_name}: a map")
        elif (field.is_repeated or field.type in _SIZED) and not bounds.max:
            wrong.append(f"{field.full_name}: no greatest size")
        elif field.is_repeated and field.type in _SIZED and not bounds.element_max:
            wrong.append(f"{field.full_name}: no greatest size of an element")
    fields = list(_reachable(request))
    if any(is_personal(field) for field in fields):
        # The journal keeps the digest of every request for ever, and extras as they are.
        if not any(_is_salt(field) and _bounds(field).min for field in request.fields):
            wrong.append(f"{request.full_name}: personal values without a salt")
        if any(field.name == "extras" for field in request.fields):
            wrong.append(f"{request.full_name}: personal values with extras")
    return wrong


def check_stored(message: Descriptor) -> list[str]:
    """What a stored type may not hold: maps have no order and floats no one value, personal and
    secret values are never erased from where it is stored; one line each.
    """
    return [
        f"{field.full_name}: {fault}"
        for field in _reachable(message)
        if (fault := _stored_fault(field))
    ]


def _stored_fault(field: FieldDescriptor) -> str:
    if _is_map(field):
        return "a map"
    if field.type in _FLOATING:
        return "a float"
    mark = sensitivity(field)
    if mark == options_pb2.SENSITIVITY_PERSONAL:
        return "personal"
    return "secret" if mark == options_pb2.SENSITIVITY_SECRET else ""


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _reachable(root: Descriptor) -> Iterable[FieldDescriptor]:
    """Every field of a type and of the types it holds, each type once."""
    waiting, seen = [root], {root.full_name}
    while waiting:
        for field in waiting.pop().fields:
            yield field
            held = field.message_type
            if held is not None and held.full_name not in seen:
                seen.add(held.full_name)
                waiting.append(held)
