"""Arrays of reads → the columns of a `ReadBatch`, without work per read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import ReadBatch, Tam2Profile

IDENTITY_WIDTHS = (7, 8, 12, 16)
EVIDENCE_WIDTHS = {
    TagScheme.TAG_SCHEME_NONE: 0,
    TagScheme.TAG_SCHEME_TAM1: 16,
    TagScheme.TAG_SCHEME_COUNTER_CMAC: 12,
    TagScheme.TAG_SCHEME_SUN: 11,
    TagScheme.TAG_SCHEME_COUNTER_CMAC_16: 20,
}
SUN_IDENTITY_WIDTH = 7
US_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Tam2Read:
    """What TAM2 was told to read of the tags' memory: offset in its blocks of 8 bytes, count in the
    cipher's blocks of 16 bytes.
    """

    profile: Tam2Profile
    offset: int
    block_count: int

    def __post_init__(self) -> None:
        if not 0 <= self.offset <= 4095 or not 1 <= self.block_count <= 4:
            raise ValueError("TAM2 reads 1 to 4 blocks from an offset of 0 to 4095")


@dataclass(frozen=True, slots=True)
class Reads:
    """N reads of one portal, in the order in which they were made.

    Units are physical here and integers on the wire: dBm, turns, Hz, UTC nanoseconds.
    """

    identity: NDArray[np.uint8]  # N × 7, 8, 12 or 16
    antenna: NDArray[np.uint8]
    channel: NDArray[np.uint8]
    rssi_dbm: NDArray[np.float64]
    time_ns: NDArray[np.int64]
    phase_turns: NDArray[np.float64] | None = None
    doppler_hz: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.antenna)

    def take(self, rows: slice | NDArray[np.intp]) -> Reads:
        """Some of the reads, e.g. one batch of them."""
        return Reads(
            self.identity[rows],
            self.antenna[rows],
            self.channel[rows],
            self.rssi_dbm[rows],
            self.time_ns[rows],
            None if self.phase_turns is None else self.phase_turns[rows],
            None if self.doppler_hz is None else self.doppler_hz[rows],
        )


def pack(values: NDArray[np.float64], scale: float, kind: str) -> bytes:
    """Scaled, rounded, held within the type's range, little-endian."""
    limits = np.iinfo(np.dtype(kind))
    return np.clip(np.rint(values * scale), limits.min, limits.max).astype(kind).tobytes()


def make_batch(
    reads: Reads,
    scheme: TagScheme,
    evidence: NDArray[np.uint8] | None = None,
    challenge_id: bytes = b"",
    tam2: Tam2Read | None = None,
) -> ReadBatch:
    """The batch without its sequence, which the `PortalClient` gives; `tam2` for that scheme alone.

    Raises ValueError for columns that the service would reject: nothing travels in vain.
    """
    count = len(reads)
    if (scheme == TagScheme.TAG_SCHEME_TAM2) != (tam2 is not None):
        raise ValueError(f"tam2 goes with TAM2 and with nothing else: {TagScheme.Name(scheme)}")
    width = 16 + 16 * tam2.block_count if tam2 else EVIDENCE_WIDTHS[scheme]
    if count == 0:
        raise ValueError("a batch holds at least one read")
    if reads.identity.shape[0] != count or reads.identity.shape[1] not in IDENTITY_WIDTHS:
        raise ValueError(f"identity is {reads.identity.shape}, not {count} × {IDENTITY_WIDTHS}")
    if scheme == TagScheme.TAG_SCHEME_SUN and reads.identity.shape[1] != SUN_IDENTITY_WIDTH:
        raise ValueError(f"SUN identifies by a UID of 7 bytes, not {reads.identity.shape[1]}")
    if evidence is None:
        evidence = np.zeros((count, width), np.uint8)
    if evidence.shape != (count, width):
        raise ValueError(f"evidence is {evidence.shape}, {TagScheme.Name(scheme)} needs {width}")
    base = int(reads.time_ns.min())
    time_us = (reads.time_ns - base) // 1_000
    if int(time_us.max()) > US_MAX:
        raise ValueError("a batch spans at most 71 minutes")
    batch = ReadBatch(
        base_time_ns=base,
        scheme=scheme,
        challenge_id=challenge_id,
        identity=np.ascontiguousarray(reads.identity).tobytes(),
        evidence=np.ascontiguousarray(evidence).tobytes(),
        antenna=reads.antenna.astype("<u1").tobytes(),
        channel=reads.channel.astype("<u1").tobytes(),
        rssi_cdbm=pack(reads.rssi_dbm, 100, "<i2"),
        time_us=time_us.astype("<u4").tobytes(),
    )
    if tam2 is not None:
        batch.tam2_profile = tam2.profile
        batch.tam2_offset = tam2.offset
        batch.tam2_block_count = tam2.block_count
    if reads.phase_turns is not None:
        turns = np.rint(np.mod(reads.phase_turns, 1.0) * 65536).astype(np.int64) % 65536
        batch.phase = turns.astype("<u2").tobytes()
    if reads.doppler_hz is not None:
        batch.doppler_chz = pack(reads.doppler_hz, 100, "<i2")
    return batch
