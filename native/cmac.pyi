import numpy as np
import numpy.typing as npt

MESSAGE_MAX: int

def cmac_many(
    keys: npt.NDArray[np.uint8], messages: npt.NDArray[np.uint8], *, kernel: str | None = None
) -> npt.NDArray[np.uint8]: ...
def verify_many(
    keys: npt.NDArray[np.uint8],
    messages: npt.NDArray[np.uint8],
    macs: npt.NDArray[np.uint8],
    *,
    truncation: str = "left",
    kernel: str | None = None,
) -> npt.NDArray[np.uint8]: ...
