import numpy as np
import numpy.typing as npt

def verify_many(
    keys: npt.NDArray[np.uint8],
    uids: npt.NDArray[np.uint8],
    evidence: npt.NDArray[np.uint8],
    *,
    kernel: str | None = None,
) -> npt.NDArray[np.uint8]: ...
