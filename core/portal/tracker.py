"""Which tags a portal is seeing, since which batch, and what has been decided of those that went.

The native accumulator knows tags by number; here stands what a passage's command id needs and from
where the read log must be replayed after a crash. Deterministic: the same batches in the same order
give the same tracks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from core.kernels import Tracks
from core.portal import passages
from core.portal.columns import NS_PER_US, U8, U32, Columns

NO_VERDICT: Final = 0
GENUINE: Final = 1
EVERYTHING_NS: Final = 2**63 - 1


class Outstanding:
    """Sequences with work left to do; the first of them is where a replay has to begin."""

    def __init__(self) -> None:
        self._counts: OrderedDict[int, int] = OrderedDict()

    def add(self, sequence: int, count: int = 1) -> None:
        """More work of a batch. Sequences are first added in rising order."""
        if count:
            self._counts[sequence] = self._counts.get(sequence, 0) + count

    def release(self, sequence: int) -> None:
        """One piece of a batch's work is done for good."""
        left = self._counts[sequence] - 1
        if left:
            self._counts[sequence] = left
        else:
            del self._counts[sequence]

    def first(self, otherwise: int) -> int:
        """The first sequence with work left."""
        return next(iter(self._counts), otherwise)

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._counts

    def __len__(self) -> int:
        return len(self._counts)


@dataclass(frozen=True, slots=True)
class Birth:
    """Where a track began: the batch, and the window of time within it."""

    sequence: int
    window: int


@dataclass(frozen=True, slots=True)
class Gone:
    """A tag that came, was read and is gone, with the direction decided. Times: portal's clock."""

    number: int
    birth: Birth
    last_sequence: int
    direction: int
    confidence_permille: int
    first_ns: int
    last_ns: int
    reads_inner: int
    reads_outer: int


class Observed(NamedTuple):
    """What a batch showed."""

    gone: list[Gone]  # tags that had gone before or within it
    fresh: U32  # rows of the tags newly seen
    left_out: U32  # a row of each genuine tag that no track was left for


