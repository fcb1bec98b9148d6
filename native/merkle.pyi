from typing import Final

import numpy as np
import numpy.typing as npt

HASH_SIZE: Final[int]

def split(packed: bytes) -> npt.NDArray[np.uint64]: ...
def leaf_hashes(
    packed: bytes, fields: npt.NDArray[np.uint64], *, kernel: str | None = None
) -> npt.NDArray[np.uint8]: ...
def node_hashes(
    children: npt.NDArray[np.uint8], *, kernel: str | None = None
) -> npt.NDArray[np.uint8]: ...
