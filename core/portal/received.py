"""A batch taken apart where it lies: its columns stay in the bytes that were received.

Parsing a message copies every column of it, and reading them from it copies them again. Here only
what is not a column is parsed. Whatever is not plainly one batch of columns is left to the parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from core.guard import size_max
from core.portal.columns import COLUMNS
from jinku.v1.portal_pb2 import ReadBatch, StreamRequest

_VARINT: Final = 0
_SIZED: Final = 2
# Ten of a batch are no columns; more is nothing plain.
_KEPT_MAX: Final = 16
_VARINT_BYTES_MAX: Final = 10


def _key(field_number: int, wire_type: int) -> int:
    return field_number << 3 | wire_type


_BATCH: Final = _key(StreamRequest.BATCH_FIELD_NUMBER, _SIZED)
_CHALLENGE_ID: Final = _key(ReadBatch.CHALLENGE_ID_FIELD_NUMBER, _SIZED)
_COLUMNS: Final = {
    _key(field.number, _SIZED): (field.name, size_max(field))
    for field in ReadBatch.DESCRIPTOR.fields
    if field.name in COLUMNS
}


class Received(NamedTuple):
    """A batch of columns."""

    batch: ReadBatch  # without its columns
    size: int  # bytes of that
    columns: Mapping[str, memoryview]  # those that it has, within the bounds of the schema


def take_apart(received: bytes) -> Received | None:
    """The batch of a StreamRequest; None for what the parser has to look at: another request, rows,
    a field twice, too long or of another type, bytes that are no such message.
    """
    try:
        return _take_apart(received)
    except (IndexError, DecodeError):
        return None


def _take_apart(received: bytes) -> Received | None:
    view, end = memoryview(received), len(received)
    size, at = _varint(received, 1)
    if received[0] != _BATCH or at + size != end:
        return None
    kept: list[memoryview] = []
    columns: dict[str, memoryview] = {}
    while at < end:
        start, key = at, received[at]
        if key in _COLUMNS:
            name, most = _COLUMNS[key]
            size, at = _varint(received, at + 1)
            if name in columns or size > most or at + size > end:
                return None
            columns[name] = view[at : at + size]
            at += size
            continue
        key, at = _varint(received, at)
        if key & 7 == _VARINT:
            _, at = _varint(received, at)
        elif key == _CHALLENGE_ID:
            size, at = _varint(received, at)
            at += size
        else:
            return None
        kept.append(view[start:at])
        if len(kept) > _KEPT_MAX:
            return None
    envelope = b"".join(kept)
    return Received(ReadBatch.FromString(envelope), len(envelope), columns) if at == end else None


def _varint(received: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends. IndexError if it does not."""
    number = 0
    for shift in range(0, 7 * _VARINT_BYTES_MAX, 7):
        byte = received[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise IndexError
