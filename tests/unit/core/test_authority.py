"""Who a certificate names, whether it is live, and what it may call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.authority import (
    MAY_CALL,
    Caller,
    Denial,
    Denied,
    Kind,
    Principal,
    Role,
    caller,
    may_call,
    parse_principal,
)
from core.ledger.tables import SERVICES, IndexKind
from core.store.v1.rows_pb2 import ServiceRow
from jinku.v1 import ledger_pb2, portal_pb2, registry_pb2
from ledgers import REALM, REGISTRAR, TRUST_DOMAIN
from registrar import Registrar, institution, portal, vault

RPCS = [
    method.full_name
    for module in (registry_pb2, portal_pb2, ledger_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
REGISTRY = {rpc for rpc in RPCS if ".RegistryService." in rpc}
LEDGER = {rpc for rpc in RPCS if ".LedgerService." in rpc}
CHECKPOINT = "jinku.v1.LedgerService.GetCheckpoint"
PUBLIC = {
    CHECKPOINT,
    "jinku.v1.LedgerService.GetConsistencyProof",
    "jinku.v1.LedgerService.GetTile",
}
GET_CONTACT = "jinku.v1.RegistryService.GetContact"
READ_CONTACT = "jinku.v1.RegistryService.ReadContact"
REQUEST = "jinku.v1.RegistryService.RequestErasure"
CONFIRM = "jinku.v1.RegistryService.ConfirmErasure"
ALLOWED = {
    Role.REGISTRAR: (REGISTRY - {CONFIRM}) | PUBLIC | {"jinku.v1.LedgerService.GetProof"},
    Role.AUDITOR: LEDGER | {"jinku.v1.RegistryService.GetContainer", GET_CONTACT},
    Role.PRIVACY_OFFICER: PUBLIC | {GET_CONTACT, READ_CONTACT, REQUEST, CONFIRM},
    Role.PORTAL: PUBLIC | {"jinku.v1.PortalService.Stream"},
}


@pytest.fixture
def registrar(tmp_path: Path) -> Iterator[Registrar]:
    """A realm with services `registrar` and `auditor`, and the portal `gate-1`."""
    made = Registrar(tmp_path)
    for request in (institution(), vault(), portal()):
        made.accept(request)
    yield made
    made.ledger.close()


def ask(registrar: Registrar, kind: Kind, name: str) -> Caller | Denied:
    principal = Principal(TRUST_DOMAIN, REALM, kind, name)
    with registrar.ledger.read() as state:
        return caller(state, principal, REALM, TRUST_DOMAIN)


def with_roles(*roles: Role) -> Caller:
    return Caller("spiffe://x/1/service/y", b"", frozenset(roles))


@pytest.mark.parametrize(
    ("uri", "kind", "name"),
    [
        ("spiffe://bank.example/7/service/registrar", Kind.SERVICE, "registrar"),
        ("spiffe://bank.example/7/portal/v1-gate-2", Kind.PORTAL, "v1-gate-2"),
        ("spiffe://bank.example/4294967295/portal/" + "a" * 64, Kind.PORTAL, "a" * 64),
    ],
)
def test_principal_is_read(uri: str, kind: Kind, name: str) -> None:
    principal = parse_principal(uri)
    assert isinstance(principal, Principal)
    assert (principal.trust_domain, principal.kind, principal.name) == ("bank.example", kind, name)
    assert str(principal) == uri


@pytest.mark.parametrize(
    ("uri", "denial"),
    [
        ("", Denial.NO_PRINCIPAL),
        ("https://bank.example/7/portal/x", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7/portal", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7/portal/x/y", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7/portal/x\n", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7/portal/x?y", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7/portal/X", Denial.NO_PRINCIPAL),
        ("spiffe://Bank.example/7/portal/x", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/07/portal/x", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/0/portal/x", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/4294967296/portal/x", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/٧/portal/x", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7/portal/%78", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example:443/7/portal/x", Denial.NO_PRINCIPAL),
        ("spiffe://someone@bank.example/7/portal/x", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7//portal/x", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7/portal/x#y", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7/portal/x/", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7/portal/x\0", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7/portal/\u0445", Denial.NO_PRINCIPAL),
        ("SPIFFE://bank.example/7/portal/x", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7/PORTAL/x", Denial.NO_PRINCIPAL),
        ("spiffe://bank.example/7/person/x", Denial.UNKNOWN_KIND),
    ],
)
def test_other_names_are_none(uri: str, denial: Denial) -> None:
    assert parse_principal(uri) == Denied(denial)


def test_registered_callers_are_let_in(registrar: Registrar) -> None:
    service = ask(registrar, Kind.SERVICE, "registrar")
    assert isinstance(service, Caller)
    assert (service.principal, service.roles) == (REGISTRAR, frozenset({Role.REGISTRAR}))
    gate = ask(registrar, Kind.PORTAL, "gate-1")
    assert isinstance(gate, Caller)
    assert gate.roles == {Role.PORTAL}
    with registrar.ledger.read() as state:
        assert gate.device_id == state.find(IndexKind.PORTAL_NAME, b"gate-1")
        assert service.device_id == state.find(IndexKind.SERVICE_NAME, b"registrar")


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Kind.SERVICE, "gate-1"), (Kind.PORTAL, "registrar"), (Kind.PORTAL, "gate-2")],
)
def test_others_are_not(registrar: Registrar, kind: Kind, name: str) -> None:
    assert ask(registrar, kind, name) == Denied(Denial.NOT_REGISTERED)


def test_portal_is_let_in_from_its_registration_on(registrar: Registrar) -> None:
    assert ask(registrar, Kind.PORTAL, "gate-2") == Denied(Denial.NOT_REGISTERED)
    registrar.accept(portal("gate-2"))
    assert isinstance(ask(registrar, Kind.PORTAL, "gate-2"), Caller)


def test_other_realms_and_trust_domains_are_not(registrar: Registrar) -> None:
    principal = Principal(TRUST_DOMAIN, REALM, Kind.SERVICE, "registrar")
    with registrar.ledger.read() as state:
        assert caller(state, principal, REALM + 1, TRUST_DOMAIN) == Denied(Denial.OTHER_REALM)
        other = caller(state, principal, REALM, "other.example")
        assert other == Denied(Denial.OTHER_TRUST_DOMAIN)


def test_service_never_has_a_portals_role(registrar: Registrar) -> None:
    with registrar.ledger.writing() as writing:
        id_ = writing.state.find(IndexKind.SERVICE_NAME, b"registrar")
        assert id_ is not None
        row = ServiceRow(name="registrar", roles=["PORTAL", "AUDITOR", "EMPEROR"])
        writing.tables.put(SERVICES, id_, row)
    service = ask(registrar, Kind.SERVICE, "registrar")
    assert isinstance(service, Caller)
    assert service.roles == {Role.AUDITOR}


def test_every_rpc_has_a_row() -> None:
    assert sorted(MAY_CALL) == sorted(RPCS)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("rpc", RPCS)
def test_role_may_call_what_it_may(role: Role, rpc: str) -> None:
    service, _, method = rpc.rpartition(".")
    for name in (rpc, f"{service}/{method}", f"/{service}/{method}"):
        assert may_call(with_roles(role), name) == (rpc in ALLOWED[role])


def test_roles_add_up_and_none_is_none() -> None:
    both = with_roles(Role.REGISTRAR, Role.AUDITOR)
    assert {rpc for rpc in RPCS if may_call(both, rpc)} == (REGISTRY | LEDGER) - {CONFIRM}
    assert not any(may_call(with_roles(), rpc) for rpc in RPCS)


@pytest.mark.parametrize(
    "rpc", ["", "/", "jinku.v1.RegistryService", "grpc.health.v1.Health/Check"]
)
def test_unknown_rpc_may_nobody_call(rpc: str) -> None:
    assert not may_call(with_roles(*Role), rpc)
