"""A small bank that does not exist, registered through the real RegistryService."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from jinku.errors import require_accepted
from jinku.recording import Recording, antennas_of, load_demonstration
from jinku.registry import RegistryClient
from jinku.type.v1.place_pb2 import ContainerKind, InstitutionKind, VaultKind
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.registry_pb2 import (
    IssueTagRequest,
    RegisterContainerRequest,
    RegisterInstitutionRequest,
    RegisterPortalRequest,
    RegisterVaultRequest,
)

MARK = "(演示)"
HEAD_OFFICE = ("8800", f"青禾农村商业银行总行{MARK}")
OUTLETS = (
    ("8801", f"青禾农商行营业部{MARK}"),
    ("8802", f"青禾农商行东门支行{MARK}"),
    ("8803", f"青禾农商行临河支行{MARK}"),
    ("8804", f"青禾农商行北站分理处{MARK}"),
    ("8805", f"青禾农商行柳林分理处{MARK}"),
)
# (code, name, kind, room of the recording, portal)
VAULTS = (
    ("V1", f"现金中心金库{MARK}", VaultKind.VAULT_KIND_CASH_CENTRE, "S1", "cash-centre-gate"),
    ("V2", f"临河支行金库{MARK}", VaultKind.VAULT_KIND_BRANCH, "S2", "riverside-gate"),
)
BOXES = 200
# What the last of the second vault's recorded boxes carry; all others answer TAM1.
OTHER_SCHEMES = (
    TagScheme.TAG_SCHEME_COUNTER_CMAC,
    TagScheme.TAG_SCHEME_COUNTER_CMAC_16,
    TagScheme.TAG_SCHEME_SUN,
    TagScheme.TAG_SCHEME_TAM2,
)
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Box:
    """A box of the demonstration and the tag that is meant for it."""

    label: str
    institution_code: str
    vault_code: str
    identity: bytes
    scheme: TagScheme
    # The recorded trial that it moves as; empty for a box that stays where it is.
    trial: str = ""

    def order(self) -> str:
        """Its line in the list that `jinkud personalise` reads."""
        name = TagScheme.Name(self.scheme).removeprefix("TAG_SCHEME_")
        return f"{self.identity.hex()},{name}"


@dataclass(frozen=True)
class Bank:
    """Everything that is registered, and whom the recording moves."""

    recording: Recording = field(default_factory=load_demonstration)
    boxes: tuple[Box, ...] = ()

    def of_room(self, room: str) -> list[Box]:
        names = [trial.name for trial in self.recording.of_room(room)]
        by_trial = {box.trial: box for box in self.boxes if box.trial}
        return [by_trial[name] for name in names]

    def at_rest(self, vault_code: str) -> list[Box]:
        return [box for box in self.boxes if not box.trial and box.vault_code == vault_code]


def make_identity(number: int) -> bytes:
    """An EPC of 96 bits: GRAI-like header, then the box's number."""
    return b"\x33\x14\x88\x00" + number.to_bytes(8, "big")


def make_uid(number: int) -> bytes:
    """A UID of an NFC tag: seven bytes, the first the maker's."""
    return b"\x04" + number.to_bytes(6, "big")


def make_bank() -> Bank:
    recording = load_demonstration()
    moving = [
        (trial.name, vault, place, len(recording.of_room(room)))
        for vault, _, _, room, _ in VAULTS
        for place, trial in enumerate(recording.of_room(room))
    ]
    boxes = []
    for number in range(BOXES):
        trial, vault, scheme = "", VAULTS[number % 2][0], TagScheme.TAG_SCHEME_TAM1
        if number < len(moving):
            trial, vault, place, count = moving[number]
            if vault == VAULTS[1][0] and place >= count - len(OTHER_SCHEMES):
                scheme = OTHER_SCHEMES[place - count]
        outlet = OUTLETS[number % len(OUTLETS)][0]
        label, identity = f"K{number + 1:04d}", make_identity(number + 1)
        if scheme == TagScheme.TAG_SCHEME_SUN:
            identity = make_uid(number + 1)
        boxes.append(Box(label, outlet, vault, identity, scheme, trial))
    return Bank(recording, tuple(boxes))


def register(bank: Bank, registry: RegistryClient, on_done: Callable[[int], None]) -> int:
    """Registers the bank; answers how many commands were accepted, all of them or `Refused`."""
    done = 0
    for requests, call in list_commands(bank, registry):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for response in pool.map(call, requests):
                require_accepted(response.outcome)
                done += 1
                on_done(1)
    return done


def list_commands(
    bank: Bank, registry: RegistryClient
) -> list[tuple[Sequence[Any], Callable[[Any], Any]]]:
    """In stages: what a stage names was registered by the one before."""
    head = RegisterInstitutionRequest(
        code=HEAD_OFFICE[0],
        name=HEAD_OFFICE[1],
        kind=InstitutionKind.INSTITUTION_KIND_HEAD_OFFICE,
    )
    outlets = [
        RegisterInstitutionRequest(
            code=code,
            name=name,
            kind=InstitutionKind.INSTITUTION_KIND_OUTLET,
            parent_code=HEAD_OFFICE[0],
        )
        for code, name in OUTLETS
    ]
    vaults = [
        RegisterVaultRequest(
            institution_code=HEAD_OFFICE[0],
            code=code,
            name=name,
            kind=kind,
            time_zone="Asia/Shanghai",
        )
        for code, name, kind, _, _ in VAULTS
    ]
    portals = [
        RegisterPortalRequest(vault_code=code, name=portal, antennas=antennas_of(room))
        for code, _, _, room, portal in VAULTS
    ]
    containers = [
        RegisterContainerRequest(
            institution_code=box.institution_code,
            label=box.label,
            kind=ContainerKind.CONTAINER_KIND_CASH_BOX,
            vault_code=box.vault_code,
        )
        for box in bank.boxes
    ]
    tags = [
        IssueTagRequest(container_label=box.label, identity=box.identity, scheme=box.scheme)
        for box in bank.boxes
    ]
    return [
        ([head], registry.register_institution),
        (outlets, registry.register_institution),
        (vaults, registry.register_vault),
        (portals, registry.register_portal),
        (containers, registry.register_container),
        (tags, registry.issue_tag),
    ]
