"""How many of a caller's refusals have an entry each, and what becomes of the others.

A caller that is refused again and again must not fill the journal, and must not be forgotten (HND-26).
So each has a quota per interval. Beyond it a refusal is counted and digested in a row beside the
journal, durable before it is answered, and one entry counts them when the interval is over.
Refusals that raise an alarm are counted apart: noise does not hide them.

What is in the journal says itself which refusal of which interval it is (`refusal_number`,
`refusals_since_ns`), so that the tables follow from the journal whatever the settings become.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from core.ledger.tables import REFUSALS, SUPPRESSED, State, WritableState
from core.settings import SequencerSettings
from core.store.v1.commands_pb2 import SumUpRefusals
from core.store.v1.rows_pb2 import RefusalRow, SuppressedRow
from core.suppressed import Suppressed
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.type.v1.command_pb2 import CommandId, SchedulerCommandId

JOB: Final = "refusals"
_NS_PER_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Quota:
    """So many entries of refusals per caller and interval, and as many that raise alarms."""

    refusals_max: int
    interval_ns: int

    @classmethod
    def of(cls, settings: SequencerSettings) -> Quota:
        """As the settings have it."""
        interval_ns = int(settings.refusal_interval_seconds * _NS_PER_SECOND)
        return cls(settings.refusals_per_interval_max, interval_ns)

    def number(self, header: EntryHeader, state: State, key: bytes) -> bool:
        """Give a refusal its number in its caller's interval; False if it is beyond the quota."""
        row = state.get(REFUSALS, key) or RefusalRow()
        now_ns = header.decided_at_ns
        if not row.count or now_ns >= row.since_ns + self.interval_ns:
            row = RefusalRow(since_ns=now_ns)
        elif row.count >= self.refusals_max:
            return False
        header.refusals_since_ns = row.since_ns
        header.refusal_number = row.count + 1
        return True


def count_recorded(header: EntryHeader, key: bytes, tables: WritableState) -> None:
    """What a refusal that has a number does to the tables."""
    row = RefusalRow(since_ns=header.refusals_since_ns, count=header.refusal_number)
    tables.put(REFUSALS, key, row)


def suppress(header: EntryHeader, key: bytes, tables: WritableState) -> SuppressedRow:
    """Count and digest a refusal beyond the quota, beside the journal."""
    row = tables.get(SUPPRESSED, key)
    if row is None:
        counted = tables.get(REFUSALS, key) or RefusalRow()
        row = SuppressedRow(
            device_id=header.device_id,
            principal=header.principal,
            first_ns=header.decided_at_ns,
            digest=bytes(32),
            since_ns=counted.since_ns,
        )
    chain = Suppressed(row.count, row.first_ns, row.digest)
    chain.add(1, header.decided_at_ns, header.SerializeToString(deterministic=True))
    row.count, row.digest, row.last_ns = chain.count, chain.digest, header.decided_at_ns
    tables.put_beside(SUPPRESSED, key, row)
    return row


class Pending:
    """Which suppressed refusals an entry has to count, and when. Belongs to the one writer."""

    def __init__(self, quota: Quota, rows: Iterable[tuple[bytes, SuppressedRow]]) -> None:
        self._interval_ns = quota.interval_ns
        self._due_ns: dict[bytes, int] = {}
        for key, row in rows:
            self.add(key, row)

    def add(self, key: bytes, row: SuppressedRow) -> None:
        """More were suppressed."""
        self._due_ns[key] = row.since_ns + self._interval_ns

    @property
    def next_ns(self) -> int | None:
        """When the first interval is over; None while nothing waits."""
        return min(self._due_ns.values(), default=None)

    def take_due(self, now_ns: int) -> list[tuple[SumUpRefusals, CommandId]]:
        """The commands to give now, each with its id."""
        due = [key for key, at_ns in self._due_ns.items() if at_ns <= now_ns]
        for key in due:
            del self._due_ns[key]
        return [(SumUpRefusals(key=key), _command_id(key, now_ns)) for key in due]


def _command_id(key: bytes, now_ns: int) -> CommandId:
    """Of now, and not of the interval's end: that may come twice when the settings change."""
    return CommandId(scheduler=SchedulerCommandId(job=f"{JOB} {key.hex()}", due_ns=now_ns))
