"""Reflection over a descriptor pool of its own: what customers may see and nothing else.

The process-wide pool also holds `core.store.v1`, the rows of the state tables.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from . import errors

STREAMS_MAX = 4
PUBLIC_PREFIXES = ("jinku/v1/", "jinku/event/v1/", "jinku/type/v1/", "google/protobuf/", "grpc")


def list_files(roots: Iterable[FileDescriptor]) -> list[FileDescriptor]:
    """The files and all they import, each after what it imports."""
    ordered: dict[str, FileDescriptor] = {}

    def visit(file: FileDescriptor) -> None:
        if file.name not in ordered:
            for dependency in file.dependencies:
                visit(dependency)
            ordered[file.name] = file

    for root in roots:
        visit(root)
    return list(ordered.values())


def build_pool(services: Iterable[ServiceDescriptor]) -> descriptor_pool.DescriptorPool:
    """A pool with exactly the files that these services need.

    Raises:
        ValueError: a public message reaches a file that must not be served.
    """
    pool = descriptor_pool.DescriptorPool()
    for file in list_files(service.file for service in services):
        if not file.name.startswith(PUBLIC_PREFIXES):
            raise ValueError(f"reflection would serve {file.name}")
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        pool.Add(proto)
    return pool


class LimitedReflection(ReflectionServicer):
    """Reflection is a stream, and an idle one holds memory: few at a time."""

    def __init__(self, names: Iterable[str], pool: descriptor_pool.DescriptorPool) -> None:
        super().__init__(names, pool=pool)
        self._places = STREAMS_MAX

    # The stubs take a generator for a coroutine.
    async def ServerReflectionInfo(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterable[Any], context: Any
    ) -> AsyncIterator[Any]:
        if not self._places:
            await errors.abort(context, errors.too_many("reflections"))
        self._places -= 1
        try:
            answers: Any = super().ServerReflectionInfo(request_iterator, context)
            async for answer in answers:
                yield answer
        finally:
            self._places += 1


def add_reflection(server: grpc.aio.Server, services: Iterable[ServiceDescriptor]) -> None:
    """Serves these services' descriptors, health's and its own."""
    # The stubs know two kinds of descriptors; there is one.
    own: list[Any] = [
        health_pb2.DESCRIPTOR.services_by_name["Health"],
        reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    ]
    served: list[ServiceDescriptor] = [*services, *own]
    names = [service.full_name for service in served]
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
        LimitedReflection(names, build_pool(served)), server
    )
