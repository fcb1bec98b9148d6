"""Every RPC of `jinku.v1` as one row, built from the service descriptors: bytes in, bytes out.

There are no generated servicers: they drop the received bytes, and the received bytes are what a
command's digest is of. Adding an RPC means messages, a handler in `core.procedures.table`, and
nothing here; an RPC without a handler stops the service from starting.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from jinku.v1 import ledger_pb2, portal_pb2, registry_pb2

from .limits import Context

FILES = (portal_pb2.DESCRIPTOR, registry_pb2.DESCRIPTOR, ledger_pb2.DESCRIPTOR)


class RpcKind(enum.Enum):
    """What becomes of a request."""

    # Decided by the writer, journalled, answered from its entry.
    COMMAND = "command"
    # Answered from committed state.
    QUERY = "query"
    # Handed to a desk of its own, message by message.
    STREAM = "stream"


@dataclass(frozen=True)
class Rpc:
    """One row of the table."""

    service: str
    method: str
    kind: RpcKind
    request: type[Message]
    response: type[Message]

    @property
    def name(self) -> str:
        """`jinku.v1.RegistryService/IssueTag`: what the role table and the metrics call it."""
        return f"{self.service}/{self.method}"


UnaryBehaviour = Callable[[Rpc, Context], Awaitable[bytes]]
StreamBehaviour = Callable[[Rpc, Context], Awaitable[None]]


def public_services() -> list[ServiceDescriptor]:
    return [service for file in FILES for service in file.services_by_name.values()]


def build_rpcs(
    services: Iterable[ServiceDescriptor],
    commands: Collection[type[Message]],
    queries: Collection[type[Message]],
) -> list[Rpc]:
    """The table of these services.

    Raises:
        ValueError: an RPC is neither a stream nor has exactly one handler.
    """
    return [
        _build_rpc(service, method, commands, queries)
        for service in services
        for method in service.methods
    ]


def _build_rpc(
    service: ServiceDescriptor,
    method: MethodDescriptor,
    commands: Collection[type[Message]],
    queries: Collection[type[Message]],
) -> Rpc:
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    kinds = [
        kind
        for kind, holds in (
            (RpcKind.STREAM, method.client_streaming and method.server_streaming),
            (RpcKind.COMMAND, request in commands),
            (RpcKind.QUERY, request in queries),
        )
        if holds
    ]
    if len(kinds) != 1:
        raise ValueError(
            f"{service.full_name}/{method.name}: needs exactly one of a command handler, "
            f"a query and a stream; has {[kind.value for kind in kinds]}"
        )
    return Rpc(service.full_name, method.name, kinds[0], request, response)


def build_handlers(
    rpcs: Iterable[Rpc], unary: UnaryBehaviour, stream: StreamBehaviour
) -> list[grpc.GenericRpcHandler]:
    """gRPC's handlers for these rows, one per service, without (de)serialisers.

    On the wire a unary call is a stream of one request. It is registered as such a stream, because
    then our code runs before the request has arrived: who may not call is told so without being
    read, and a caller that opens a call and sends nothing is noticed.
    """
    methods: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {}
    for rpc in rpcs:
        methods.setdefault(rpc.service, {})[rpc.method] = _method_handler(rpc, unary, stream)
    return [
        grpc.method_handlers_generic_handler(service, handlers)
        for service, handlers in methods.items()
    ]


def _method_handler(
    rpc: Rpc, unary: UnaryBehaviour, stream: StreamBehaviour
) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def answer(_requests: object, context: Context) -> bytes:
        return await unary(rpc, context)

    async def converse(_requests: object, context: Context) -> None:
        await stream(rpc, context)

    if rpc.kind is RpcKind.STREAM:
        return grpc.stream_stream_rpc_method_handler(converse)
    return grpc.stream_unary_rpc_method_handler(answer)
