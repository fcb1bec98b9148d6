"""Runs of one portal's batches, each with one digest for the journal. Pure.

    block digest  =  SHA-256(block as it is packed, before it is sealed)
    digest        =  SHA-256(digest ‖ u64 BE sequence ‖ block digest), from 32 zero bytes, batch by batch

A run is complete at the first batch with which it is large or long enough, or when it has lasted that
long and no batch came.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from core.settings import ReadLogSettings

DIGEST_START: Final = bytes(32)
_MIB: Final = 1 << 20
_NS_PER_MINUTE: Final = 60 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Stored:
    """What a segment knows of a batch."""

    digest: bytes  # of the packed block
    size: int  # of the packed block
    reads: int
    received_ns: int
    # How many batches with counters the site had judged before, and whether this one has.
    turn: int = 0
    has_counters: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of batches."""

    first_sequence: int
    last_sequence: int
    reads: int
    digest: bytes
    first_received_ns: int
    last_received_ns: int
    # How many batches with counters the site had judged before it and by its end, and its own of them.
    first_turn: int
    end_turn: int
    counter_batches: int


def extend_digest(digest: bytes, sequence: int, block_digest: bytes) -> bytes:
    """The digest with one batch more."""
    return sha256(digest + sequence.to_bytes(8, "big") + block_digest).digest()


class OpenSegment:
    """The run that a portal's next batch belongs to. One thread at a time."""

    def __init__(self, settings: ReadLogSettings, first_sequence: int = 1) -> None:
        self._batches_max = settings.segment_batches_max
        self._size_max = settings.segment_mib_max * _MIB
        self._span_max_ns = settings.segment_minutes_max * _NS_PER_MINUTE
        self._begin(first_sequence)

    def _begin(self, first_sequence: int) -> None:
        self._first_sequence = self.next_sequence = first_sequence
        self._size = self._reads = 0
        self._digest = DIGEST_START
        self._first_ns = self._last_ns = 0
        self._first_turn = self._end_turn = self._counter_batches = 0

    def add(self, sequence: int, stored: Stored) -> Segment | None:
        """Count the next batch; the segment that it completes. ValueError if it is another."""
        if sequence != self.next_sequence:
            raise ValueError(f"batch {sequence} is counted, {self.next_sequence} is the next")
        if sequence == self._first_sequence:
            self._first_ns, self._first_turn = stored.received_ns, stored.turn
        self.next_sequence = sequence + 1
        self._digest = extend_digest(self._digest, sequence, stored.digest)
        self._size += stored.size
        self._reads += stored.reads
        self._last_ns = stored.received_ns
        self._end_turn = stored.turn + stored.has_counters
        self._counter_batches += stored.has_counters
        if (
            self.next_sequence - self._first_sequence < self._batches_max
            and self._size < self._size_max
            and self._last_ns - self._first_ns < self._span_max_ns
        ):
            return None
        return self.close()

    def is_over(self, now_ns: int) -> bool:
        """Whether it has lasted so long by now that no batch need complete it."""
        begun = self.next_sequence > self._first_sequence
        return begun and now_ns - self._first_ns >= self._span_max_ns

    def so_far(self) -> Segment | None:
        """What it would be if it were complete; None if it has no batch."""
        if self.next_sequence == self._first_sequence:
            return None
        return Segment(
            self._first_sequence, self.next_sequence - 1, self._reads, self._digest,
            self._first_ns, self._last_ns, self._first_turn, self._end_turn, self._counter_batches,
        )  # fmt: skip

    def close(self) -> Segment | None:
        """The run so far as a segment, None if it has no batch; the next one begins after it."""
        segment = self.so_far()
        self._begin(self.next_sequence)
        return segment
