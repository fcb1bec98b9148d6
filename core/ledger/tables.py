"""The state tables.

Typed, sealed rows under numbers. A function of the journal, and of nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar, cast

import lmdb
from google.protobuf.message import Message

from core.errors import LedgerCorrupt
from core.ledger.changes import Changes, overlay
from core.ledger.seal import RowOpener
from core.store.v1 import personal_pb2 as personal
from core.store.v1 import rows_pb2 as rows
from jinku.type.v1.command_pb2 import CommandId

R = TypeVar("R", bound=Message)


@dataclass(frozen=True)
class Table(Generic[R]):
    """A table: its number for ever, its row's message, and whether a row may change, or go, once it
    was written.
    """

    number: int
    row: type[R]
    changes: bool = False


REALM: Final = Table(1, rows.RealmRow)
SERVICES: Final = Table(2, rows.ServiceRow)
INSTITUTIONS: Final = Table(3, rows.InstitutionRow)
VAULTS: Final = Table(4, rows.VaultRow)
PORTALS: Final = Table(5, rows.PortalRow)
CONTAINERS: Final = Table(6, rows.ContainerRow, changes=True)
TAGS: Final = Table(7, rows.TagRow, changes=True)
INDEX: Final = Table(8, rows.IndexRow)
COMMANDS: Final = Table(9, rows.CommandRow)
ALARMS: Final = Table(10, rows.AlarmRow)
HISTORY: Final = Table(11, rows.HistoryRow)
PASSAGES: Final = Table(12, rows.PassageRow, changes=True)
SEGMENTS: Final = Table(13, rows.SegmentRow, changes=True)
REFUSALS: Final = Table(14, rows.RefusalRow, changes=True)
READ_COUNTERS: Final = Table(15, rows.CountersRow, changes=True)
SUBJECTS: Final = Table(20, personal.SubjectRow, changes=True)
CONTACTS: Final = Table(21, personal.ContactRow, changes=True)
ERASURES: Final = Table(22, personal.ErasureRow, changes=True)
WRAPPING: Final = Table(23, personal.WrappingRow, changes=True)

TABLES: Final[tuple[Table[Message], ...]] = (
    REALM, SERVICES, INSTITUTIONS, VAULTS, PORTALS, CONTAINERS,
    TAGS, INDEX, COMMANDS, ALARMS, HISTORY, PASSAGES, SEGMENTS,
    REFUSALS, READ_COUNTERS, SUBJECTS, CONTACTS, ERASURES, WRAPPING,
)  # type: ignore[assignment]  # fmt: skip
# Of tables with a single row.
REALM_KEY: Final = bytes(16)

# What lies beside the journal is committed with its entries, but no function of it; a replay does not
# make it. Personal values and the keys to them, so that they can be erased; what no entry counts yet.
SUBJECT_KEYS: Final = Table(40, personal.SubjectKeyRow, changes=True)
PERSONAL_VALUES: Final = Table(41, personal.PersonalValueRow, changes=True)
SUPPRESSED: Final = Table(42, rows.SuppressedRow, changes=True)
BESIDE: Final[tuple[Table[Message], ...]] = (SUBJECT_KEYS, PERSONAL_VALUES, SUPPRESSED)  # type: ignore[assignment]
_BESIDE_NUMBERS: Final = frozenset(table.number for table in BESIDE)
CHANGING: Final = frozenset(table.number for table in TABLES + BESIDE if table.changes)


class IndexKind(StrEnum):
    """What a natural identifier names; part of the blinded key, so never renamed."""

    INSTITUTION_CODE = "institution-code"
    VAULT_CODE = "vault-code"
    PORTAL_NAME = "portal-name"
    CONTAINER_LABEL = "container-label"
    TAG_IDENTITY = "tag-identity"
    SERVICE_NAME = "service-name"

    # An enumeration's own goes through Python; a kind is hashed for every row that is looked up.
    __hash__ = str.__hash__


# Where the identifier stands again in the row of what has it.
_NAMED: Final[dict[str, tuple[Table[Any], str]]] = {
    IndexKind.INSTITUTION_CODE: (INSTITUTIONS, "code"),
    IndexKind.VAULT_CODE: (VAULTS, "code"),
    IndexKind.PORTAL_NAME: (PORTALS, "name"),
    IndexKind.CONTAINER_LABEL: (CONTAINERS, "label"),
    IndexKind.TAG_IDENTITY: (TAGS, "identity"),
    IndexKind.SERVICE_NAME: (SERVICES, "name"),
}


# Histories grow for ever. In order of subjects alone, every line would lie on a page of its own, in an
# ever deeper tree; an era's lines lie together, and earlier ones are not written to any more.
ERA_ENTRIES: Final = 1 << 15
_ERA: Final = struct.Struct(">I")
_PLACE: Final = struct.Struct(">QI")
HISTORY_KEY_SIZE: Final = 32


def history_era(entry_index: int) -> int:
    """Which era an entry is of."""
    return entry_index // ERA_ENTRIES


def history_prefix(era: int, subject_id: bytes) -> bytes:
    """What all keys of a subject in an era begin with, 20 bytes."""
    return _ERA.pack(era) + subject_id


def history_key(subject_id: bytes, entry_index: int, ordinal: int) -> bytes:
    """u32 era ‖ subject's id ‖ u64 entry index ‖ u32 ordinal of the event in its entry."""
    prefix = history_prefix(history_era(entry_index), subject_id)
    return prefix + _PLACE.pack(entry_index, ordinal)


