"""The golden journal: loaded, replayed by today's code, and compared with what was recorded of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from core.keys import RealmKeys
from core.ledger import layout
from core.ledger.ledger import Ledger
from core.ledger.port import Entry
from core.ledger.tables import BESIDE, TABLES
from core.procedures.table import handlers
from core.sequencer import record
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events
from jinku.v1.common_pb2 import Outcome, Reason
from persons import REALM, TRUST_DOMAIN
from repository import ROOT

DIRECTORY = ROOT / "tests" / "golden"
JOURNAL, EXPECTED, KEYS, BESIDES = "journal.jsonl", "expected.json", "keys.json", "beside.json"
# Not a function of its entry: what it answers lies beside the journal, and may be erased.
ANSWERS_BESIDE = frozenset({"jinku.v1.ReadContactRequest"})

Json = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """What one extension left behind."""

    name: str
    size: int
    # Of everything up to here: the signed checkpoint, and SHA-256 over each table's sealed rows.
    checkpoint: str
    tables: dict[str, str]


def read(name: str) -> Any:
    return json.loads((DIRECTORY / name).read_text(encoding="utf-8"))


def read_commits() -> list[list[Entry]]:
    """The recorded entries, commit by commit."""
    lines = (DIRECTORY / JOURNAL).read_text(encoding="utf-8").splitlines()
    return [
        [Entry(*(base64.b64decode(field) for field in entry)) for entry in json.loads(line)]
        for line in lines
    ]


def write_commit(entries: Sequence[Entry]) -> str:
    """A line of the journal's file."""
    fields = [[base64.b64encode(one).decode() for one in (e.header, e.events)] for e in entries]
    return json.dumps(fields) + "\n"


def place_keys(directory: Path) -> RealmKeys:
    """The test keys as files, as only their owner may read them."""
    for name, content in read(KEYS).items():
        path = directory / "keys" / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(content))
    return RealmKeys.load(directory / "keys")


def open_ledger(directory: Path) -> Ledger:
    keys = RealmKeys.load(directory / "keys")
    return Ledger(directory / "ledger", keys, REALM, TRUST_DOMAIN, map_gib=1)


def replay(ledger: Ledger, commits: Sequence[Sequence[Entry]]) -> Iterator[int]:
    """Put the entries into an empty ledger, in their commits; its size after each."""
    for entries in commits:
        with ledger.writing() as writing:
            for entry in entries:
                header = EntryHeader.FromString(entry.header)
                record(header, Events.FromString(entry.events), writing.tables)
                writing.append(entry)
        yield ledger.size


def put_beside(ledger: Ledger) -> None:
    """What lay beside the journal at its end."""
    tables = {str(table.number): table for table in BESIDE}
    with ledger.writing() as writing:
        for number, listed in read(BESIDES).items():
            table = tables[number]
            for key, value in listed.items():
                row = table.row.FromString(bytes.fromhex(value))
                writing.tables.put_beside(table, bytes.fromhex(key), row)


def list_beside(ledger: Ledger) -> Json:
    return {
        str(table.number): {
            key.hex(): ledger.sealer.open(table.number, key, sealed).hex()
            for key, sealed in ledger.raw_rows(table.number)
        }
        for table in BESIDE
    }


def digest_tables(ledger: Ledger) -> dict[str, str]:
    """SHA-256 over key and sealed value of each row, by table."""
    digests = {}
    for table in TABLES:
        fields = (field for row in ledger.raw_rows(table.number) for field in row)
        packed = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
        digests[str(table.number)] = sha256(packed).hexdigest()
    return digests


def describe(ledger: Ledger, index: int) -> Json:
    """What one entry is and what is answered from it."""
    entry, receipt = ledger.entry(index), ledger.receipt(index)
    header = EntryHeader.FromString(entry.header)
    return {
        "command": header.command,
        "receipt": sha256(receipt.SerializeToString(deterministic=True)).hexdigest(),
        "answer": describe_answer(header, Events.FromString(entry.events)),
    }


def describe_answer(header: EntryHeader, events: Events) -> Json | None:
    """The answer without its receipt, and without the texts of its reasons: these are the
    catalogue's, and may be put better."""
    table = {
        request.DESCRIPTOR.full_name: handler for request, handler in handlers(frozenset).items()
    }
    handler = table.get(header.command)
    if handler is None or handler.answer is None or header.command in ANSWERS_BESIDE:
        return None
    response = handler.answer(header, events, Outcome(entry_index=header.index))
    for reason in find_reasons(response):
        for field in ("text_en", "text_zh", "article"):
            reason.ClearField(field)
    answer: Json = MessageToDict(
        response, preserving_proto_field_name=True, use_integers_for_enums=True
    )
    return answer


def find_reasons(message: Message) -> Iterator[Reason]:
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for one in value if field.is_repeated else [value]:
                if isinstance(one, Reason):
                    yield one
                else:
                    yield from find_reasons(one)


# ── what there is to be covered ─────────────────────────────────────────────────────────────────


def fields_of(descriptor: Descriptor, seen: set[str]) -> set[str]:
    """The full names of all fields of a message and of the messages in it."""
    for field in descriptor.fields:
        if field.full_name not in seen:
            seen.add(field.full_name)
            if field.message_type is not None:
                fields_of(field.message_type, seen)
    return seen


def fields_in(message: Message) -> Iterator[str]:
    """The full names of the fields that are set."""
    for field, value in message.ListFields():
        yield field.full_name
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for one in value if field.is_repeated else [value]:
                yield from fields_in(one)


def missing_fields(commits: Sequence[Sequence[Entry]]) -> list[str]:
    """Fields of headers, events and what is in them that no entry sets."""
    found: set[str] = set()
    for entry in (entry for entries in commits for entry in entries):
        found.update(fields_in(EntryHeader.FromString(entry.header)))
        found.update(fields_in(Events.FromString(entry.events)))
    wanted = fields_of(EntryHeader.DESCRIPTOR, fields_of(Events.DESCRIPTOR, set()))
    return sorted(wanted - found)


def missing_commands(commits: Sequence[Sequence[Entry]]) -> list[str]:
    """Commands that no entry is of."""
    found = {
        EntryHeader.FromString(entry.header).command for entries in commits for entry in entries
    }
    wanted = [request.DESCRIPTOR.full_name for request in handlers(frozenset)]
    return [name for name in ["core.store.v1.FoundRealm", *wanted] if name not in found]


def commits_of(ledger: Ledger, start: int) -> Iterator[list[Entry]]:
    """The entries from `start` on, commit by commit."""
    for _, packed in ledger.packed(start):
        yield [Entry(*fields) for fields in layout.unpack_entries(packed)]
