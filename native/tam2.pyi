from typing import Final

import numpy as np
import numpy.typing as npt

FORGED: Final[int]
RIGHT: Final[int]
OTHER_CHALLENGE: Final[int]
BLOCKS_MAX: Final[int]

def verify_many(
    keys: npt.NDArray[np.uint8],
    challenges: npt.NDArray[np.uint8],
    responses: npt.NDArray[np.uint8],
    *,
    kernel: str | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]: ...
