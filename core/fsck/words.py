"""How fsck names what it found: the table, the row, and what is wrong with it."""

from __future__ import annotations

from google.protobuf.message import DecodeError, Message

from core.errors import LedgerCorrupt
from core.ids import ID_SIZE, split_id
from core.ledger.seal import Sealer
from core.ledger.tables import HISTORY, HISTORY_KEY_SIZE, Table, split_history_key
from core.store.v1.rows_pb2 import CommandRow, IndexRow

Row = tuple[bytes, bytes]


def first_difference(
    table: Table[Message], made: Row | None, stored: Row | None, sealer: Sealer, realm: int
) -> LedgerCorrupt:
    """What to say of the first row that the journal makes otherwise than it is stored.

    `made` and `stored` are the next key and sealed value of both; None where there are no more.
    """
    if made is not None and (stored is None or made[0] < stored[0]):
        where = _where(table, made[0], _open(table, made, sealer), realm)
        return LedgerCorrupt(where, "is missing: the journal makes it, and it is not stored")
    assert stored is not None
    held = _open(table, stored, sealer)
    if made is None or stored[0] < made[0]:
        where = _where(table, stored[0], held, realm)
        return LedgerCorrupt(where, "is stored, and the journal knows nothing of it")
    row = _open(table, made, sealer)
    where = _where(table, made[0], row, realm)
    if held is None:
        what = "does not open: it was changed, or moved here from another place"
    else:
        what = f"is not what the journal makes of it: {_fields(row, held)}"
    return LedgerCorrupt(where, what)


def _title(table: Table[Message]) -> str:
    """Number and name of a table."""
    return f"table {table.number} ({table.row.DESCRIPTOR.name.removesuffix('Row')})"


def _where(table: Table[Message], key: bytes, row: Message | None, realm: int) -> str:
    return f"{_title(table)}, row {key.hex()}{_origin(table, key, row, realm)}"


def _origin(table: Table[Message], key: bytes, row: Message | None, realm: int) -> str:
    """Which entry the row comes from, where row or key tell it."""
    if isinstance(row, CommandRow):
        return f", of entry {row.entry_index}"
    if isinstance(row, IndexRow):
        key = row.id
    elif table.number == HISTORY.number and len(key) == HISTORY_KEY_SIZE:
        return f", of entry {split_history_key(key)[0]}"
    if len(key) != ID_SIZE:
        return ""
    of_realm, entry_index, _ = split_id(key)
    return f", first made by entry {entry_index}" if of_realm == realm else ""


def _open(table: Table[Message], row: Row, sealer: Sealer) -> Message | None:
    try:
        return table.row.FromString(sealer.open(table.number, *row))
    except (LedgerCorrupt, DecodeError):
        return None


def _fields(made: Message | None, held: Message) -> str:
    """The names of the fields that differ. Never their values: this is printed."""
    if made is None or made == held:
        return "its bytes differ"
    names = [
        field.name
        for field in made.DESCRIPTOR.fields
        if _value(made, field.name) != _value(held, field.name)
    ]
    return f"{', '.join(names)} differ{'s' if len(names) == 1 else ''}"


def _value(message: Message, name: str) -> object:
    value = getattr(message, name)
    return (
        list(value) if hasattr(value, "__len__") and not isinstance(value, str | bytes) else value
    )
