"""A batch of reads as arrays. Pure: a message in, arrays or one reason out.

The columns of a message are little-endian bytes and become arrays without a copy or a loop; rows,
which simple clients send, are turned into the same arrays one by one. Whatever does not agree is a
reason that names the field at fault; the first one found, in the order in which they are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.errors import Violation, ViolationKind
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import Read, ReadBatch, Tam2Profile

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
I16 = npt.NDArray[np.int16]

IDENTITY_WIDTHS: Final = frozenset({7, 8, 12, 16})
EVIDENCE_WIDTHS: Final[dict[int, int]] = {
    TagScheme.TAG_SCHEME_NONE: 0,
    TagScheme.TAG_SCHEME_TAM1: 16,
    TagScheme.TAG_SCHEME_COUNTER_CMAC: 12,
    TagScheme.TAG_SCHEME_SUN: 11,
    TagScheme.TAG_SCHEME_COUNTER_CMAC_16: 20,
}
TAM2: Final = int(TagScheme.TAG_SCHEME_TAM2)
TAM2_FIELDS: Final = ("tam2_profile", "tam2_offset", "tam2_block_count")
TAM2_OFFSET_MAX: Final = 4095
TAM2_BLOCKS_MAX: Final = 4
CHALLENGED: Final = frozenset({int(TagScheme.TAG_SCHEME_TAM1), TAM2})
COUNTED: Final = frozenset(
    int(scheme)
    for scheme in (
        TagScheme.TAG_SCHEME_COUNTER_CMAC,
        TagScheme.TAG_SCHEME_SUN,
        TagScheme.TAG_SCHEME_COUNTER_CMAC_16,
    )
)
SUN_IDENTITY_WIDTH: Final = 7
COLUMNS: Final = (
    "identity", "evidence", "antenna", "channel", "rssi_cdbm", "phase", "doppler_chz", "time_us",
)  # fmt: skip
NS_PER_US: Final = 1_000


class BatchFault(Exception):
    """A batch that cannot be taken, and why."""

    def __init__(self, code: ReasonCode, item: str) -> None:
        super().__init__(f"{ReasonCode.Name(code)} {item}")
        self.reason = ReasonRecord(code=code, item=item)


@dataclass(frozen=True, slots=True)
class Columns:
    """N ≥ 1 reads whose columns agree. Arrays are C-contiguous, aligned, little-endian."""

    scheme: int
    challenge_id: bytes
    base_time_ns: int
    identity: U8  # (N, 7 | 8 | 12 | 16)
    evidence: U8  # (N, width of the scheme)
    antenna: U8  # (N,)
    channel: U8  # (N,)
    rssi_cdbm: I16  # (N,) hundredths of a dBm
    phase: U16  # (N,) 1/65536 turn, or (0,): not given
    doppler_chz: I16  # (N,) hundredths of a Hz, or (0,): not given
    time_us: U32  # (N,) after base_time_ns
    tam2_profile: int = 0  # number of jinku.v1.Tam2Profile; 0: another scheme
    tam2_offset: int = 0  # first block read of the profile's memory
    # Of the earliest and the latest read, after base_time_ns.
    first_us: int = field(init=False)
    last_us: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "first_us", int(self.time_us.min()))
        object.__setattr__(self, "last_us", int(self.time_us.max()))

    def __len__(self) -> int:
        return len(self.antenna)

    @property
    def first_ns(self) -> int:
        """Time of the earliest read, portal's clock, UTC nanoseconds."""
        return self.base_time_ns + self.first_us * NS_PER_US

    @property
    def last_ns(self) -> int:
        """Time of the latest read, portal's clock, UTC nanoseconds."""
        return self.base_time_ns + self.last_us * NS_PER_US

    def times_ns(self) -> npt.NDArray[np.int64]:
        """Time of each read, (N,), UTC nanoseconds."""
        return self.time_us.astype(np.int64) * NS_PER_US + self.base_time_ns


def read_columns(
    batch: ReadBatch, reads_max: int, columns: Mapping[str, memoryview] | None = None
) -> Columns:
    """The reads of a batch that the guard has let pass. Raises BatchFault if they do not agree.

    `columns`: those of a batch that was taken apart, which are not in `batch`.
    """
    if columns is not None:
        return _from_columns(batch, columns, reads_max)
    if not batch.rows:
        return _from_columns(batch, {name: getattr(batch, name) for name in COLUMNS}, reads_max)
    for name in COLUMNS:
        if getattr(batch, name):
            raise BatchFault(ReasonCode.REASON_CODE_BATCH_ROWS_AND_COLUMNS, name)
    return _from_rows(batch, reads_max)