def split_history_key(key: bytes) -> tuple[int, int]:
    """Entry index, ordinal."""
    entry_index, ordinal = _PLACE.unpack(key[-_PLACE.size :])
    return entry_index, ordinal


SEGMENT_KEY_SIZE: Final = 32


def segment_key(portal_id: bytes, portal_epoch: int, first_sequence: int) -> bytes:
    """Portal's id ‖ u64 epoch ‖ u64 first sequence: a portal's segments lie in order."""
    return portal_id + struct.pack(">QQ", portal_epoch, first_sequence)


def split_segment_key(key: bytes) -> tuple[bytes, int, int]:
    """Portal's id, epoch, first sequence."""
    epoch, first_sequence = struct.unpack(">QQ", key[16:])
    return key[:16], epoch, first_sequence


def personal_value_key(subject_id: bytes, entry_index: int, field: int) -> bytes:
    """Subject's id ‖ u64 index of the entry that commits to it ‖ u32 field."""
    return subject_id + struct.pack(">QI", entry_index, field)


class State:
    """The tables as one transaction sees them, what waits to be written included. Reading only: what
    it hands out are copies.
    """

    def __init__(
        self,
        txn: lmdb.Transaction,
        handles: dict[int, lmdb._Database],
        sealer: RowOpener,
        changes: Changes | None = None,
    ) -> None:
        """`changes` wait for the transaction's end; they may grow."""
        self._txn = txn
        self._handles = handles
        self._sealer = sealer
        self._changes = Changes() if changes is None else changes
        self._rows = self._changes.rows
        # Keyed hash of a natural identifier, 32 bytes.
        self.blind: Callable[[str, bytes], bytes] = sealer.blind

    def get(self, table: Table[R], key: bytes) -> R | None:
        """The row, or None. LedgerCorrupt if it does not open."""
        number = table.number
        rows = self._rows[number]
        if key in rows:
            row = rows[key]
        else:
            sealed = self._txn.get(key, db=self._handles[number])
            # Of a transaction without buffers: bytes.
            rows[key] = row = (
                None
                if sealed is None
                else self._sealer.open_row(number, key, cast("bytes", sealed))
            )
        return None if row is None else table.row.FromString(row)

    def find(self, kind: IndexKind, natural: bytes) -> bytes | None:
        """The id (16 bytes) that a natural identifier stands for, or None. LedgerCorrupt if what has that
        id is called otherwise: a row of a copy that went on otherwise opens too.
        """
        key = self.blind(kind, natural)
        row = self.get(INDEX, key)
        if row is None:
            return None
        table, field = _NAMED[kind]
        named = self.get(table, row.id)
        name = None if named is None else getattr(named, field)
        if (name.encode() if isinstance(name, str) else name) != natural:
            raise LedgerCorrupt(
                f"table {INDEX.number}, row {key.hex()}", "names what is called otherwise"
            )
        return row.id

    def scan(
        self, table: Table[R], prefix: bytes = b"", start: bytes = b""
    ) -> Iterator[tuple[bytes, R]]:
        """Key and row of every row whose key begins with `prefix`, in order, `start` the first."""
        first = max(prefix, start)
        waiting = self._waiting(table, prefix, first)
        rows = self._stored(table, prefix, first)
        for key, row in overlay(rows, waiting) if waiting else rows:
            yield key, table.row.FromString(row)

    def last(self, table: Table[R], prefix: bytes, key_size: int) -> tuple[bytes, R] | None:
        """The last of the rows whose keys, of that size, begin with `prefix`."""
        waiting = self._waiting(table, prefix, prefix)
        found = [self._last_stored(table, prefix, key_size, {key for key, _ in waiting})]
        found += [(key, row) for key, row in waiting if row is not None]
        key, row = max((one for one in found if one is not None), default=(b"", b""))
        return (key, table.row.FromString(row)) if key else None

    def _waiting(
        self, table: Table[R], prefix: bytes, first: bytes
    ) -> list[tuple[bytes, bytes | None]]:
        """What waits of those rows, in order."""
        rows = self._rows[table.number]
        waiting = self._changes.waiting[table.number]
        keys = sorted(key for key in waiting if key >= first and key.startswith(prefix))
        return [(key, rows[key]) for key in keys]

    def _stored(
        self, table: Table[R], prefix: bytes, first: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db=self._handles[table.number]) as cursor:
            if not (cursor.set_range(first) if first else cursor.first()):
                return
            for raw, sealed in cursor:
                key = bytes(raw)
                if not key.startswith(prefix):
                    return
                yield key, self._sealer.open(table.number, key, bytes(sealed))

    def _last_stored(
        self, table: Table[R], prefix: bytes, key_size: int, but: Set[bytes]
    ) -> tuple[bytes, bytes] | None:
        upper = prefix.ljust(key_size, b"\xff")
        with self._txn.cursor(db=self._handles[table.number]) as cursor:
            found = cursor.set_range(upper) and cursor.key() == upper
            if not found:
                found = cursor.prev() if cursor.key() else cursor.last()
            while found and bytes(cursor.key()) in but:
                found = cursor.prev()
            if not found or not bytes(cursor.key()).startswith(prefix):
                return None
            key = bytes(cursor.key())
            return key, self._sealer.open(table.number, key, bytes(cursor.value()))

    def command_key(self, principal: str, command_id: CommandId) -> bytes:
        """Where a command is remembered.

        Blinded principal, then the id's numbers, so that an epoch is one range.
        """
        kind = command_id.WhichOneof("id") or ""
        owner = self.blind("command-" + kind, principal.encode())[:16]
        if kind == "client":
            client = command_id.client
            return owner + struct.pack(">QQ", client.epoch, client.sequence)
        if kind == "passage":
            passage = command_id.passage
            return (
                owner
                + passage.portal_id
                + struct.pack(">QQB", passage.portal_epoch, passage.first_sequence, passage.stage)
                + self.blind("command-tag", passage.tag)[:16]
            )
        return owner + self.blind("command-id", command_id.SerializeToString(deterministic=True))

    def refusal_key(self, principal: str, alarming: bool) -> bytes:
        """Where a caller's refusals are counted, those that raise an alarm apart."""
        return self.blind("refusals", principal.encode())[:16] + bytes([alarming])

    def altered_key(self, key: bytes, command: str, request_digest: bytes) -> bytes:
        """Where a body that came under a known command id (`key`) is remembered: command's name
        and digest, blinded.
        """
        body = command.encode() + b"\x00" + request_digest
        return key + self.blind("command-body", body)[:16]


