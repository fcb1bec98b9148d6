"""Whole entries, a page at a time: for who audits the journal or collects evidence from it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, islice
from typing import Final

from core.errors import InvalidRequest, Violation
from core.ledger.ledger import Ledger
from core.ledger.port import Entry
from core.mechanisms.history import places
from core.procedures.queries import Query
from jinku.v1.ledger_pb2 import ListEntriesRequest, ListEntriesResponse

ENTRIES_MAX: Final = 1_000
PAGE_BYTES_MAX: Final = 1 << 20


def list_entries(request: ListEntriesRequest, ledger: Ledger) -> ListEntriesResponse:
    """Entries from `start_index` on, at most ENTRIES_MAX of them and PAGE_BYTES_MAX beyond the first.

    With a subject, those that have an event in its history; of an id that nothing has, none. A page
    that ends before the journal does says where the next one starts. InvalidRequest for a page of 0.
    """
    entries_max = ENTRIES_MAX
    if request.HasField("entries_max"):
        entries_max = min(request.entries_max, ENTRIES_MAX)
    if not entries_max:
        raise InvalidRequest([Violation("entries_max", f"0, must be 1 to {ENTRIES_MAX}")])
    if request.HasField("subject_id"):
        found = _concerning(request.subject_id, request.start_index, entries_max + 1, ledger)
    else:
        found = _from(request.start_index, ledger)
    response, size = ListEntriesResponse(), 0
    for index, entry in found:
        size += len(entry.header) + len(entry.events)
        if len(response.entries) == entries_max or (response.entries and size > PAGE_BYTES_MAX):
            response.next_index = index
            break
        response.entries.add(header=entry.header, events=entry.events)
    return response


def _from(start: int, ledger: Ledger) -> Iterator[tuple[int, Entry]]:
    if start >= ledger.size:
        return iter(())
    return ((index, entry) for index, entry in ledger.entries(start) if index >= start)


def _concerning(
    subject_id: bytes, start: int, count: int, ledger: Ledger
) -> Iterator[tuple[int, Entry]]:
    """Its first `count` entries from `start` on. The indices are read first, in one snapshot, so that
    none is held while entries are opened.
    """
    with ledger.read() as state:
        events = places(state, subject_id, start)
        indices = [index for index, _ in islice(groupby(events, lambda place: place[0]), count)]
    return ((index, ledger.entry(index)) for index in indices)


ENTRY_QUERIES = (Query(ListEntriesRequest, list_entries),)
