"""Sums of keyed hashes: of rows in whatever order, changed by what changes, and telling whether they are
the rows that were written. Nobody without the key finds other rows of the same sum.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

MODULUS: Final = 1 << 256


def add_up(hashes: npt.NDArray[np.uint8]) -> int:
    """The sum of (N, 32) hashes as little-endian numbers, not reduced."""
    words = hashes.view("<u4").astype(np.uint64).sum(axis=0).tolist()
    return sum(int(word) << 32 * at for at, word in enumerate(words))
