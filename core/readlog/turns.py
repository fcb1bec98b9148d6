"""A queue that keeps turns: what was judged first is written first, however long its sealing took.

Batches with counters are judged one after the other, and each verdict rests on the ones before. So no
batch may become durable before an earlier one that a crash would then take away.
"""

from __future__ import annotations

import queue
from typing import Generic, TypeVar

T = TypeVar("T")


class TurnQueue(Generic[T]):
    """Puts under a lock of the callers', gets in one thread.

    Items without a turn keep their place behind whatever was put before them, so that a producer's
    items stay in the order in which it put them, if it puts each before it takes the next turn.
    """

    def __init__(self, turn: int) -> None:
        """`turn` is the first that will be put."""
        self._turn = turn
        self._out: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._parked: list[tuple[int | None, T]] = []

    def put(self, item: T, turn: int | None = None) -> None:
        """Hand out `item` when its turn has come, None: at once, or behind what waits for its own."""
        if turn == self._turn:
            self._release(item, turn)
            while (at := self._next_parked()) is not None:
                parked_turn, parked = self._parked.pop(at)
                self._release(parked, parked_turn)
        elif turn is None and not self._parked:
            self._out.put(item)
        elif turn is not None and turn < self._turn:
            raise ValueError(f"turn {turn} is over, {self._turn} is the next")
        else:
            self._parked.append((turn, item))

    def put_now(self, item: T) -> None:
        """Hand out `item` before what waits for its turn."""
        self._out.put(item)

    def get(self) -> T:
        """The next item, waited for."""
        return self._out.get()

    def get_nowait(self) -> T:
        """The next item. Raises queue.Empty."""
        return self._out.get_nowait()

    def take_parked(self) -> list[T]:
        """What still waits for a turn that never came."""
        parked, self._parked = self._parked, []
        return [item for _, item in parked]

    def _release(self, item: T, turn: int | None) -> None:
        if turn is not None:
            self._turn = turn + 1
        self._out.put(item)

    def _next_parked(self) -> int | None:
        """The first without a turn may go, and whoever's turn it is: all of its producer's that were
        put before are out, because they were put before any later turn was taken.
        """
        for at, (turn, _) in enumerate(self._parked):
            if turn == self._turn or (turn is None and at == 0):
                return at
        return None
