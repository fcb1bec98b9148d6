"""Which reads must not pass, told apart by identity, and which of them become alarms.

Whoever stands at a door with a transmitter can send as many identities as the air carries. So all
of it is bounded: the work per batch, what is remembered, and what is journalled; the rest is
counted and digested into one alarm per interval. Identities that nobody registered have at most
half of an interval's alarms, so that noise cannot hide a forged or frozen tag.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from core.kernels import UNKNOWN_NUMBER
from core.portal.columns import U8, U32, Columns
from core.readlog.layout import Position
from core.settings import PortalSettings
from core.suppressed import Suppressed
from jinku.type.v1.tag_pb2 import Verdict

# Identities of one batch that are looked at one by one; each sort has as many.
HELD_MAX: Final = 256
# Identities remembered per portal and sort, so that one is not alarmed again and again.
REMEMBERED_MAX: Final = 4096
_NS_PER_SECOND: Final = 1_000_000_000
_FAULTLESS: Final = (Verdict.VERDICT_GENUINE, Verdict.VERDICT_MALFORMED)


@dataclass(frozen=True, slots=True)
class Held:
    """One identity of a batch that must not pass."""

    identity: bytes
    causes: tuple[int, ...]  # numbers of jinku.type.v1.Verdict, rising
    number: int  # in the tag index; UNKNOWN_NUMBER
    seen_at_ns: int  # first such read, portal's clock

    @property
    def registered(self) -> bool:
        """Whether the identity is a tag's."""
        return self.number != UNKNOWN_NUMBER


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch holds of identities that must not pass."""

    held: list[Held]
    # Beyond HELD_MAX of a sort: how many, and a digest over their identities.
    further: int = 0
    further_digest: bytes = b""


class Separator:
    """Tells a batch's identities apart without a loop over its reads."""

    def __init__(self) -> None:
        # Unknown identities are told apart by a hash that nobody outside can predict; registered
        # ones by their number, exactly.
        self._factors = [np.uint64(secrets.randbits(64) | 1) for _ in range(3)]

    def separate(
        self, columns: Columns, verdicts: U8, numbers: U32, left_out: U32 | None = None
    ) -> Batch:
        """The distinct identities of the reads that are neither genuine nor malformed, and of the
        genuine ones in the rows `left_out`.
        """
        rows = np.flatnonzero(~np.isin(verdicts, _FAULTLESS))
        if left_out is not None and len(left_out):
            rows = np.union1d(rows, left_out)
        if not len(rows):
            return Batch([])
        unknown = verdicts[rows] == Verdict.VERDICT_UNKNOWN_TAG
        registered = rows[~unknown]
        keys = numbers[registered].astype(np.uint64) * np.uint64(8) + verdicts[registered]
        tagged = registered[_first_of_each(keys)]
        strange = rows[unknown]
        strange = strange[_first_of_each(self._hash(columns.identity[strange]))]
        rest = [tagged[HELD_MAX:], strange[HELD_MAX:]]
        held = self._describe(columns, verdicts, numbers, tagged[:HELD_MAX])
        held += self._describe(columns, verdicts, numbers, strange[:HELD_MAX])
        further = sum(len(part) for part in rest)
        if not further:
            return Batch(held)
        digest = hashlib.sha256(columns.identity[np.concatenate(rest)].tobytes()).digest()
        return Batch(held, further, digest)

    def _hash(self, identities: U8) -> npt.NDArray[np.uint64]:
        padded = np.zeros((len(identities), 16), np.uint8)
        padded[:, : identities.shape[1]] = identities
        halves = padded.view(np.uint64)
        first, second, third = self._factors
        mixed = halves[:, 0] * first
        mixed = (mixed ^ (mixed >> np.uint64(29))) * second + halves[:, 1]
        mixed = (mixed ^ (mixed >> np.uint64(31))) * third
        return np.asarray(mixed)

    def _describe(
        self, columns: Columns, verdicts: U8, numbers: U32, rows: npt.NDArray[np.intp]
    ) -> list[Held]:
        times = columns.time_us[rows].astype(np.int64) * 1000 + columns.base_time_ns
        found: dict[bytes, list[tuple[int, int, int]]] = {}
        listed = zip(
            rows.tolist(), verdicts[rows].tolist(), numbers[rows].tolist(), times.tolist(),
            strict=True,
        )  # fmt: skip
        for row, verdict, number, seen_at_ns in listed:
            identity = columns.identity[row].tobytes()
            found.setdefault(identity, []).append((verdict, number, seen_at_ns))
        held = []
        for identity, causes in found.items():
            verdicts_of = tuple(sorted(verdict for verdict, _, _ in causes))
            seen_at_ns = min(seen_at_ns for _, _, seen_at_ns in causes)
            held.append(Held(identity, verdicts_of, causes[0][1], seen_at_ns))
        return held


