"""The marks on fields are obeyed: by a walk over every message that there is."""

from __future__ import annotations

import io
import json

import pytest
import structlog
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from core import guard
from core.authority import MAY_CALL, Role
from core.guard import check_schema, check_stored, text_fault
from grpc_api.logs import ALLOWED_KEYS, configure_logs
from grpc_api.table import public_services
from jinku.type.v1 import options_pb2
from jinku.v1.contact_pb2 import ChangeContactRequest, RegisterContactRequest

PERSONAL, SECRET = options_pb2.SENSITIVITY_PERSONAL, options_pb2.SENSITIVITY_SECRET
METHODS = [method for service in public_services() for method in service.methods]


def marked(message: Descriptor, *marks: int) -> list[FieldDescriptor]:
    return [one for one in guard._reachable(message) if guard.sensitivity(one) in marks]


def test_only_contacts_carry_personal_values() -> None:
    """Whoever adds another finds here what it must obey."""
    requests = {one.input_type.name for one in METHODS if marked(one.input_type, PERSONAL)}
    responses = {
        one.output_type.name for one in METHODS if marked(one.output_type, PERSONAL, SECRET)
    }
    assert requests == {"RegisterContactRequest", "ChangeContactRequest"}
    assert responses == {"ReadContactResponse"}
    assert MAY_CALL["jinku.v1.RegistryService.ReadContact"].isdisjoint({Role.AUDITOR, Role.PORTAL})


@pytest.mark.parametrize("request_type", [RegisterContactRequest, ChangeContactRequest])
def test_stored_messages_may_not_carry_them(request_type: type) -> None:
    """The control of the walk over all that is stored: it finds what would be wrong there."""
    name = request_type.DESCRIPTOR.full_name  # type: ignore[attr-defined]
    assert check_stored(request_type.DESCRIPTOR) == [  # type: ignore[attr-defined]
        f"{name}.name: personal",
        f"{name}.telephone: personal",
        f"{name}.salt: secret",
    ]


def test_no_marked_field_is_a_key_of_the_logs() -> None:
    names = {
        field.name
        for method in METHODS
        for message in (method.input_type, method.output_type)
        for field in marked(message, options_pb2.SENSITIVITY_OPERATIONAL, PERSONAL, SECRET)
    }
    assert {"name", "telephone", "salt", "text", "opening"} <= names
    # The one word of two meanings: in a log line it is gRPC's status.
    assert names & ALLOWED_KEYS == {"code"}


def test_logs_write_no_value_of_a_marked_field() -> None:
    stream = io.StringIO()
    try:
        configure_logs("debug", "json", stream)
        structlog.get_logger().info("read", name="李四", text="李四", opening="6f", count=1)
    finally:
        structlog.reset_defaults()
    line = json.loads(stream.getvalue())
    assert (line["count"], line["dropped_keys"]) == (1, "name,opening,text")
    assert "李四" not in stream.getvalue()


def make_request(*names: str) -> Descriptor:
    """A request with a personal value, and fields of these names."""
    file = descriptor_pb2.FileDescriptorProto(name="y.proto", package="y", syntax="proto3")
    message = file.message_type.add(name="Loose")
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, name in enumerate(("who", *names), 1):
        field = message.field.add(
            name=name, number=number, type=kinds.TYPE_BYTES, label=kinds.LABEL_OPTIONAL
        )
        bounds = field.options.Extensions[options_pb2.FieldMark.bounds]  # type: ignore[index]
        bounds.min, bounds.max = 32, 32  # type: ignore[attr-defined]
        if name == "who":
            field.options.Extensions[options_pb2.FieldMark.sensitivity] = PERSONAL  # type: ignore[index]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindMessageTypeByName("y.Loose")


def test_a_request_with_personal_values_needs_a_salt_and_has_no_extras() -> None:
    assert check_schema(make_request("salt")) == []
    assert check_schema(make_request()) == ["y.Loose: personal values without a salt"]
    assert check_schema(make_request("salt", "extras")) == ["y.Loose: personal values with extras"]


@pytest.mark.parametrize("text", ["李四", "José", "O'Neill-Łukasz", "李 四", "Ａ", "𠮷野"])
def test_name_is_taken(text: str) -> None:
    assert text_fault(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "e\u0301",
        "李\x00",
        "李\u200d四",
        "\ufeff李",
        "李\u2028四",
        "\ue000",
        "\U000e0041",
        "李 ",
        "\t李",
    ],
)
def test_name_with_something_unseen_is_not(text: str) -> None:
    assert text_fault(text)
    assert text not in text_fault(text)