def fault_of(violation: Violation) -> ReasonRecord:
    """What the guard found, as the reason that a portal is given."""
    unknown = violation.kind in {ViolationKind.UNKNOWN_FIELD, ViolationKind.UNKNOWN_NUMBER}
    code = ReasonCode.REASON_CODE_BATCH_MALFORMED
    if violation.kind == ViolationKind.UNKNOWN_NUMBER and violation.field == "scheme":
        code = ReasonCode.REASON_CODE_BATCH_SCHEME_UNKNOWN
    elif unknown:
        code = ReasonCode.REASON_CODE_BATCH_UNKNOWN_FIELDS
    item = f"{violation.field}: {violation.description}"
    return ReasonRecord(code=code, item=item.removeprefix(": ")[:64])


def _check_envelope(batch: ReadBatch, count: int, reads_max: int) -> int:
    """The width of the scheme's evidence, if count, scheme, challenge and time can be."""
    if count == 0:
        raise BatchFault(ReasonCode.REASON_CODE_BATCH_EMPTY, "antenna")
    if count > reads_max:
        raise BatchFault(ReasonCode.REASON_CODE_BATCH_TOO_LARGE, f"antenna: {count} > {reads_max}")
    width = _tam2_width(batch) if batch.scheme == TAM2 else EVIDENCE_WIDTHS.get(batch.scheme)
    if width is None:
        raise BatchFault(ReasonCode.REASON_CODE_BATCH_SCHEME_UNKNOWN, f"scheme: {batch.scheme}")
    if batch.scheme in CHALLENGED and not batch.challenge_id:
        raise BatchFault(ReasonCode.REASON_CODE_BATCH_CHALLENGE_MISSING, "challenge_id")
    if batch.scheme not in CHALLENGED and batch.challenge_id:
        raise BatchFault(
            ReasonCode.REASON_CODE_BATCH_MALFORMED, "challenge_id: the scheme has none"
        )
    if batch.scheme != TAM2:
        for name in TAM2_FIELDS:
            if batch.HasField(name):
                raise BatchFault(
                    ReasonCode.REASON_CODE_BATCH_MALFORMED, f"{name}: the scheme has none"
                )
    if batch.base_time_ns <= 0:
        raise BatchFault(ReasonCode.REASON_CODE_BATCH_MALFORMED, "base_time_ns: must be after 1970")
    return width


def _tam2_width(batch: ReadBatch) -> int:
    """The width of TAM2's evidence, if what it read of the tag is said whole."""
    for name in TAM2_FIELDS:
        if not batch.HasField(name):
            raise BatchFault(ReasonCode.REASON_CODE_BATCH_MALFORMED, f"{name}: missing")
    for name, least, most in (
        ("tam2_profile", 1, len(Tam2Profile.values()) - 1),
        ("tam2_offset", 0, TAM2_OFFSET_MAX),
        ("tam2_block_count", 1, TAM2_BLOCKS_MAX),
    ):
        if not least <= getattr(batch, name) <= most:
            raise BatchFault(
                ReasonCode.REASON_CODE_BATCH_MALFORMED,
                f"{name}: {getattr(batch, name)} is outside {least} to {most}",
            )
    return 16 + 16 * batch.tam2_block_count


def _is_identity_width(scheme: int, width: int) -> bool:
    return width in IDENTITY_WIDTHS and (
        scheme != TagScheme.TAG_SCHEME_SUN or width == SUN_IDENTITY_WIDTH
    )


