"""Bytes of the read log. Pure: no keys, no files.

    table 1, blocks     portal id (16) ‖ u64 epoch ‖ u64 sequence ‖ u16 chunk   → a chunk of a block
    table 2, positions  portal id (16)                                          → Position
    table 3, counters   blinded identity (16)                                   → Counter
    table 4, kept       blinded identity (16)                                   → Counter
    table 5, marks      "turns"                                                 → Counted
    table 5, marks      "kept" | "time" | "clock"                               → u64
    table 6, terms      SHA-256 of it (32)                                      → core.store.v1.ReadTerms

Integers in keys are big-endian, so that a portal's blocks lie in order. A block is a header and the
columns as they were received, little-endian, then one verdict byte per read; behind the header stand
what the verdicts rest on and, of a TAM2 batch, profile and offset.

Counters are the newest durable ones; those kept are as before the batch of the turn that the mark
"kept" names; "turns" counts the durable batches with counters and has the sum over the counters.
"time" is a time that challenges were judged by, "clock" what the system's clock showed then; UTC
nanoseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from core.errors import LedgerCorrupt
from core.portal.columns import COUNTED, U8, U32, Columns, aligned

BLOCKS: Final = 1
POSITIONS: Final = 2
COUNTERS: Final = 3
KEPT: Final = 4
MARKS: Final = 5
TERMS: Final = 6
TABLES: Final = (BLOCKS, POSITIONS, COUNTERS, KEPT, MARKS, TERMS)
TURNS_MARK: Final = b"turns"
KEPT_MARK: Final = b"kept"
TIME_MARK: Final = b"time"
CLOCK_MARK: Final = b"clock"

EPOCH_MAX: Final = 2**64 - 1
CHUNK_VALUE_MAX: Final = 65_520  # a larger LMDB value spills into one page more
SEAL_OVERHEAD: Final = 12 + 16
CHUNK_MAX: Final = CHUNK_VALUE_MAX - SEAL_OVERHEAD

_BLOCK_KEY: Final = struct.Struct(">16sQQH")
_BLOCK_PREFIX: Final = struct.Struct(">16sQQ")
_BLOCK: Final = struct.Struct("<BBBBBBHIqq32sB16s")
_BLOCK_VERSION: Final = 2
_BASIS: Final = struct.Struct("<QQq32sB")
_HAS_PHASE: Final = 1
_HAS_DOPPLER: Final = 2
_HAS_TAM2: Final = 4
_TAM2: Final = struct.Struct("<BH")  # profile, offset; the width of the evidence tells the blocks
_POSITION: Final = struct.Struct("<BQQqqQQQQ32s")
_POSITION_VERSION: Final = 1
_MARK: Final = struct.Struct("<Q")
_TURNS: Final = struct.Struct("<Q32s")
_COUNTER: Final = struct.Struct("<BB16sI")
_COUNTER_VERSION: Final = 1
COUNTER_SIZE: Final = _COUNTER.size
_COUNTERS: Final = np.dtype(
    [("version", "u1"), ("width", "u1"), ("identity", "u1", (16,)), ("counter", "<u4")]
)


@dataclass(frozen=True, slots=True)
class Basis:
    """What the verdicts of a batch rest on beside its reads, and its tracks beside all batches."""

    journal_size: int  # its tags were as so many entries of the journal make them
    turn: int  # batches with counters that the site judged before; of those, their order
    quiet_before_ns: int  # tags not read since had gone before it by time alone; 0: none
    terms: bytes  # SHA-256 of the ReadTerms
    restored: bool = False  # the portal's tracks had been made again from stored batches before it


@dataclass(frozen=True, slots=True)
class Block:
    """A judged batch, with all that is needed to judge it again."""

    columns: Columns
    verdicts: U8  # (N,) numbers of jinku.type.v1.Verdict
    received_ns: int  # service's clock when it was judged, UTC nanoseconds
    challenge_state: int  # number of jinku.v1.ChallengeState
    known_antennas: U8  # (256,) 1 where the antenna was in use
    channel_count: int
    basis: Basis

    @property
    def turn(self) -> int | None:
        """Its place among the site's batches with counters; None if it has none."""
        return self.basis.turn if self.columns.scheme in COUNTED else None


