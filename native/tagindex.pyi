from collections.abc import Sequence
from typing import Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

ACTIVE: Final[int]
FROZEN: Final[int]
RETIRED: Final[int]
UNKNOWN: Final[int]

class Tag(NamedTuple):
    identity: bytes
    number: int
    scheme: int
    state: int
    key: int
    counter: int

@final
class TagIndex:
    def __new__(cls, capacity: int = 1024, *, seed: int | None = None) -> TagIndex: ...
    def put(self, identity: bytes, scheme: int, state: int, key: int) -> int: ...
    def put_all(self, tags: Sequence[tuple[bytes, int, int, int]], mark: int) -> None: ...
    @property
    def mark(self) -> int: ...
    @property
    def turns(self) -> int: ...
    def start_turns(self, turns: int) -> None: ...
    def counters(self, first: int, count: int) -> npt.NDArray[np.uint32]: ...
    def put_many(
        self,
        identities: npt.NDArray[np.uint8],
        schemes: npt.NDArray[np.uint8],
        states: npt.NDArray[np.uint8],
        keys: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.uint32]: ...
    def copy(
        self, first: int, count: int
    ) -> tuple[
        npt.NDArray[np.uint8],
        npt.NDArray[np.uint8],
        npt.NDArray[np.uint8],
        npt.NDArray[np.uint8],
        npt.NDArray[np.uint8],
    ]: ...
    def set_state(self, identity: bytes, state: int) -> bool: ...
    def get(self, identity: bytes) -> Tag | None: ...
    def set_counter(self, identity: bytes, counter: int) -> bool: ...
    def advance_counters(
        self, numbers: npt.NDArray[np.uint32], counters: npt.NDArray[np.uint32]
    ) -> int: ...
    def find_many(self, identities: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]: ...
    def identity_of(self, number: int) -> bytes: ...
    @property
    def bytes_per_tag(self) -> float: ...
    def __len__(self) -> int: ...
