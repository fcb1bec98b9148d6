"""The whole half: the journal replayed over empty tables, and these compared with the stored ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from google.protobuf.message import DecodeError, Message

from core.errors import LedgerCorrupt
from core.fsck.hashes import Progress
from core.fsck.scratch import Scratch
from core.fsck.words import first_difference
from core.kernels import split_fields
from core.ledger.ledger import Ledger
from core.ledger.tables import TABLES, Table
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events

# Entries that one commit of the scratch takes, and that a killed replay does again.
_COMMIT_EVERY: Final = 10_000
_PAGE: Final = 8192


def verify_tables(ledger: Ledger, progress: Progress) -> int:
    """Verify every table of a ledger whose hashes are verified and that nobody writes; how many rows.

    Raises LedgerCorrupt naming the first row that is not what the journal makes of it.
    """
    with Scratch.opened(ledger, progress) as scratch:
        _replay(ledger, scratch, progress)
        return _compare(ledger, scratch, progress)


def _replay(ledger: Ledger, scratch: Scratch, progress: Progress) -> None:
    """Part by part; the one before is written meanwhile."""
    progress("replay", scratch.size, ledger.size)
    start, told = scratch.size, scratch.size
    while told < ledger.size:
        size = min(start + _COMMIT_EVERY, ledger.size)
        if start < size:
            scratch.hand_in(scratch.record(_entries(ledger, start, size)), size)
            start = size
        else:
            scratch.settle()
        if told < scratch.size:
            told = scratch.size
            progress("replay", told, ledger.size)


def _entries(ledger: Ledger, start: int, stop: int) -> Iterator[tuple[EntryHeader, Events]]:
    """Header and events of entries [start, stop)."""
    for first, packed in ledger.packed(start):
        fields = split_fields(packed).tolist()
        for index in range(max(start, first), min(stop, first + len(fields) // 2)):
            at = 2 * (index - first)
            (begin, end), (events_begin, events_end) = fields[at], fields[at + 1]
            try:
                yield (
                    EntryHeader.FromString(packed[begin:end]),
                    Events.FromString(packed[events_begin:events_end]),
                )
            except DecodeError:
                raise LedgerCorrupt(f"entry {index}", "is not of the journal's schema") from None
        if first + len(fields) // 2 >= stop:
            return


def _compare(ledger: Ledger, scratch: Scratch, progress: Progress) -> int:
    """The replayed tables against the stored ones, sealed bytes and all."""
    total, rows = sum(ledger.count(table.number) for table in TABLES), 0
    for table in TABLES:
        start = b""
        while True:
            made = scratch.rows_from(table.number, start, _PAGE)
            stored = ledger.rows_from(table.number, start, _PAGE)
            if made != stored:
                raise _difference(ledger, table, made, stored)
            if not made:
                break
            start = made[-1][0] + b"\x00"
            rows += len(made)
            progress("compare", rows, total)
    return rows


def _difference(
    ledger: Ledger,
    table: Table[Message],
    made: list[tuple[bytes, bytes]],
    stored: list[tuple[bytes, bytes]],
) -> LedgerCorrupt:
    at = 0
    while at < min(len(made), len(stored)) and made[at] == stored[at]:
        at += 1
    row = made[at] if at < len(made) else None
    held = stored[at] if at < len(stored) else None
    return first_difference(table, row, held, ledger.sealer, ledger.realm)
