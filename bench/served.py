"""A service to measure: a realm with many tags, served by a `jinkud` of its own."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc

from core.sequencer import Command, Committed
from grpc_api.config import load_settings
from grpc_api.logs import configure_logs
from grpc_api.service import Service as Serving
from jinku.demo.service import Service
from jinku.load import LoadPortal, Plan
from jinku.softtags import SoftTag, load
from jinku.type.v1.command_pb2 import ClientCommandId, CommandId
from jinku.type.v1.place_pb2 import Antenna, ContainerKind, InstitutionKind, VaultKind
from jinku.type.v1.tag_pb2 import AntennaSide, TagScheme
from jinku.v1.registry_pb2 import (
    IssueTagRequest,
    RegisterContainerRequest,
    RegisterInstitutionRequest,
    RegisterPortalRequest,
    RegisterVaultRequest,
)

IN_FLIGHT = 512
ANTENNAS = (
    Antenna(port=1, side=AntennaSide.ANTENNA_SIDE_OUTER),
    Antenna(port=2, side=AntennaSide.ANTENNA_SIDE_INNER),
)


def portal_name(number: int) -> str:
    return f"bench-{number}"


def identity_of(number: int) -> bytes:
    return b"\x33\x14\x99\x00" + number.to_bytes(8, "big")


def list_commands(tags: int, portals: int) -> Iterator[Any]:
    """One institution, one vault, the portals, and a box with a tag for each number."""
    head = InstitutionKind.INSTITUTION_KIND_HEAD_OFFICE
    yield RegisterInstitutionRequest(code="1", name="bench", kind=head)
    yield RegisterVaultRequest(
        institution_code="1",
        code="V",
        name="bench",
        kind=VaultKind.VAULT_KIND_CASH_CENTRE,
        time_zone="Asia/Shanghai",
    )
    for number in range(portals):
        yield RegisterPortalRequest(vault_code="V", name=portal_name(number), antennas=ANTENNAS)
    for number in range(tags):
        label = f"B{number:07d}"
        yield RegisterContainerRequest(
            institution_code="1",
            label=label,
            kind=ContainerKind.CONTAINER_KIND_CASH_BOX,
            vault_code="V",
        )
        yield IssueTagRequest(
            container_label=label,
            identity=identity_of(number),
            scheme=TagScheme.TAG_SCHEME_TAM1,
        )


def register(config: Path, tags: int, portals: int) -> None:
    """Registers everything in this process, before the service under measurement starts."""
    configure_logs("error", "json")
    stopped = threading.Event()
    serving = Serving.open(load_settings(config, {}), stopped.set)
    waiting: deque[Future[Committed]] = deque()
    try:
        for number, request in enumerate(list_commands(tags, portals), 1):
            command_id = CommandId(client=ClientCommandId(epoch=1, sequence=number))
            waiting.append(serving.sequencer.submit(Command(request, "bench", b"", command_id)))
            if len(waiting) >= IN_FLIGHT:
                take(waiting.popleft())
        while waiting:
            take(waiting.popleft())
    finally:
        serving.close()


def take(future: Future[Committed]) -> None:
    committed = future.result()
    if not committed.accepted:
        raise RuntimeError(f"refused: {committed.header.reasons}")


@contextmanager
def serve(tags: int, portals: int) -> Iterator[tuple[Service, list[SoftTag]]]:
    """A running service with that many tags, and the tags in software."""
    root = Path(tempfile.mkdtemp(prefix="jinku-bench-"))
    service = Service(root / "realm")
    try:
        service.initialise()
        register(service.config, tags, portals)
        for number in range(portals):
            service.issue_portal(portal_name(number))
        listed = service.personalise([identity_of(number).hex() for number in range(tags)])
        soft_tags = load(listed)
        service.start()
        yield service, soft_tags
    finally:
        service.stop()
        shutil.rmtree(root)


@contextmanager
def open_portals(
    service: Service, tags: Sequence[SoftTag], plan: Plan, count: int
) -> Iterator[list[LoadPortal]]:
    """That many portals, each on a connection of its own."""
    with ExitStack() as stack:
        channels: list[grpc.Channel] = [
            stack.enter_context(service.connect("portal", portal_name(number)).open())
            for number in range(count)
        ]
        portals = [
            LoadPortal(channel, tags, plan, number * len(tags) // count)
            for number, channel in enumerate(channels)
        ]
        try:
            yield portals
        finally:
            for portal in portals:
                portal.client.abandon()
