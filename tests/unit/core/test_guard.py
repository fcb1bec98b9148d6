"""What the guard lets pass, what it names, and that the schema leaves nothing unbounded."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from core import guard
from core.errors import ViolationKind
from core.guard import VIOLATIONS_MAX, check_schema, check_stored, violations
from core.store.v1 import commands_pb2, rows_pb2
from core.store.v1 import personal_pb2 as rows_of_persons
from jinku.event.v1 import entry_pb2, event_pb2
from jinku.event.v1 import personal_pb2 as events_of_persons
from jinku.type.v1.command_pb2 import ClientCommandId, CommandId, Extra, SchedulerCommandId
from jinku.type.v1.place_pb2 import Antenna
from jinku.v1 import ledger_pb2, portal_pb2, registry_pb2
from jinku.v1.portal_pb2 import Hello, Read, ReadBatch, StreamRequest
from jinku.v1.registry_pb2 import (
    FreezeTagRequest,
    GetContainerRequest,
    IssueTagRequest,
    RegisterInstitutionRequest,
    RegisterPortalRequest,
    RegisterVaultRequest,
)

COMMAND_ID = ClientCommandId(epoch=1, sequence=1)
SERVICES = [
    service
    for module in (registry_pb2, portal_pb2, ledger_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
REQUESTS = [method.input_type for service in SERVICES for method in service.methods]
STORED = [
    message
    for module in (event_pb2, events_of_persons, entry_pb2, rows_pb2, rows_of_persons, commands_pb2)
    for message in module.DESCRIPTOR.message_types_by_name.values()
]


def issue(**fields: object) -> IssueTagRequest:
    request = IssueTagRequest(
        command_id=COMMAND_ID, container_label="K-1", identity=b"\1" * 12, scheme="TAG_SCHEME_TAM1"
    )
    request.MergeFrom(IssueTagRequest(**fields))  # type: ignore[arg-type]
    return request


def institution(**fields: object) -> RegisterInstitutionRequest:
    all_fields = {"command_id": COMMAND_ID, "code": "1", "name": "n", "kind": 1, **fields}
    return RegisterInstitutionRequest(**all_fields)  # type: ignore[arg-type]


def with_unknown(message: Message, tag: bytes = b"\xd2\x3e\x01x") -> Message:
    """The message with field 1002, which no type of ours has."""
    return type(message).FromString(message.SerializeToString() + tag)


def portal(name: str = "gate-1", **antenna: int) -> RegisterPortalRequest:
    return RegisterPortalRequest(
        command_id=COMMAND_ID,
        vault_code="V",
        name=name,
        antennas=[Antenna(**{"port": 1, "side": 1, **antenna})],  # type: ignore[arg-type]
    )


def vault(time_zone: str) -> RegisterVaultRequest:
    return RegisterVaultRequest(
        command_id=COMMAND_ID,
        institution_code="1",
        code="V",
        name="n",
        kind="VAULT_KIND_BRANCH",
        time_zone=time_zone,
    )


@pytest.mark.parametrize(
    "message",
    [
        issue(),
        issue(key_version=0, extras=[Extra(name="a", number=0)]),
        institution(parent_code=""),
        institution(name="金" * 85),
        portal(),
        vault("Asia/Shanghai"),
        vault("UTC"),
        vault("Etc/GMT+8"),
        GetContainerRequest(label="K-1"),
        GetContainerRequest(container_id=bytes(16)),
        ledger_pb2.GetEntryRequest(),
        ledger_pb2.GetProofRequest(tree_size=0),
        StreamRequest(hello=Hello(portal_epoch=1, antennas=[1], frequencies_khz=[920_625])),
        StreamRequest(batch=ReadBatch(sequence=1)),
        CommandId(scheduler=SchedulerCommandId(job="x")),
    ],
)
def test_good_message_passes(message: Message) -> None:
    assert violations(message) == []
    assert violations(message, message.ByteSize()) == []


@pytest.mark.parametrize(
    ("message", "field", "kind"),
    [
        (with_unknown(issue()), "jinku.v1.IssueTagRequest", ViolationKind.UNKNOWN_FIELD),
        (
            issue(extras=[with_unknown(Extra(name="a", text=""))]),
            "extras[0]",
            ViolationKind.UNKNOWN_FIELD,
        ),
        (
            StreamRequest(batch=with_unknown(ReadBatch())),  # type: ignore[arg-type]
            "batch",
            ViolationKind.UNKNOWN_FIELD,
        ),
        (issue(scheme=99), "scheme", ViolationKind.UNKNOWN_NUMBER),
        (portal(side=9), "antennas[0].side", ViolationKind.UNKNOWN_NUMBER),
        (StreamRequest(batch=ReadBatch(scheme=99)),  # type: ignore[arg-type]
        "batch.scheme", ViolationKind.UNKNOWN_NUMBER),
        (institution(kind=0), "kind", ViolationKind.MISSING),
        (portal(side=0), "antennas[0].side", ViolationKind.MISSING),
        (IssueTagRequest(container_label="K", identity=bytes(7)), "command_id", ViolationKind.MISSING),
        (institution(command_id=ClientCommandId(sequence=1)), "command_id.epoch", ViolationKind.MISSING),
        (GetContainerRequest(), "by", ViolationKind.MISSING),
        (StreamRequest(), "message", ViolationKind.MISSING),
        (CommandId(), "id", ViolationKind.MISSING),
        (issue(extras=[Extra(name="a")]), "extras[0].value", ViolationKind.MISSING),
        (institution(code=""), "code", ViolationKind.VALUE),
        (institution(code="x" * 65), "code", ViolationKind.VALUE),
        (institution(name="金" * 86), "name", ViolationKind.VALUE),
        (GetContainerRequest(label=""), "label", ViolationKind.VALUE),
        (GetContainerRequest(container_id=b"1"), "container_id", ViolationKind.VALUE),
        (issue(extras=[Extra(name="a", number=1)] * 17), "extras", ViolationKind.VALUE),
        (portal("Gate 1"), "name", ViolationKind.VALUE),
        (portal("gate-"), "name", ViolationKind.VALUE),
        (vault("Shanghai time"), "time_zone", ViolationKind.VALUE),
        (vault("../etc"), "time_zone", ViolationKind.VALUE),
        (
            StreamRequest(batch=ReadBatch(antenna=bytes(131_073))),
            "batch.antenna",
            ViolationKind.VALUE,
        ),
        (
            StreamRequest(batch=ReadBatch(rows=[Read(identity=bytes(12)), Read(identity=b"1")])),
            "batch.rows[1].identity",
            ViolationKind.VALUE,
        ),
    ],
)  # fmt: skip
def test_fault_is_named(message: Message, field: str, kind: ViolationKind) -> None:
    for found in (violations(message), violations(message, message.ByteSize())):
        assert [(one.field, one.kind) for one in found] == [(field, kind)]
        assert found[0].description


@pytest.mark.parametrize("name", ["K-1 ", "A\nB", "A\u202eB", "A\u200bB", "A\u0301"])
def test_a_text_that_looks_like_another_or_writes_a_second_line_is_none(name: str) -> None:
    for message, field in (
        (issue(container_label=name), "container_label"),
        (institution(name=name), "name"),
        (GetContainerRequest(label=name), "label"),
        (FreezeTagRequest(command_id=COMMAND_ID, identity=b"\1" * 12, note=name), "note"),
        (issue(extras=[Extra(name=name, text="x")]), "extras[0].name"),
    ):
        (found,) = violations(message)
        assert (found.field, found.kind) == (field, ViolationKind.VALUE)
        assert name not in found.description


def test_all_faults_are_named_together() -> None:
    found = violations(RegisterInstitutionRequest(kind=77))  # type: ignore[arg-type]
    assert [one.field for one in found] == ["command_id", "code", "name", "kind"]


def test_many_faults_are_cut_short() -> None:
    batch = ReadBatch(rows=[Read(identity=b"1") for _ in range(10_000)])
    assert len(violations(StreamRequest(batch=batch))) == VIOLATIONS_MAX


def test_group_and_fixed_unknown_fields_are_seen() -> None:
    for tag in (b"\xd5\x3e\1\2\3\4", b"\xd0\x3e\1", b"\xd3\x3e\xd4\x3e"):
        (found,) = violations(with_unknown(issue(), tag))
        assert "1002" in found.description


def test_large_batch_is_not_copied() -> None:
    """A batch of 1 MB costs about what one of 1 kB does; measured at 14 µs where the size is said."""
    batch = ReadBatch(scheme="TAG_SCHEME_TAM1", identity=os.urandom(480_000))
    batch.evidence = os.urandom(640_000)
    request = StreamRequest(batch=batch)
    size = request.ByteSize()

    def best() -> Iterator[int]:
        for _ in range(200):
            start = time.perf_counter_ns()
            assert violations(request, size) == []
            yield time.perf_counter_ns() - start

    # Two copies of the columns alone would be some 100 µs; the margin is for a busy machine.
    assert min(best()) < 50_000


@pytest.mark.parametrize("request_type", REQUESTS, ids=lambda one: one.name)
def test_every_request_is_bounded(request_type: Descriptor) -> None:
    assert check_schema(request_type) == []


@pytest.mark.parametrize("stored", STORED, ids=lambda one: one.full_name)
def test_nothing_stored_is_a_float_or_a_map(stored: Descriptor) -> None:
    assert check_stored(stored) == []


def test_every_command_begins_with_its_id() -> None:
    commands = [one for one in REQUESTS if "command_id" in one.fields_by_name]
    assert len(commands) == 14
    for command in commands:
        field = command.fields_by_name["command_id"]
        assert (field.number, field.message_type.full_name) == (1, guard.COMMAND_ID)


def test_patterns_name_fields_that_exist() -> None:
    names = {field.full_name for request in REQUESTS for field in request.fields}
    assert set(guard.PATTERNS) <= names
    enums = {
        field.enum_type.full_name for one in REQUESTS for field in one.fields if field.enum_type
    }
    assert enums >= guard.ZERO_IS_DECIDED


def make_unbounded() -> Descriptor:
    file = descriptor_pb2.FileDescriptorProto(name="x.proto", package="x", syntax="proto3")
    message = file.message_type.add(name="Loose")
    kinds = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="a", number=1, type=kinds.TYPE_BYTES, label=kinds.LABEL_OPTIONAL)
    message.field.add(name="b", number=2, type=kinds.TYPE_DOUBLE, label=kinds.LABEL_REPEATED)
    message.field.add(
        name="c", number=3, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_REPEATED, type_name=".x.Loose.CEntry"
    )  # fmt: skip
    entry = message.nested_type.add(name="CEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    loose: Descriptor = pool.FindMessageTypeByName("x.Loose")
    return loose


def test_schema_checks_bite() -> None:
    loose = make_unbounded()
    assert check_schema(loose) == [
        "x.Loose.a: no greatest size",
        "x.Loose.b: no greatest size",
        "x.Loose.c: a map",
        "x.Loose.CEntry.key: no greatest size",
    ]
    assert check_stored(loose) == ["x.Loose.b: a float", "x.Loose.c: a map"]


# Numbers that a request may leave out without saying something else by it: counters and clocks whose
# zero is refused or is the zero that is meant, and what a read is measured in.
ZERO_IS_ABSENT = {
    "jinku.type.v1.Antenna.port",
    "jinku.type.v1.ClientCommandId.epoch",
    "jinku.type.v1.ClientCommandId.sequence",
    "jinku.v1.GetConsistencyProofRequest.first_tree_size",
    "jinku.v1.GetEntryRequest.entry_index",
    "jinku.v1.GetEntryRequest.witnessed",
    "jinku.v1.GetProofRequest.entry_index",
    "jinku.v1.GetTileRequest.level",
    "jinku.v1.GetTileRequest.tile_index",
    "jinku.v1.GetTileRequest.width",
    "jinku.v1.Hello.portal_epoch",
    "jinku.v1.IssueTagRequest.replaces",
    "jinku.v1.ListEntriesRequest.start_index",
    "jinku.v1.Read.antenna",
    "jinku.v1.Read.channel",
    "jinku.v1.Read.doppler_chz",
    "jinku.v1.Read.phase",
    "jinku.v1.Read.rssi_cdbm",
    "jinku.v1.Read.time_us",
    "jinku.v1.ReadBatch.base_time_ns",
    "jinku.v1.ReadBatch.sequence",
    "jinku.v1.ReadContactRequest.with_openings",
    "jinku.v1.ReadContactRequest.with_superseded",
    "jinku.v1.RegisterContactRequest.replaces",
}


def test_a_number_whose_zero_means_something_is_optional() -> None:
    """A new number in a request is `optional`, or stands here because its zero says nothing."""
    scalars = {
        field.full_name
        for request in REQUESTS
        for field in guard._reachable(request)
        if not field.is_repeated
        and not field.has_presence
        and field.type not in guard._SIZED
        and field.enum_type is None
    }
    assert scalars == ZERO_IS_ABSENT


def test_very_many_unknown_fields_are_not_listed() -> None:
    """Listing these would take two seconds, in which no thread of the process does anything."""
    hostile = ReadBatch.FromString(b"\xf8\x3f\x01" * 1_300_000)
    start = time.process_time()
    (found,) = guard.unlisted(hostile, 3_900_000)
    assert time.process_time() - start < 0.5
    assert found.kind is ViolationKind.UNKNOWN_FIELD
    assert found.description == "3900000 bytes of unknown fields"
    inner = ReadBatch(rows=[Read(identity=bytes(12), evidence=bytes(16))] * 1000)
    assert guard.unlisted(inner, inner.ByteSize()) == []
    inner.rows.append(Read.FromString(b"\xf8\x3f\x01"))
    assert guard.unlisted(inner, inner.ByteSize())
