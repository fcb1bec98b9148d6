"""Which entries concern whom. Every `apply` writes its lines here, so that nothing has no history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message

from core.errors import LedgerCorrupt
from core.ids import ID_SIZE
from core.ledger.tables import (
    HISTORY,
    HISTORY_KEY_SIZE,
    State,
    Table,
    WritableState,
    history_era,
    history_key,
    history_prefix,
    split_history_key,
)
from core.store.v1.rows_pb2 import HistoryRow

R = TypeVar("R", bound=Message)


class Where(NamedTuple):
    """Where an event stands: the realm's journal, the entry, the event's ordinal in it."""

    realm: int
    entry_index: int
    ordinal: int

    def __str__(self) -> str:
        return f"entry {self.entry_index}, event {self.ordinal}"


def remember(state: WritableState, where: Where, institution_id: bytes, *subjects: bytes) -> None:
    """Write the event into the history of each subject that it names; an empty id names none.

    The rows belong to the institution of what the event is about, also in the history of others.
    """
    row = HistoryRow(institution_id=institution_id)
    index, ordinal = where.entry_index, where.ordinal
    state.put_each(HISTORY, [history_key(id_, index, ordinal) for id_ in subjects if id_], row)


def places(state: State, subject_id: bytes, start: int = 0) -> Iterator[tuple[int, int]]:
    """(entry index, ordinal of the event) of all that happened to a subject, oldest first, from
    entry `start` on.
    """
    for era in range(history_era(start), _newest_era(state) + 1):
        yield from _places_in(state, era, subject_id, start)


def newest_places(state: State, subject_id: bytes, count: int) -> list[tuple[int, int]]:
    """The last `count` of them, oldest first. What is older than the eras they are of is not looked at."""
    eras: list[list[tuple[int, int]]] = []
    found = 0
    for era in range(_newest_era(state), -1, -1):
        eras.append(list(_places_in(state, era, subject_id)))
        found += len(eras[-1])
        if found >= count:
            break
    return [place for era in reversed(eras) for place in era][-count:]


def _newest_era(state: State) -> int:
    """Of all histories; -1 if there are none."""
    last = state.last(HISTORY, b"", HISTORY_KEY_SIZE)
    return -1 if last is None else history_era(split_history_key(last[0])[0])


def _places_in(
    state: State, era: int, subject_id: bytes, start: int = 0
) -> Iterator[tuple[int, int]]:
    prefix = history_prefix(era, subject_id)
    first = history_key(subject_id, start, 0) if history_era(start) == era else prefix
    for key, _ in state.scan(HISTORY, prefix, first):
        yield split_history_key(key)


def need(state: State, table: Table[R], key: bytes, where: Where) -> R:
    """The row that an event builds on. LedgerCorrupt if it is not there: nobody decided that."""
    row = state.get(table, key) if key else None
    if row is None:
        raise LedgerCorrupt(str(where), f"names a {table.row.DESCRIPTOR.name} that is not there")
    return row


def need_new(state: State, table: Table[R], key: bytes, where: Where) -> None:
    """LedgerCorrupt if the row that an event makes is there already, or its id is not 16 bytes."""
    if len(key) != ID_SIZE or state.get(table, key) is not None:
        raise LedgerCorrupt(str(where), f"makes a {table.row.DESCRIPTOR.name} of id {key.hex()}")
