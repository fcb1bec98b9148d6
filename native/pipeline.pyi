from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from native.arena import KeyArena
from native.tagindex import TagIndex

NONE: Final[int]
TAM1: Final[int]
COUNTER_CMAC: Final[int]
TAM2: Final[int]
SUN: Final[int]
COUNTER_CMAC_16: Final[int]

GENUINE: Final[int]
UNKNOWN_TAG: Final[int]
BAD_EVIDENCE: Final[int]
REPLAYED: Final[int]
NOT_ACTIVE: Final[int]
NO_EVIDENCE: Final[int]
MALFORMED: Final[int]

class BatchVerdicts(NamedTuple):
    verdicts: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint64]
    advanced_numbers: npt.NDArray[np.uint32]
    advanced_counters: npt.NDArray[np.uint32]
    data: npt.NDArray[np.uint8] | None = None
    mark: int = 0
    turn: int = 0

def evidence_size(scheme: int, blocks: int = 0) -> int: ...
def verify_batch(
    index: TagIndex,
    arena: KeyArena,
    scheme: int,
    identities: npt.NDArray[np.uint8],
    evidence: npt.NDArray[np.uint8],
    antennas: npt.NDArray[np.uint8],
    known_antennas: npt.NDArray[np.uint8],
    channels: npt.NDArray[np.uint8],
    channel_count: int,
    challenge: bytes | None,
    *,
    kernel: str | None = None,
) -> BatchVerdicts: ...