class Tracker:
    """The tracks of one portal. One thread at a time."""

    def __init__(self, capacity: int, sides: U8, quiet_ns: int) -> None:
        """`sides` is (256,): 0 none, 1 inner, 2 outer, by antenna."""
        self._tracks = Tracks(capacity)
        self._sides = sides
        self._quiet_ns = quiet_ns
        self._births: dict[int, Birth] = {}
        # Tracks that are open, or gone and not yet settled: see `settle`.
        self.outstanding = Outstanding()
        # The tracks that were finished since the last batch had no read since; 0: none was.
        self.closed_before_ns = 0

    def __len__(self) -> int:
        return len(self._births)

    @property
    def overflow(self) -> int:
        """Genuine reads left out because every track was taken."""
        return self._tracks.overflow

    def numbers(self) -> list[int]:
        """The tags that are seen now."""
        return list(self._births)

    def observe(self, sequence: int, columns: Columns, verdicts: U8, numbers: U32) -> Observed:
        """Add a batch.

        A batch that lasts longer than half the quiet time is taken window by window, so that a tag
        that went and came back within it has two tracks.
        """
        overflow = self._tracks.overflow
        gone, fresh = self._follow(sequence, columns, verdicts, numbers)
        self.closed_before_ns = 0
        if self._tracks.overflow == overflow:
            return Observed(gone, fresh, fresh[:0])
        return Observed(gone, fresh, self._left_out(verdicts, numbers, gone))

    def _left_out(self, verdicts: U8, numbers: U32, gone: list[Gone]) -> U32:
        genuine = np.flatnonzero(verdicts == GENUINE)
        distinct, first = np.unique(numbers[genuine], return_index=True)
        passed = {one.number for one in gone}
        kept = [
            row
            for number, row in zip(distinct.tolist(), first.tolist(), strict=True)
            if number not in self._births and number not in passed
        ]
        return genuine[kept].astype(np.uint32)

    def _follow(
        self, sequence: int, columns: Columns, verdicts: U8, numbers: U32
    ) -> tuple[list[Gone], U32]:
        window_us = max(1, self._quiet_ns // NS_PER_US // 2)
        time_us = columns.time_us
        first_us = columns.first_us
        if columns.last_us - first_us < window_us:
            gone = self.finish(columns.first_ns - self._quiet_ns, sequence)
            return gone, self._update(Birth(sequence, 0), columns, verdicts, numbers, None)
        window_of = (time_us - np.uint32(first_us)) // np.uint32(window_us)
        order = np.argsort(time_us, kind="stable")
        starts = np.flatnonzero(np.diff(window_of[order], prepend=-1))
        gone, fresh = [], []
        for rows in np.split(order, starts[1:]):
            first_ns = columns.base_time_ns + int(time_us[rows[0]]) * NS_PER_US
            gone += self.finish(first_ns - self._quiet_ns, sequence)
            birth = Birth(sequence, int(window_of[rows[0]]))
            fresh.append(self._update(birth, columns, verdicts, numbers, rows))
        return gone, np.concatenate(fresh)

    def _update(
        self,
        birth: Birth,
        columns: Columns,
        verdicts: U8,
        numbers: U32,
        rows: npt.NDArray[np.intp] | None,
    ) -> U32:
        read: tuple[Any, ...] = (
            numbers, verdicts, columns.antenna, columns.rssi_cdbm, columns.time_us,
        )  # fmt: skip
        if rows is not None:
            read = tuple(column[rows] for column in read)
        taken, verdict, antenna, rssi_cdbm, time_us = read
        new = self._tracks.update(
            taken, verdict, antenna, self._sides, rssi_cdbm, time_us, columns.base_time_ns
        )
        if len(new):
            self._births.update(dict.fromkeys(taken[new].tolist(), birth))
            self.outstanding.add(birth.sequence, len(new))
        return new if rows is None else rows[new].astype(np.uint32)

    def finish(self, quiet_before_ns: int, last_sequence: int) -> list[Gone]:
        """Take out and decide the tags whose last read is before `quiet_before_ns`.

        Each must be settled later. `last_sequence`: no later batch holds reads of theirs.
        """
        finished = self._tracks.finish(quiet_before_ns)
        if not len(finished):
            return []
        self.closed_before_ns = max(self.closed_before_ns, quiet_before_ns)
        verdicts = passages.decide(finished)
        columns = zip(
            finished["number"].tolist(), verdicts.direction.tolist(),
            verdicts.confidence_permille.tolist(), finished["first_ns"].tolist(),
            finished["last_ns"].tolist(), finished["reads_inner"].tolist(),
            finished["reads_outer"].tolist(), strict=True,
        )  # fmt: skip
        return [
            Gone(number, self._births.pop(number), last_sequence, *rest)
            for number, *rest in columns
        ]

    def settle(self, gone: Gone) -> None:
        """Its passage is durable in the journal, or needs no journalling: never replay for it."""
        self.outstanding.release(gone.birth.sequence)


def leave_out_decided(
    columns: Columns, verdicts: U8, numbers: U32, decided_ns: Mapping[int, int]
) -> U8:
    """The verdicts for a replay: no verdict where the read is of a passage already journalled.

    `decided_ns` is the last read of each tag's last journalled passage here, by number.
    """
    if not decided_ns:
        return verdicts
    genuine = np.flatnonzero(verdicts == GENUINE)
    distinct, inverse = np.unique(numbers[genuine], return_inverse=True)
    bounds = np.array([decided_ns.get(number, -1) for number in distinct.tolist()], np.int64)
    old = genuine[columns.times_ns()[genuine] <= bounds[inverse]]
    kept = verdicts.copy()
    kept[old] = NO_VERDICT
    return kept
