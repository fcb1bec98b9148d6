"""The commands of places and containers: who and what there is (ORG-01, TAG-03).

Each `decide` reports every reason it finds, in the order in which it checks: what a command rests
on comes first, then what it would make. Each `answer` is a pure function of the entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from core.decisions import Context, Decision, Handler, reason
from core.ledger.tables import VAULTS, IndexKind, State
from core.store.v1.rows_pb2 import VaultRow
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import (
    ContainerRegistered,
    Event,
    Events,
    InstitutionRegistered,
    PortalRegistered,
    VaultRegistered,
)
from jinku.type.v1.place_pb2 import Antenna, Custody, CustodyPlace
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.type.v1.tag_pb2 import AntennaSide
from jinku.v1.common_pb2 import Outcome
from jinku.v1.registry_pb2 import (
    RegisterContainerRequest,
    RegisterContainerResponse,
    RegisterInstitutionRequest,
    RegisterInstitutionResponse,
    RegisterPortalRequest,
    RegisterPortalResponse,
    RegisterVaultRequest,
    RegisterVaultResponse,
)

PORT_MAX = 255
# Reading a name off an enumeration costs about as much as a row; these are of the commonest command.
_CONTAINER_EXISTS = ReasonCode.REASON_CODE_CONTAINER_EXISTS
_WITH_HOLDER = CustodyPlace.CUSTODY_PLACE_WITH_HOLDER
# A list of 64 antennas can be wrong 64 times; whoever mends it needs the first few, and a receipt
# has room for no more.
PORT_FAULTS_MAX = 8


def decide_register_institution(
    request: RegisterInstitutionRequest, state: State, context: Context
) -> Decision:
    """Refused if the institution above is not registered or is itself, or the code is taken."""
    reasons = []
    parent_id = b""
    if request.parent_code == request.code:
        reasons.append(reason(ReasonCode.REASON_CODE_PARENT_WOULD_BE_ITSELF, request.code))
    elif request.parent_code:
        parent_id, missing = _institution(state, request.parent_code)
        reasons += missing
    reasons += _taken(
        state, IndexKind.INSTITUTION_CODE, request.code, ReasonCode.REASON_CODE_INSTITUTION_EXISTS
    )
    if reasons:
        return Decision(reasons=reasons)
    registered = InstitutionRegistered(
        institution_id=context.new_id(),
        code=request.code,
        name=request.name,
        kind=request.kind,
        parent_id=parent_id,
    )
    events = [Event(institution_registered=registered)]
    return Decision(events=events, extras=request.extras)


def answer_register_institution(
    header: EntryHeader, events: Events, outcome: Outcome
) -> RegisterInstitutionResponse:
    """With the id it made."""
    made = events.events[0].institution_registered.institution_id if events.events else b""
    return RegisterInstitutionResponse(outcome=outcome, institution_id=made)


def decide_register_vault(
    request: RegisterVaultRequest, state: State, context: Context
) -> Decision:
    """Refused if its institution is not registered, or the code is taken."""
    institution_id, reasons = _institution(state, request.institution_code)
    reasons += _taken(
        state, IndexKind.VAULT_CODE, request.code, ReasonCode.REASON_CODE_VAULT_EXISTS
    )
    if reasons:
        return Decision(reasons=reasons)
    registered = VaultRegistered(
        vault_id=context.new_id(),
        institution_id=institution_id,
        code=request.code,
        name=request.name,
        kind=request.kind,
        time_zone=request.time_zone,
    )
    return Decision(events=[Event(vault_registered=registered)], extras=request.extras)


def answer_register_vault(
    header: EntryHeader, events: Events, outcome: Outcome
) -> RegisterVaultResponse:
    """With the id it made."""
    made = events.events[0].vault_registered.vault_id if events.events else b""
    return RegisterVaultResponse(outcome=outcome, vault_id=made)


def decide_register_portal(
    request: RegisterPortalRequest, state: State, context: Context
) -> Decision:
    """Refused if its vault is not registered, the name is taken, or its antennas cannot tell
    inside from outside (POR-02).
    """
    vault_id, vault, reasons = _vault(state, request.vault_code)
    reasons += _taken(
        state, IndexKind.PORTAL_NAME, request.name, ReasonCode.REASON_CODE_PORTAL_EXISTS
    )
    reasons += [
        reason(ReasonCode.REASON_CODE_ANTENNA_SIDES_INCOMPLETE, fault)
        for fault in _antenna_faults(list(request.antennas))
    ]
    if reasons:
        return Decision(reasons=reasons)
    registered = PortalRegistered(
        portal_id=context.new_id(),
        institution_id=vault.institution_id,
        vault_id=vault_id,
        name=request.name,
        antennas=request.antennas,
    )
    return Decision(events=[Event(portal_registered=registered)], extras=request.extras)


def answer_register_portal(
    header: EntryHeader, events: Events, outcome: Outcome
) -> RegisterPortalResponse:
    """With the id it made."""
    made = events.events[0].portal_registered.portal_id if events.events else b""
    return RegisterPortalResponse(outcome=outcome, portal_id=made)


def _antenna_faults(antennas: list[Antenna]) -> Iterator[str]:
    sides = {antenna.side for antenna in antennas}
    for side in (AntennaSide.ANTENNA_SIDE_INNER, AntennaSide.ANTENNA_SIDE_OUTER):
        if side not in sides:
            yield f"{AntennaSide.Name(side).removeprefix('ANTENNA_SIDE_')} 0"
    ports = sorted(Counter(antenna.port for antenna in antennas).items())
    faults = [f"port {port} × {count}" for port, count in ports if count > 1]
    faults += [f"port {port}" for port, _ in ports if not 1 <= port <= PORT_MAX]
    yield from faults[:PORT_FAULTS_MAX]
    if faults[PORT_FAULTS_MAX:]:
        yield f"+ {len(faults) - PORT_FAULTS_MAX}"


def decide_register_container(
    request: RegisterContainerRequest, state: State, context: Context
) -> Decision:
    """Refused if its institution or vault is not registered, or the label is taken (TAG-03).

    Its first holder is the institution that owns it.
    """
    institution_id, reasons = _institution(state, request.institution_code)
    vault_id, _, missing = _vault(state, request.vault_code)
    reasons += missing
    reasons += _taken(state, IndexKind.CONTAINER_LABEL, request.label, _CONTAINER_EXISTS)
    if reasons:
        return Decision(reasons=reasons)
    registered = ContainerRegistered(
        container_id=context.new_id(),
        institution_id=institution_id,
        label=request.label,
        kind=request.kind,
        custody=Custody(holder_id=institution_id, place=_WITH_HOLDER),
        vault_id=vault_id,
    )
    return Decision(events=[Event(container_registered=registered)], extras=request.extras)


def answer_register_container(
    header: EntryHeader, events: Events, outcome: Outcome
) -> RegisterContainerResponse:
    """With the id it made."""
    made = events.events[0].container_registered.container_id if events.events else b""
    return RegisterContainerResponse(outcome=outcome, container_id=made)


def _institution(state: State, code: str) -> tuple[bytes, list[ReasonRecord]]:
    institution_id = state.find(IndexKind.INSTITUTION_CODE, code.encode())
    if institution_id is None:
        return b"", [reason(ReasonCode.REASON_CODE_INSTITUTION_NOT_REGISTERED, code)]
    return institution_id, []


def _vault(state: State, code: str) -> tuple[bytes, VaultRow, list[ReasonRecord]]:
    vault_id = state.find(IndexKind.VAULT_CODE, code.encode())
    vault = None if vault_id is None else state.get(VAULTS, vault_id)
    if vault_id is None or vault is None:
        return b"", VaultRow(), [reason(ReasonCode.REASON_CODE_VAULT_NOT_REGISTERED, code)]
    return vault_id, vault, []


def _taken(state: State, kind: IndexKind, natural: str, code: ReasonCode) -> list[ReasonRecord]:
    """The reason that a natural identifier is taken, with the id of what has it."""
    holder_id = state.find(kind, natural.encode())
    return [] if holder_id is None else [reason(code, natural, holder_id)]


# Every one of these is decided on the state alone.
REGISTRY_HANDLERS = (
    Handler(RegisterInstitutionRequest, decide_register_institution, answer_register_institution),
    Handler(RegisterVaultRequest, decide_register_vault, answer_register_vault),
    Handler(RegisterPortalRequest, decide_register_portal, answer_register_portal),
    Handler(RegisterContainerRequest, decide_register_container, answer_register_container),
)
