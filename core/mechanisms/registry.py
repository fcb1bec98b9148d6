"""Institutions, vaults, portals and containers: what there is, and whose it is (ORG-01, TAG-03)."""

from __future__ import annotations

from core.ledger.tables import (
    CONTAINERS,
    INSTITUTIONS,
    PORTALS,
    REALM,
    REALM_KEY,
    SERVICES,
    VAULTS,
    IndexKind,
    WritableState,
)
from core.mechanisms.history import Where, need_new, remember
from core.store.v1.rows_pb2 import (
    ContainerRow,
    InstitutionRow,
    PortalRow,
    RealmRow,
    ServiceRow,
    VaultRow,
)
from jinku.event.v1.event_pb2 import (
    ContainerRegistered,
    InstitutionRegistered,
    PortalRegistered,
    RealmFounded,
    VaultRegistered,
)


def apply_realm_founded(event: RealmFounded, state: WritableState, where: Where) -> None:
    """The realm and the services that may call."""
    row = RealmRow(
        realm=event.realm, trust_domain=event.trust_domain, checkpoint_key=event.checkpoint_key
    )
    state.put(REALM, REALM_KEY, row)
    for service in event.services:
        need_new(state, SERVICES, service.service_id, where)
        state.bind(IndexKind.SERVICE_NAME, service.name.encode(), service.service_id)
        service_row = ServiceRow(name=service.name, roles=service.roles)
        state.put(SERVICES, service.service_id, service_row)


def apply_institution_registered(
    event: InstitutionRegistered, state: WritableState, where: Where
) -> None:
    """An institution, found by its code."""
    need_new(state, INSTITUTIONS, event.institution_id, where)
    row = InstitutionRow(
        institution_id=event.institution_id,
        code=event.code,
        name=event.name,
        kind=event.kind,
        parent_id=event.parent_id,
    )
    state.put(INSTITUTIONS, event.institution_id, row)
    state.bind(IndexKind.INSTITUTION_CODE, event.code.encode(), event.institution_id)
    remember(state, where, event.institution_id, event.institution_id, event.parent_id)


def apply_vault_registered(event: VaultRegistered, state: WritableState, where: Where) -> None:
    """A vault, found by its code."""
    need_new(state, VAULTS, event.vault_id, where)
    row = VaultRow(
        institution_id=event.institution_id,
        code=event.code,
        name=event.name,
        kind=event.kind,
        time_zone=event.time_zone,
    )
    state.put(VAULTS, event.vault_id, row)
    state.bind(IndexKind.VAULT_CODE, event.code.encode(), event.vault_id)
    remember(state, where, event.institution_id, event.vault_id, event.institution_id)


def apply_portal_registered(event: PortalRegistered, state: WritableState, where: Where) -> None:
    """A portal, found by the name in its certificate."""
    need_new(state, PORTALS, event.portal_id, where)
    row = PortalRow(
        institution_id=event.institution_id,
        vault_id=event.vault_id,
        name=event.name,
        antennas=event.antennas,
    )
    state.put(PORTALS, event.portal_id, row)
    state.bind(IndexKind.PORTAL_NAME, event.name.encode(), event.portal_id)
    remember(state, where, event.institution_id, event.portal_id, event.vault_id)


def apply_container_registered(
    event: ContainerRegistered, state: WritableState, where: Where
) -> None:
    """A container without a tag, in the custody of its first holder, found by its label."""
    need_new(state, CONTAINERS, event.container_id, where)
    row = ContainerRow(
        institution_id=event.institution_id,
        label=event.label,
        kind=event.kind,
        vault_id=event.vault_id,
        custody=event.custody,
    )
    state.put(CONTAINERS, event.container_id, row)
    state.bind(IndexKind.CONTAINER_LABEL, event.label.encode(), event.container_id)
    institution_id = event.institution_id
    remember(state, where, institution_id, event.container_id, institution_id, event.vault_id)