@dataclass(frozen=True, slots=True)
class Position:
    """Where a portal stands. Written with every batch, in the same commit."""

    epoch: int
    last_sequence: int = 0  # the newest durable batch; 0: none in this epoch
    last_read_ns: int = 0  # latest read so far in this epoch, portal's clock
    service_ns: int = 0  # the service's time then
    replay_from: int = 1  # first batch with reads of a tag that may not have been decided
    alarms_from: int = 1  # first batch whose alarms may not all be journalled
    suppressed_count: int = 0  # alarms that wait for the next summary,
    suppressed_from: int = 0  # the first batch that had one,
    suppressed_digest: bytes = bytes(32)  # and the digest over them


@dataclass(frozen=True, slots=True)
class Counted:
    """What the newest counters are of."""

    turns: int  # batches with counters that are durable, since ever
    sum: int  # over the counters, see `ReadLogSealer.sum_counters`


@dataclass(frozen=True, slots=True)
class Counter:
    """The highest durable counter of a tag."""

    identity: bytes
    counter: int


def block_key(portal_id: bytes, epoch: int, sequence: int, chunk: int) -> bytes:
    """Key of one chunk."""
    return _BLOCK_KEY.pack(portal_id, epoch, sequence, chunk)


def split_block_key(key: bytes) -> tuple[bytes, int, int, int]:
    """Portal id, epoch, sequence, chunk. LedgerCorrupt for what is no such key."""
    try:
        portal_id, epoch, sequence, chunk = _BLOCK_KEY.unpack(key)
    except struct.error:
        raise LedgerCorrupt("read log", f"a block's key has {len(key)} bytes") from None
    return portal_id, epoch, sequence, chunk


def block_prefix(portal_id: bytes, epoch: int, sequence: int) -> bytes:
    """What the keys of all chunks of a batch begin with."""
    return _BLOCK_PREFIX.pack(portal_id, epoch, sequence)


def split_chunks(packed: bytes) -> Iterator[memoryview]:
    """The block in pieces that, sealed, fit one value each."""
    view = memoryview(packed)
    for start in range(0, len(view), CHUNK_MAX):
        yield view[start : start + CHUNK_MAX]


def pack_block(block: Block) -> bytes:
    """The block as bytes; one copy of the columns."""
    columns = block.columns
    flags = (_HAS_PHASE if len(columns.phase) else 0) | (
        _HAS_DOPPLER if len(columns.doppler_chz) else 0
    )
    tam2 = b""
    if columns.tam2_profile:
        flags |= _HAS_TAM2
        tam2 = _TAM2.pack(columns.tam2_profile, columns.tam2_offset)
    one = block.basis
    basis = _BASIS.pack(one.journal_size, one.turn, one.quiet_before_ns, one.terms, one.restored)
    header = _BLOCK.pack(
        _BLOCK_VERSION, columns.scheme, columns.identity.shape[1], columns.evidence.shape[1], flags,
        block.challenge_state, block.channel_count, len(columns), columns.base_time_ns,
        block.received_ns, np.packbits(block.known_antennas).tobytes(), len(columns.challenge_id),
        columns.challenge_id,
    )  # fmt: skip
    parts = (
        header, basis, tam2, columns.identity.data, columns.evidence.data, columns.antenna.data,
        columns.channel.data, columns.rssi_cdbm.data, columns.phase.data, columns.doppler_chz.data,
        columns.time_us.data, block.verdicts.data,
    )  # fmt: skip
    return b"".join(parts)


def unpack_block(packed: bytes) -> Block:
    """The block again, its arrays mostly views of `packed`. LedgerCorrupt if it is not of this layout."""
    basis, after_basis = unpack_basis(packed)
    (_, scheme, identity_width, evidence_width, flags, challenge_state, channel_count, count,
     base_time_ns, received_ns, antennas, id_size, challenge_id) = _BLOCK.unpack_from(packed)  # fmt: skip
    phases = count if flags & _HAS_PHASE else 0
    dopplers = count if flags & _HAS_DOPPLER else 0
    kinds = (
        ("u1", count * identity_width), ("u1", count * evidence_width), ("u1", count),
        ("u1", count), ("<i2", count), ("<u2", phases), ("<i2", dopplers), ("<u4", count),
        ("u1", count),
    )  # fmt: skip
    start = after_basis + (_TAM2.size if flags & _HAS_TAM2 else 0)
    if len(packed) != start + sum(np.dtype(kind).itemsize * size for kind, size in kinds):
        raise LedgerCorrupt("read log", "a block's length and its header disagree")
    profile, first_block = _TAM2.unpack_from(packed, after_basis) if flags & _HAS_TAM2 else (0, 0)
    arrays, offset = [], start
    for kind, size in kinds:
        array = np.frombuffer(packed, kind, size, offset) if size else np.empty(0, kind)
        arrays.append(aligned(array))
        offset += array.nbytes
    identity, evidence, antenna, channel, rssi_cdbm, phase, doppler_chz, time_us, verdicts = arrays
    columns = Columns(
        scheme, challenge_id[:id_size], base_time_ns, identity.reshape(count, identity_width),
        evidence.reshape(count, evidence_width), antenna, channel, rssi_cdbm, phase, doppler_chz,
        time_us, profile, first_block,
    )  # fmt: skip
    known = np.unpackbits(np.frombuffer(antennas, np.uint8))
    return Block(columns, verdicts, received_ns, challenge_state, known, channel_count, basis)


