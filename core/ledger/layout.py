"""Byte layouts of the ledger's keys and values. Pure: no store, no cryptography."""

from __future__ import annotations

import struct
from collections.abc import Iterable

_U64 = struct.Struct(">Q")
_NODE = struct.Struct(">BQ")
_LENGTH = struct.Struct(">I")

# Names of the LMDB databases beside the tables (which are 1 to 99). Numbers, so that a plain tool
# learns nothing.
JOURNAL, NODES, CHECKPOINTS, STAMPS = 100, 101, 102, 103


def index_key(index: int) -> bytes:
    """u64 big-endian: entry index or tree size, in order."""
    return _U64.pack(index)


def key_index(key: bytes) -> int:
    """The index of a key."""
    return int(_U64.unpack(key)[0])


def node_key(level: int, index: int) -> bytes:
    """u8 level ‖ u64 index."""
    return _NODE.pack(level, index)


def pack_entries(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """One commit's entries: each u32 size ‖ header ‖ u32 size ‖ events."""
    parts: list[bytes] = []
    for header, events in entries:
        parts += (_LENGTH.pack(len(header)), header, _LENGTH.pack(len(events)), events)
    return b"".join(parts)


def unpack_entries(packed: bytes) -> list[tuple[bytes, bytes]]:
    """The entries of one commit. ValueError if the sizes do not add up."""
    fields: list[bytes] = []
    at = 0
    while at < len(packed):
        if at + 4 > len(packed):
            raise ValueError("a size is cut off")
        (size,) = _LENGTH.unpack_from(packed, at)
        at += 4
        if at + size > len(packed):
            raise ValueError("a value is cut off")
        fields.append(packed[at : at + size])
        at += size
    if len(fields) % 2:
        raise ValueError("a header has no events")
    return list(zip(fields[::2], fields[1::2], strict=True))
