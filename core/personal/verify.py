"""Proves what lies beside the journal against it: every value that must be there is and opens to its
commitment, and nothing is there of anybody who was erased or never registered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.errors import KeyFileError, LedgerCorrupt, WrappingKeyMissing
from core.ledger.ledger import Ledger
from core.ledger.tables import (
    PERSONAL_VALUES,
    REALM_KEY,
    SUBJECT_KEYS,
    SUBJECTS,
    WRAPPING,
    State,
)
from core.personal.office import open_values
from core.personal.wrapping import WrappingKeys
from core.store.v1.personal_pb2 import WrappingRow

Progress = Callable[[str, int, int], None]
_TELL_EVERY = 1_000


@dataclass(frozen=True)
class PersonalReport:
    """What was verified. `pending`: erased, and the old wrapping key is not destroyed yet."""

    subjects: int
    values: int
    erased: int
    pending: int


def verify_personal(
    ledger: Ledger, keys: WrappingKeys, progress: Progress = lambda _stage, _done, _total: None
) -> PersonalReport:
    """Verify every personal value in a ledger that nobody writes.

    LedgerCorrupt names the first difference; KeyFileError a wrapping key that is missing.
    """
    subjects = values = erased = pending = carried = 0
    total = ledger.count(SUBJECTS.number)
    with ledger.read() as state:
        wrapping = state.get(WRAPPING, REALM_KEY) or WrappingRow()
        _check_destroyed(wrapping, keys)
        for subject_id, row in state.scan(SUBJECTS):
            if row.erased_at_ns:
                _check_nothing_of(state, subject_id)
                erased += 1
                pending += row.erased_generation > wrapping.destroyed_generation
            elif subject_id in keys.erased and not _is_newest(keys, state, subject_id):
                # A ledger that was put back: the service will journal that when it starts.
                erased, pending, carried = erased + 1, pending + 1, carried + 1
                values += len(row.values)
            else:
                try:
                    values += len(
                        open_values(keys, state, ledger.realm, subject_id, row, ledger.size)
                    )
                except WrappingKeyMissing as error:
                    raise KeyFileError(str(error)) from None
                subjects += 1
            if (subjects + erased) % _TELL_EVERY == 0:
                progress("persons", subjects + erased, total)
    # All that must be there is: one row too many belongs to nobody.
    for table, expected in ((SUBJECT_KEYS, subjects + carried), (PERSONAL_VALUES, values)):
        if ledger.count(table.number) != expected:
            raise LedgerCorrupt(
                f"table {table.number}",
                f"has {ledger.count(table.number)} rows, and the journal knows of {expected}",
            )
    progress("persons", total, total)
    return PersonalReport(subjects, values, erased, pending)


def _check_destroyed(wrapping: WrappingRow, keys: WrappingKeys) -> None:
    for generation in keys.generations():
        if generation <= wrapping.destroyed_generation:
            raise LedgerCorrupt(
                f"wrapping key {generation}",
                "is in the directory of keys, and the journal calls it destroyed",
            )


def _is_newest(keys: WrappingKeys, state: State, subject_id: bytes) -> bool:
    """Registered, or rewrapped, since: a ledger that was put back gives ids anew."""
    row = state.get(SUBJECT_KEYS, subject_id)
    return row is not None and row.generation == keys.newest


def _check_nothing_of(state: State, subject_id: bytes) -> None:
    key = state.get(SUBJECT_KEYS, subject_id)
    value = next(state.scan(PERSONAL_VALUES, subject_id), None)
    if key is not None or value is not None:
        what = "key" if key is not None else "a value"
        raise LedgerCorrupt(f"{what} of {subject_id.hex()}", "is there, and was erased")
