"""Runs of one portal's batches, each with one digest for the journal. Pure.

    block digest  =  SHA-256(block as it is packed, before it is sealed)
    digest        =  SHA-256(digest ‖ u64 BE sequence ‖ block digest), from 32 zero bytes, batch by batch

A run is complete at the first batch with which it is large or long enough, so that the same batches
under the same settings make the same runs.
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


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of batches."""

    first_sequence: int
    last_sequence: int
    reads: int
    digest: bytes
    first_received_ns: int
    last_received_ns: int


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

    def add(self, sequence: int, stored: Stored) -> Segment | None:
        """Count the next batch; the segment that it completes. ValueError if it is another."""
        if sequence != self.next_sequence:
            raise ValueError(f"batch {sequence} is counted, {self.next_sequence} is the next")
        if sequence == self._first_sequence:
            self._first_ns = stored.received_ns
        self.next_sequence = sequence + 1
        self._digest = extend_digest(self._digest, sequence, stored.digest)
        self._size += stored.size
        self._reads += stored.reads
        self._last_ns = stored.received_ns
        if (
            self.next_sequence - self._first_sequence < self._batches_max
            and self._size < self._size_max
            and self._last_ns - self._first_ns < self._span_max_ns
        ):
            return None
        return self.close()

    def close(self) -> Segment | None:
        """The run so far as a segment, None if it has no batch; the next one begins after it."""
        if self.next_sequence == self._first_sequence:
            return None
        segment = Segment(
            self._first_sequence, self.next_sequence - 1, self._reads, self._digest,
            self._first_ns, self._last_ns,
        )  # fmt: skip
        self._begin(self.next_sequence)
        return segment
