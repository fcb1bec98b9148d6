"""Who may call what (design, section 7).

A certificate names a principal; the registry says whether that one is live; a table says which
role may call which RPC. Whatever the table does not say may not be called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from core.guard import NATURAL_ID
from core.ledger.tables import PORTALS, SERVICES, IndexKind, State

REALM_MAX = 2**32 - 1

_SPIFFE = re.compile(
    r"spiffe://(?P<trust_domain>[a-z0-9][a-z0-9.-]{0,254})"
    r"/(?P<realm>[1-9][0-9]{0,9})/(?P<kind>[a-z]{1,32})/(?P<name>[^/]{1,64})"
)


class Kind(StrEnum):
    """What a principal is."""

    SERVICE = "service"
    PORTAL = "portal"


class Role(StrEnum):
    """What a caller may do. A service's roles are named at the founding; a portal has its own."""

    REGISTRAR = "REGISTRAR"
    AUDITOR = "AUDITOR"
    PRIVACY_OFFICER = "PRIVACY_OFFICER"
    PORTAL = "PORTAL"


class Denial(StrEnum):
    """Why a caller is not let in."""

    NO_PRINCIPAL = "the certificate's URI is not spiffe://<trust domain>/<realm>/<kind>/<name>"
    UNKNOWN_KIND = "the certificate names neither a service nor a portal"
    OTHER_TRUST_DOMAIN = "the certificate is of another trust domain"
    OTHER_REALM = "the certificate is of another realm"
    NOT_REGISTERED = "nothing of that name is registered"


@dataclass(frozen=True, slots=True)
class Principal:
    """What a certificate names."""

    trust_domain: str
    realm: int
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.realm}/{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class Denied:
    """A caller that is not let in."""

    denial: Denial


@dataclass(frozen=True, slots=True)
class Caller:
    """A live caller: `principal` is its URI, `device_id` the id of its portal or service."""

    principal: str
    device_id: bytes
    roles: frozenset[Role]


def parse_principal(uri: str) -> Principal | Denied:
    """The principal that a certificate's one URI names. Nothing is looked up."""
    parts = _SPIFFE.fullmatch(uri)
    if parts is None or int(parts["realm"]) > REALM_MAX or not NATURAL_ID.fullmatch(parts["name"]):
        return Denied(Denial.NO_PRINCIPAL)
    if parts["kind"] not in list(Kind):
        return Denied(Denial.UNKNOWN_KIND)
    return Principal(
        trust_domain=parts["trust_domain"],
        realm=int(parts["realm"]),
        kind=Kind(parts["kind"]),
        name=parts["name"],
    )


def caller(state: State, principal: Principal, realm: int, trust_domain: str) -> Caller | Denied:
    """Who calls, by the registry as it is now: asked for every call, so that a change counts."""
    if principal.trust_domain != trust_domain:
        return Denied(Denial.OTHER_TRUST_DOMAIN)
    if principal.realm != realm:
        return Denied(Denial.OTHER_REALM)
    name = principal.name.encode()
    if principal.kind is Kind.PORTAL:
        device_id = state.find(IndexKind.PORTAL_NAME, name)
        if device_id is None or state.get(PORTALS, device_id) is None:
            return Denied(Denial.NOT_REGISTERED)
        return Caller(str(principal), device_id, frozenset({Role.PORTAL}))
    device_id = state.find(IndexKind.SERVICE_NAME, name)
    service = None if device_id is None else state.get(SERVICES, device_id)
    if device_id is None or service is None:
        return Denied(Denial.NOT_REGISTERED)
    # A portal's role is never a service's, whatever a founding entry says.
    held = frozenset(Role(role) for role in service.roles if role in list(Role))
    return Caller(str(principal), device_id, held - {Role.PORTAL})


_REGISTRAR = frozenset({Role.REGISTRAR})
_READERS = frozenset({Role.REGISTRAR, Role.AUDITOR})
_PRIVACY = frozenset({Role.PRIVACY_OFFICER})

# By the RPC's full name. Checkpoints and hashes may be public; entries need the auditor's role.
MAY_CALL: Mapping[str, frozenset[Role]] = MappingProxyType(
    {
        "jinku.v1.RegistryService.RegisterInstitution": _REGISTRAR,
        "jinku.v1.RegistryService.RegisterVault": _REGISTRAR,
        "jinku.v1.RegistryService.RegisterPortal": _REGISTRAR,
        "jinku.v1.RegistryService.RegisterContainer": _REGISTRAR,
        "jinku.v1.RegistryService.IssueTag": _REGISTRAR,
        "jinku.v1.RegistryService.FreezeTag": _REGISTRAR,
        "jinku.v1.RegistryService.UnfreezeTag": _REGISTRAR,
        "jinku.v1.RegistryService.RetireTag": _REGISTRAR,
        "jinku.v1.RegistryService.GetContainer": _READERS,
        "jinku.v1.RegistryService.RegisterContact": _REGISTRAR,
        "jinku.v1.RegistryService.ChangeContact": _REGISTRAR,
        "jinku.v1.RegistryService.EndContact": _REGISTRAR,
        "jinku.v1.RegistryService.GetContact": _READERS | _PRIVACY,
        "jinku.v1.RegistryService.ReadContact": _REGISTRAR | _PRIVACY,
        "jinku.v1.RegistryService.RequestErasure": _REGISTRAR | _PRIVACY,
        "jinku.v1.RegistryService.ConfirmErasure": _PRIVACY,
        "jinku.v1.PortalService.Stream": frozenset({Role.PORTAL}),
        "jinku.v1.LedgerService.GetEntry": frozenset({Role.AUDITOR}),
        "jinku.v1.LedgerService.GetProof": _READERS,
        "jinku.v1.LedgerService.GetCheckpoint": frozenset(Role),
        "jinku.v1.LedgerService.GetConsistencyProof": frozenset(Role),
        "jinku.v1.LedgerService.GetTile": frozenset(Role),
        "jinku.v1.LedgerService.ListEntries": frozenset({Role.AUDITOR}),
    }
)


def may_call(caller: Caller, rpc: str) -> bool:
    """Whether a caller may call an RPC, named in full (`jinku.v1.RegistryService.IssueTag`) or by
    gRPC's path of it (`/jinku.v1.RegistryService/IssueTag`). An unknown one: no.
    """
    allowed = MAY_CALL.get(rpc.removeprefix("/").replace("/", "."), frozenset())
    return not caller.roles.isdisjoint(allowed)