def unpack_basis(packed: bytes) -> tuple[Basis, int]:
    """The basis of a block, of which this may be the beginning, and where it ends. LedgerCorrupt if it
    is not of this layout.
    """
    if len(packed) < _BLOCK.size or packed[0] != _BLOCK_VERSION:
        raise LedgerCorrupt("read log", "a block is of an unknown layout")
    after = _BLOCK.size + _BASIS.size
    if len(packed) < after:
        raise LedgerCorrupt("read log", "a block's length and its header disagree")
    size, turn, quiet_before_ns, terms, restored = _BASIS.unpack_from(packed, _BLOCK.size)
    return Basis(size, turn, quiet_before_ns, terms, bool(restored)), after


def pack_position(position: Position) -> bytes:
    """The position as bytes."""
    return _POSITION.pack(
        _POSITION_VERSION, position.epoch, position.last_sequence, position.last_read_ns,
        position.service_ns, position.replay_from, position.alarms_from,
        position.suppressed_count, position.suppressed_from, position.suppressed_digest,
    )  # fmt: skip


def unpack_position(packed: bytes) -> Position:
    """The position again. LedgerCorrupt if it is not of this layout."""
    if len(packed) != _POSITION.size or packed[0] != _POSITION_VERSION:
        raise LedgerCorrupt("read log", "a position is of an unknown layout")
    return Position(*_POSITION.unpack(packed)[1:])


def pack_mark(number: int) -> bytes:
    """A mark as bytes."""
    return _MARK.pack(number)


def unpack_mark(packed: bytes) -> int:
    """The mark again. LedgerCorrupt if it is not of this layout."""
    if len(packed) != _MARK.size:
        raise LedgerCorrupt("read log", "a mark is of an unknown layout")
    return int(_MARK.unpack(packed)[0])


def pack_counted(counted: Counted) -> bytes:
    """The mark "turns" as bytes."""
    return _TURNS.pack(counted.turns, counted.sum.to_bytes(32, "little"))


def unpack_counted(packed: bytes) -> Counted:
    """The mark "turns" again. LedgerCorrupt if it is not of this layout."""
    if len(packed) != _TURNS.size:
        raise LedgerCorrupt("read log", "the mark of its counters is of an unknown layout")
    turns, total = _TURNS.unpack(packed)
    return Counted(turns, int.from_bytes(total, "little"))


def pack_counter(counter: Counter) -> bytes:
    """The counter as bytes."""
    return _COUNTER.pack(_COUNTER_VERSION, len(counter.identity), counter.identity, counter.counter)


def unpack_counter(packed: bytes) -> Counter:
    """The counter again. LedgerCorrupt if it is not of this layout."""
    if len(packed) != _COUNTER.size or packed[0] != _COUNTER_VERSION:
        raise LedgerCorrupt("read log", "a counter is of an unknown layout")
    _, size, identity, counter = _COUNTER.unpack(packed)
    return Counter(identity[:size], counter)


def unpack_counters(packed: bytes) -> Iterator[tuple[U8, U32]]:
    """Many counters that stand behind each other, by width of the identity: (N, width) identities
    and (N,) counters. LedgerCorrupt if one is not of this layout.
    """
    if len(packed) % _COUNTERS.itemsize:
        raise LedgerCorrupt("read log", "a counter is of an unknown layout")
    rows = np.frombuffer(packed, _COUNTERS)
    if not (rows["version"] == _COUNTER_VERSION).all():
        raise LedgerCorrupt("read log", "a counter is of an unknown layout")
    for width in np.unique(rows["width"]).tolist():
        of_width = rows[rows["width"] == width]
        yield (
            np.ascontiguousarray(of_width["identity"][:, :width]),
            aligned(np.ascontiguousarray(of_width["counter"])),
        )
