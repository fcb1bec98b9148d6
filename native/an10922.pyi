import numpy as np
import numpy.typing as npt

def derive_many(
    master: npt.NDArray[np.uint8], inputs: npt.NDArray[np.uint8], *, kernel: str | None = None
) -> npt.NDArray[np.uint8]: ...
