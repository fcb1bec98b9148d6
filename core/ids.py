"""Ids: 16 bytes, u32 realm ‖ u64 entry index ‖ u32 ordinal, big-endian, made by the ledger."""

from __future__ import annotations

import struct

ID_SIZE = 16
_LAYOUT = struct.Struct(">IQI")


def make_id(realm: int, entry_index: int, ordinal: int) -> bytes:
    """The id of the ordinal-th thing that entry `entry_index` of `realm` made."""
    return _LAYOUT.pack(realm, entry_index, ordinal)


def split_id(value: bytes) -> tuple[int, int, int]:
    """Realm, entry index and ordinal of an id. ValueError if it is not 16 bytes."""
    if len(value) != ID_SIZE:
        raise ValueError(f"an id is {ID_SIZE} bytes, this is {len(value)}")
    realm, entry_index, ordinal = _LAYOUT.unpack(value)
    return realm, entry_index, ordinal