def _first_of_each(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Index of the first of each distinct key, in order of appearance."""
    _, first = np.unique(keys, return_index=True)
    return np.sort(first)


class AlarmBook:
    """What was alarmed at one portal lately. One thread at a time; bounded memory."""

    def __init__(self, settings: PortalSettings, position: Position | None = None) -> None:
        """`position` restores what had been suppressed and not yet summed up."""
        self._interval_ns = int(settings.alarm_interval_seconds * _NS_PER_SECOND)
        self._repeat_ns = int(settings.alarm_repeat_seconds * _NS_PER_SECOND)
        self._alarms_max = settings.alarms_per_interval_max
        self._unregistered_max = max(1, settings.alarms_per_interval_max // 2)
        self._last: tuple[OrderedDict[tuple[bytes, int], int], ...] = (OrderedDict(), OrderedDict())
        self._began_ns = 0
        self._raised = 0
        self._raised_unregistered = 0
        self.suppressed = Suppressed()
        if position is not None and position.suppressed_count:
            self.suppressed = Suppressed(
                position.suppressed_count, position.suppressed_from, position.suppressed_digest
            )

    def sift(self, batch: Batch, sequence: int, now_ns: int) -> tuple[list[Held], list[Held]]:
        """What is new of a batch, and which of that to journal one by one; the rest is suppressed.

        New: not alarmed for the same cause within the repeat time. Causes that are not new are left
        out of the identities returned.
        """
        self._turn(now_ns)
        new: list[Held] = []
        for held in batch.held:
            causes = tuple(cause for cause in held.causes if self._is_new(held, cause, now_ns))
            if causes:
                new.append(Held(held.identity, causes, held.number, held.seen_at_ns))
        raised = [held for held in new if self._admit(held)]
        left_out = len(new) - len(raised)
        if left_out:
            taken = {held.identity for held in raised}
            rest = b"".join(held.identity for held in new if held.identity not in taken)
            self.suppressed.add(left_out, sequence, rest)
        if batch.further:
            self.suppressed.add(batch.further, sequence, batch.further_digest)
        return new, raised

    def summary_due(self, now_ns: int) -> bool:
        """Whether an interval with suppressed alarms is over."""
        return bool(self.suppressed.count) and now_ns >= self._began_ns + self._interval_ns

    def summed_up(self) -> None:
        """The summary is durable."""
        self.suppressed = Suppressed()

    def _turn(self, now_ns: int) -> None:
        if now_ns >= self._began_ns + self._interval_ns:
            self._began_ns = now_ns
            self._raised = self._raised_unregistered = 0

    def _is_new(self, held: Held, cause: int, now_ns: int) -> bool:
        last = self._last[held.registered]
        key = (held.identity, cause)
        before = last.get(key)
        if before is not None and now_ns < before + self._repeat_ns:
            return False
        last[key] = now_ns
        last.move_to_end(key)
        if len(last) > REMEMBERED_MAX:
            last.popitem(last=False)
        return True

    def _admit(self, held: Held) -> bool:
        if self._raised >= self._alarms_max:
            return False
        if not held.registered:
            if self._raised_unregistered >= self._unregistered_max:
                return False
            self._raised_unregistered += 1
        self._raised += 1
        return True