class WritableState(State):
    """What `apply` is given: the same tables, to be changed."""

    def put(self, table: Table[R], key: bytes, row: R) -> None:
        """Write the row; durable when the writer's transaction commits."""
        self._put(table.number, key, row.SerializeToString(deterministic=True))

    def put_each(self, table: Table[R], keys: Iterable[bytes], row: R) -> None:
        """Write the same row under several keys."""
        made = dict.fromkeys(keys, row.SerializeToString(deterministic=True))
        self._rows[table.number].update(made)
        self._changes.waiting[table.number].update(made)

    def delete(self, table: Table[R], key: bytes) -> None:
        """Remove the row if it is there."""
        self._put(table.number, key, None)

    def _put(self, number: int, key: bytes, row: bytes | None) -> None:
        self._rows[number][key] = row
        self._changes.waiting[number].add(key)

    def put_beside(self, table: Table[R], key: bytes, row: R | None) -> None:
        """Write or remove a row that lies beside the journal. ValueError for any other table."""
        if table.number not in _BESIDE_NUMBERS:
            raise ValueError(f"table {table.number} is made by the journal alone")
        if row is None:
            self.delete(table, key)
        else:
            self.put(table, key, row)

    def bind(self, kind: IndexKind, natural: bytes, id_: bytes) -> None:
        """Let a natural identifier stand for an id."""
        self.put(INDEX, self.blind(kind, natural), rows.IndexRow(id=id_))
