"""A realm of its own and the `jinkud` that serves it, for tests through the public API."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jinku.columns import Reads
from jinku.commands import CommandIds
from jinku.demo.service import Service
from jinku.errors import require_accepted
from jinku.registry import RegistryClient
from jinku.softtags import SoftTag, load
from jinku.type.v1.place_pb2 import Antenna, ContainerKind, InstitutionKind, VaultKind
from jinku.type.v1.tag_pb2 import AntennaSide, TagScheme
from jinku.v1.portal_pb2 import Hello
from jinku.v1.registry_pb2 import (
    IssueTagRequest,
    RegisterContainerRequest,
    RegisterInstitutionRequest,
    RegisterPortalRequest,
    RegisterVaultRequest,
)

INNER, OUTER = AntennaSide.ANTENNA_SIDE_INNER, AntennaSide.ANTENNA_SIDE_OUTER
PORTAL = "test-gate"
FREQUENCIES_KHZ = (920_625, 921_125)


class Realm:
    """One institution, one vault, one portal, and boxes as a test needs them."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.channel = service.connect("service", "registrar").open()
        self.registry = RegistryClient(
            self.channel, CommandIds(service.directory / "commands.json", block=256)
        )
        self.numbers = itertools.count(1)

    def found(self) -> None:
        head = InstitutionKind.INSTITUTION_KIND_HEAD_OFFICE
        registry = self.registry
        answers: list[Any] = [
            registry.register_institution(
                RegisterInstitutionRequest(code="1", name="总行", kind=head)
            ),
            registry.register_vault(
                RegisterVaultRequest(
                    institution_code="1",
                    code="V",
                    name="金库",
                    kind=VaultKind.VAULT_KIND_CASH_CENTRE,
                    time_zone="Asia/Shanghai",
                )
            ),
            registry.register_portal(
                RegisterPortalRequest(
                    vault_code="V",
                    name=PORTAL,
                    antennas=[Antenna(port=1, side=OUTER), Antenna(port=2, side=INNER)],
                )
            ),
        ]
        for answer in answers:
            require_accepted(answer.outcome)
        self.service.issue_portal(PORTAL)

    def new_identity(self) -> bytes:
        return b"\x33\x14\x77\x00" + next(self.numbers).to_bytes(8, "big")

    def add_box(self) -> str:
        """A new box without a tag; its label."""
        label = f"T{next(self.numbers):05d}"
        request = RegisterContainerRequest(
            institution_code="1",
            label=label,
            kind=ContainerKind.CONTAINER_KIND_CASH_BOX,
            vault_code="V",
        )
        require_accepted(self.registry.register_container(request).outcome)
        return label

    def add_tagged_box(self) -> tuple[str, bytes]:
        """A new box with a live TAM1 tag; its label and the tag's identity."""
        label, identity = self.add_box(), self.new_identity()
        request = IssueTagRequest(
            container_label=label, identity=identity, scheme=TagScheme.TAG_SCHEME_TAM1
        )
        require_accepted(self.registry.issue_tag(request).outcome)
        return label, identity

    def personalise(self, *identities: bytes) -> list[SoftTag]:
        name = f"tags-{next(self.numbers)}"
        return load(self.service.personalise([one.hex() for one in identities], name))

    def hello(self, epoch: int) -> Hello:
        return Hello(portal_epoch=epoch, antennas=[1, 2], frequencies_khz=FREQUENCIES_KHZ)


@contextmanager
def serve(directory: Path) -> Iterator[Realm]:
    service = Service(directory)
    service.initialise()
    try:
        service.start()
        realm = Realm(service)
        with realm.channel:
            realm.found()
            yield realm
    finally:
        service.stop()


def make_reads(identity: bytes, start_ns: int, count: int = 4, antenna: int = 1) -> Reads:
    """A few strong reads of one tag, 10 ms apart."""
    return Reads(
        identity=np.tile(np.frombuffer(identity, np.uint8), (count, 1)),
        antenna=np.full(count, antenna, np.uint8),
        channel=np.zeros(count, np.uint8),
        rssi_dbm=np.full(count, -50.0),
        time_ns=start_ns + np.arange(count, dtype=np.int64) * 10_000_000,
    )