def _from_columns(
    batch: ReadBatch, columns: Mapping[str, bytes | memoryview], reads_max: int
) -> Columns:
    antenna = columns.get("antenna", b"")
    count = len(antenna)
    if count == 0:
        for name in COLUMNS:
            if columns.get(name):
                raise BatchFault(ReasonCode.REASON_CODE_BATCH_COLUMNS_DISAGREE, f"antenna: {name}")
    evidence_width = _check_envelope(batch, count, reads_max)
    identity = columns.get("identity", b"")
    identity_width, rest = divmod(len(identity), count)
    if rest or not _is_identity_width(batch.scheme, identity_width):
        raise BatchFault(
            ReasonCode.REASON_CODE_BATCH_IDENTITY_WIDTH, f"identity: {len(identity)} / {count}"
        )
    evidence = columns.get("evidence", b"")
    if len(evidence) != count * evidence_width:
        raise BatchFault(
            ReasonCode.REASON_CODE_BATCH_EVIDENCE_WIDTH, f"evidence: {len(evidence)} / {count}"
        )

    def column(name: str, kind: str, size: int, *, optional: bool = False) -> Any:
        return _column(name, columns.get(name, b""), kind, size, optional=optional)

    return Columns(
        scheme=batch.scheme,
        challenge_id=batch.challenge_id,
        base_time_ns=batch.base_time_ns,
        identity=column("identity", "u1", count * identity_width).reshape(count, -1),
        evidence=column("evidence", "u1", count * evidence_width).reshape(count, evidence_width),
        antenna=column("antenna", "u1", count),
        channel=column("channel", "u1", count),
        rssi_cdbm=column("rssi_cdbm", "<i2", count),
        phase=column("phase", "<u2", count, optional=True),
        doppler_chz=column("doppler_chz", "<i2", count, optional=True),
        time_us=column("time_us", "<u4", count),
        tam2_profile=batch.tam2_profile,
        tam2_offset=batch.tam2_offset,
    )


def _column(
    name: str, data: bytes | memoryview, kind: str, count: int, *, optional: bool = False
) -> Any:
    """A view of the bytes as `count` values of `kind`, or of none where the column is optional."""
    expected = count * np.dtype(kind).itemsize
    if len(data) != expected and (data or not optional):
        raise BatchFault(
            ReasonCode.REASON_CODE_BATCH_COLUMNS_DISAGREE,
            f"{name}: {len(data)} bytes, {expected} expected",
        )
    return aligned(np.frombuffer(data, kind))


def aligned(array: Any) -> Any:
    """The same values where kernels may read them: a column in the midst of a message need not lie at
    a multiple of its width.
    """
    return array if array.flags.aligned else array.copy()


def _from_rows(batch: ReadBatch, reads_max: int) -> Columns:
    rows = batch.rows
    count = len(rows)
    evidence_width = _check_envelope(batch, count, reads_max)
    identity_width = len(rows[0].identity)
    if not _is_identity_width(batch.scheme, identity_width):
        raise BatchFault(ReasonCode.REASON_CODE_BATCH_IDENTITY_WIDTH, "rows[0].identity")
    identities, evidence = [], []
    none_given = bytes(evidence_width)
    for index, row in enumerate(rows):
        if len(row.identity) != identity_width:
            raise BatchFault(ReasonCode.REASON_CODE_BATCH_IDENTITY_WIDTH, f"rows[{index}].identity")
        if row.evidence and len(row.evidence) != evidence_width:
            raise BatchFault(ReasonCode.REASON_CODE_BATCH_EVIDENCE_WIDTH, f"rows[{index}].evidence")
        identities.append(row.identity)
        evidence.append(row.evidence or none_given)
    phase = _number_column(rows, "phase", "<u2", lambda row: row.phase)
    doppler_chz = _number_column(rows, "doppler_chz", "<i2", lambda row: row.doppler_chz)
    nothing = slice(0, 0)
    return Columns(
        scheme=batch.scheme,
        challenge_id=batch.challenge_id,
        base_time_ns=batch.base_time_ns,
        identity=np.frombuffer(b"".join(identities), np.uint8).reshape(count, -1),
        evidence=np.frombuffer(b"".join(evidence), np.uint8).reshape(count, evidence_width),
        antenna=_number_column(rows, "antenna", "u1", lambda row: row.antenna),
        channel=_number_column(rows, "channel", "u1", lambda row: row.channel),
        rssi_cdbm=_number_column(rows, "rssi_cdbm", "<i2", lambda row: row.rssi_cdbm),
        phase=phase if phase.any() else phase[nothing],
        doppler_chz=doppler_chz if doppler_chz.any() else doppler_chz[nothing],
        time_us=_number_column(rows, "time_us", "<u4", lambda row: row.time_us),
        tam2_profile=batch.tam2_profile,
        tam2_offset=batch.tam2_offset,
    )


def _number_column(rows: Any, name: str, kind: str, value: Callable[[Read], int]) -> Any:
    """One number of every row, if all fit `kind`."""
    values = np.fromiter((value(row) for row in rows), np.int64, len(rows))
    bounds = np.iinfo(kind)
    wrong = np.flatnonzero((values < bounds.min) | (values > bounds.max))
    if len(wrong):
        at = int(wrong[0])
        raise BatchFault(
            ReasonCode.REASON_CODE_BATCH_MALFORMED,
            f"rows[{at}].{name}: {values[at]} is outside {bounds.min} to {bounds.max}",
        )
    return values.astype(kind)
