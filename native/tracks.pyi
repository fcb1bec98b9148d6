from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

INNER: Final[int]
OUTER: Final[int]
NO_PEAK: Final[int]
TRACK: Final[np.dtype[np.void]]

@final
class Tracks:
    def __new__(cls, capacity: int) -> Tracks: ...
    def update(
        self,
        numbers: npt.NDArray[np.uint32],
        verdicts: npt.NDArray[np.uint8],
        antennas: npt.NDArray[np.uint8],
        sides: npt.NDArray[np.uint8],
        rssi_cdbm: npt.NDArray[np.int16],
        time_us: npt.NDArray[np.uint32],
        base_time_ns: int,
    ) -> npt.NDArray[np.uint32]: ...
    def finish(self, quiet_before_ns: int) -> np.ndarray[tuple[Any, ...], np.dtype[np.void]]: ...
    @property
    def overflow(self) -> int: ...
    def __len__(self) -> int: ...
