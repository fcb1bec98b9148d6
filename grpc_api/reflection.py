"""Reflection over a descriptor pool of its own: what customers may see and nothing else.

The process-wide pool also holds `core.store.v1`, the rows of the state tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

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


def add_reflection(server: grpc.Server, services: Iterable[ServiceDescriptor]) -> None:
    """Serves these services' descriptors, health's and its own."""
    # The stubs know two kinds of descriptors; there is one.
    own: list[Any] = [
        health_pb2.DESCRIPTOR.services_by_name["Health"],
        reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    ]
    served: list[ServiceDescriptor] = [*services, *own]
    reflection.enable_server_reflection(
        [service.full_name for service in served], server, pool=build_pool(served)
    )
