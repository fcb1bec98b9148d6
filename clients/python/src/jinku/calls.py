"""Calls by descriptor: every request type belongs to one RPC, so the message says which it is.

There are no generated stubs: the path and both types come from the service descriptors.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from jinku.commands import CommandIds
from jinku.errors import from_rpc_error
from jinku.v1 import ledger_pb2, portal_pb2, registry_pb2

Answer = TypeVar("Answer", bound=Message)

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    service
    for file in (portal_pb2, registry_pb2, ledger_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
METHODS: dict[str, MethodDescriptor] = {
    method.input_type.full_name: method for service in SERVICES for method in service.methods
}
SALT_SIZE = 32
REPEATABLE = frozenset({grpc.StatusCode.UNAVAILABLE})


def path_of(request: Message) -> str:
    """The gRPC path that takes this message, e.g. `/jinku.v1.RegistryService/IssueTag`."""
    method = METHODS[request.DESCRIPTOR.full_name]
    return f"/{method.containing_service.full_name}/{method.name}"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often the same bytes are sent again when the service did not answer."""

    attempts_max: int = 6
    first_delay_s: float = 0.1
    delay_max_s: float = 3.0
    timeout_s: float = 15.0

    def delays(self) -> Iterable[float]:
        """Pauses between attempts, each with jitter so that clients do not return together."""
        for attempt in range(self.attempts_max - 1):
            delay = min(self.first_delay_s * 2**attempt, self.delay_max_s)
            yield delay * random.uniform(0.5, 1.0)


def prepare(request: Message, command_ids: CommandIds | None) -> bytes:
    """The bytes that travel, made once: a command without an id gets the next one, and one that
    carries personal values its salt, without which the journal's digest of it could be guessed.
    """
    fields = request.DESCRIPTOR.fields_by_name
    stamped: Any = type(request)()
    stamped.CopyFrom(request)
    if "command_id" in fields and not request.HasField("command_id"):
        if command_ids is None:
            raise ValueError(f"{request.DESCRIPTOR.name} needs a command id: give command_ids")
        stamped.command_id.CopyFrom(command_ids.draw())
    if "salt" in fields and not stamped.salt:
        stamped.salt = os.urandom(SALT_SIZE)
    body: bytes = stamped.SerializeToString(deterministic=True)
    return body


@dataclass
class UnaryClient:
    """Sends requests over a channel; repeats the same bytes while the service is unavailable."""

    channel: grpc.Channel
    command_ids: CommandIds | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    sleep: Callable[[float], None] = time.sleep

    def call(self, request: Message, answer: type[Answer]) -> Answer:
        """The service's answer; raises `CallFailed` where there is none."""
        return self.call_bytes(path_of(request), prepare(request, self.command_ids), answer)

    def call_bytes(self, path: str, body: bytes, answer: type[Answer]) -> Answer:
        """The same for bytes that are stored already."""
        send: Any = self.channel.unary_unary(path, None, answer.FromString)
        delays = iter(self.retry.delays())
        while True:
            try:
                answered: Answer = send(body, timeout=self.retry.timeout_s)
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                delay = next(delays, None)
                if failure.code not in REPEATABLE or delay is None:
                    raise failure from error
                self.sleep(delay)
            else:
                return answered
