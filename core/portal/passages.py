"""Which way a tag went: the first, simple rule. Pure, on all finished tracks at once.

It looks at which side saw the tag first and last and at the mean times of both sides, and says
UNDETERMINED wherever these do not agree. Confidences are ordered, not calibrated: calibration needs
walks through the door at hand. The numbers below are guesses to be replaced by that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from jinku.type.v1.tag_pb2 import AntennaSide, Direction

INNER: Final = int(AntennaSide.ANTENNA_SIDE_INNER)
OUTER: Final = int(AntennaSide.ANTENNA_SIDE_OUTER)

# One side only: fewer reads than this, or none stronger than this, is somebody passing by.
STRAY_READS: Final = 5
STRAY_PEAK_CDBM: Final = -6_500
# Both sides: the sides' mean times lie at least so far apart, also as a share of the whole.
CLEAR_GAP_NS: Final = 100_000_000
CLEAR_GAP_SHARE: Final = 0.15
# Came back: the side in the middle has at most this share of the reads.
TURNED_SHARE: Final = 0.5
CONFIDENCE_MAX: Final = 990
# Reads at which their number no longer lowers the confidence.
READS_ENOUGH: Final = 20


@dataclass(frozen=True, slots=True)
class Verdicts:
    """One direction (number of the enum) and its confidence in thousandths per finished track."""

    direction: npt.NDArray[np.uint8]
    confidence_permille: npt.NDArray[np.uint16]


def decide(finished: npt.NDArray[Any]) -> Verdicts:
    """Directions of finished tracks, (N,) rows as the tracker's `finish` gives them."""
    inner = finished["reads_inner"].astype(np.int64)
    outer = finished["reads_outer"].astype(np.int64)
    reads = inner + outer
    peak = np.maximum(
        np.where(inner > 0, finished["peak_inner_cdbm"], np.iinfo(np.int16).min),
        np.where(outer > 0, finished["peak_outer_cdbm"], np.iinfo(np.int16).min),
    )
    both = (inner > 0) & (outer > 0)
    first, last = finished["first_side"], finished["last_side"]
    lasted = (finished["last_ns"] - finished["first_ns"]).astype(np.float64)
    gap = (finished["mean_outer_ns"] - finished["mean_inner_ns"]).astype(np.float64)
    share = np.divide(np.abs(gap), lasted, out=np.zeros_like(lasted), where=lasted > 0)
    clear = both & (np.abs(gap) >= CLEAR_GAP_NS) & (share >= CLEAR_GAP_SHARE)
    inwards = clear & (first == OUTER) & (last == INNER) & (gap < 0)
    outwards = clear & (first == INNER) & (last == OUTER) & (gap > 0)
    middle = np.divide(
        np.where(first == INNER, outer, inner), reads, out=np.ones_like(lasted), where=reads > 0
    )
    turned = both & (first == last) & (middle <= TURNED_SHARE)
    stray = ~both & ((reads < STRAY_READS) | (peak < STRAY_PEAK_CDBM))

    direction = np.full(len(finished), int(Direction.DIRECTION_UNDETERMINED), np.uint8)
    direction[inwards] = Direction.DIRECTION_IN
    direction[outwards] = Direction.DIRECTION_OUT
    direction[turned] = Direction.DIRECTION_TURNED_BACK
    direction[stray] = Direction.DIRECTION_STRAY
    confidence = np.zeros(len(finished), np.float64)
    # A steady walk through both fields has its means half of the whole time apart.
    apart = np.minimum(1.0, share / 0.5)
    enough = np.minimum(1.0, np.minimum(inner, outer) / READS_ENOUGH)
    crossed = inwards | outwards
    confidence[crossed] = (500 + 490 * apart * (0.5 + 0.5 * enough))[crossed]
    confidence[turned] = (500 + 300 * (1 - middle))[turned]
    confidence[stray] = (500 + 400 / np.maximum(reads, 1))[stray]
    return Verdicts(direction, np.minimum(confidence, CONFIDENCE_MAX).astype(np.uint16))
