"""A realm of very many tags, written fast: through the real writer and every `apply`, but many boxes
to an entry, which no RPC of the service does. The tables are the ones that single commands make.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from google.protobuf.message import Message

from core.decisions import Context, Decision, Handler
from core.errors import DecideFailed
from core.ids import make_id
from core.ledger.ledger import Ledger
from core.ledger.tables import IndexKind, State
from core.procedures.table import handlers
from core.sequencer import Command, Writer
from jinku.event.v1.event_pb2 import ContainerRegistered, Event, TagIssued
from jinku.type.v1.command_pb2 import ClientCommandId, CommandId
from jinku.type.v1.place_pb2 import (
    Antenna,
    ContainerKind,
    Custody,
    CustodyPlace,
    InstitutionKind,
    VaultKind,
)
from jinku.type.v1.tag_pb2 import AntennaSide, TagScheme
from jinku.v1.registry_pb2 import (
    IssueTagRequest,
    RegisterInstitutionRequest,
    RegisterPortalRequest,
    RegisterVaultRequest,
)

BOXES_PER_ENTRY = 100
ENTRIES_PER_COMMIT = 20
INSTITUTION, VAULT, PORTAL = "1", "V", "gate-1"
ANTENNAS = (
    Antenna(port=1, side=AntennaSide.ANTENNA_SIDE_OUTER),
    Antenna(port=2, side=AntennaSide.ANTENNA_SIDE_INNER),
)

# A tag's scheme by its number.
SchemeOf = Callable[[int], TagScheme]


def label_of(number: int) -> str:
    return f"B{number:07d}"


def identity_of(number: int, scheme: int) -> bytes:
    """Seven bytes for SUN, twelve for the others."""
    if scheme == TagScheme.TAG_SCHEME_SUN:
        return b"\x04" + number.to_bytes(6, "big")
    return b"\x33\x14\x99\x00" + number.to_bytes(8, "big")


class Bulk:
    """Decides a command that stands for `BOXES_PER_ENTRY` boxes, each with a live tag."""

    def __init__(self, tags: int, scheme_of: SchemeOf) -> None:
        self.tags, self.scheme_of = tags, scheme_of
        self.next = 0

    def decide(self, _: IssueTagRequest, state: State, context: Context) -> Decision:
        institution_id = state.find(IndexKind.INSTITUTION_CODE, INSTITUTION.encode()) or b""
        vault_id = state.find(IndexKind.VAULT_CODE, VAULT.encode()) or b""
        custody = Custody(holder_id=vault_id, place=CustodyPlace.CUSTODY_PLACE_WITH_HOLDER)
        events = []
        last = min(self.next + BOXES_PER_ENTRY, self.tags)
        for at, number in enumerate(range(self.next, last)):
            container_id = make_id(context.realm, context.entry_index, 2 * at)
            box = ContainerRegistered(
                container_id=container_id,
                institution_id=institution_id,
                label=label_of(number),
                kind=ContainerKind.CONTAINER_KIND_CASH_BOX,
                vault_id=vault_id,
                custody=custody,
            )
            scheme = self.scheme_of(number)
            tag = TagIssued(
                tag_id=make_id(context.realm, context.entry_index, 2 * at + 1),
                institution_id=institution_id,
                container_id=container_id,
                identity=identity_of(number, scheme),
                scheme=scheme,
                issuing_realm=context.realm,
                key_version=1,
            )
            events += [Event(container_registered=box), Event(tag_issued=tag)]
        self.next = last
        return Decision(events=events)


def fill(ledger: Ledger, tags: int, scheme_of: SchemeOf) -> None:
    """One institution, one vault, and that many boxes with tags of the schemes asked for."""
    head = InstitutionKind.INSTITUTION_KIND_HEAD_OFFICE
    kind = VaultKind.VAULT_KIND_CASH_CENTRE
    bulk = Bulk(tags, scheme_of)
    table = dict(handlers(frozenset)) | {IssueTagRequest: Handler(IssueTagRequest, bulk.decide)}
    writer = Writer(ledger, table)
    sequences = count(1)

    def commit(requests: Sequence[Message]) -> None:
        commands = [
            Command(request, "bench", b"", CommandId(client=ClientCommandId(epoch=1, sequence=at)))
            for at, request in zip(sequences, requests, strict=False)
        ]
        for result in writer.commit(commands):
            if isinstance(result, DecideFailed) or not result.accepted:
                raise RuntimeError(f"not accepted: {result}")

    zone = "Asia/Shanghai"
    commit(
        [
            RegisterInstitutionRequest(code=INSTITUTION, name="bench", kind=head),
            RegisterVaultRequest(
                institution_code=INSTITUTION, code=VAULT, name="bench", kind=kind, time_zone=zone
            ),
            RegisterPortalRequest(vault_code=VAULT, name=PORTAL, antennas=ANTENNAS),
        ]
    )
    while bulk.next < tags:
        entries = min(ENTRIES_PER_COMMIT, -(-(tags - bulk.next) // BOXES_PER_ENTRY))
        commit([IssueTagRequest() for _ in range(entries)])
