"""Founding a realm: the first entry of its journal names the services that may call."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import Message

from core.authority import Role
from core.decisions import Context, Decision, Handler
from core.errors import SettingsError
from core.ledger.tables import REALM, REALM_KEY, State
from core.store.v1.commands_pb2 import FoundRealm
from jinku.event.v1.event_pb2 import Event, FoundingService, RealmFounded

# A portal's rights come with its registration, so no service is founded with them.
SERVICE_ROLES = frozenset({Role.REGISTRAR, Role.AUDITOR, Role.PRIVACY_OFFICER})
# What the entry's header has room for.
SERVICES_MAX = 32
# The service itself, under which it gives itself commands; nobody else has that name.
OWN_NAME = "jinkud"


def decide_found_realm(request: FoundRealm, state: State, context: Context) -> Decision:
    """The realm, its trust domain, its checkpoints' key and its first services.

    There is no refusal, because no caller waits for one: SettingsError names a role that is not
    known, a service named twice or as this one, too many of them, a realm of another number or one
    that is founded already.
    """
    if context.entry_index or state.get(REALM, REALM_KEY) is not None:
        raise SettingsError("realm: it is founded already, and only once")
    if request.realm != context.realm:
        raise SettingsError(f"realm.number: {request.realm}, the ledger is of {context.realm}")
    if len(request.services) > SERVICES_MAX:
        raise SettingsError(f"realm.services: {len(request.services)}, at most {SERVICES_MAX}")
    names = [service.name for service in request.services]
    for service in request.services:
        unknown = sorted(set(service.roles) - SERVICE_ROLES)
        if unknown:
            known = ", ".join(sorted(SERVICE_ROLES))
            raise SettingsError(f"realm.services {service.name}: no role {unknown[0]}; {known}")
        if service.name == OWN_NAME:
            raise SettingsError(f"realm.services {OWN_NAME}: is the service's own name")
        if names.count(service.name) > 1:
            raise SettingsError(f"realm.services {service.name}: named twice")
    founded = RealmFounded(
        realm=request.realm,
        trust_domain=request.trust_domain,
        services=[
            FoundingService(service_id=context.new_id(), name=service.name, roles=service.roles)
            for service in request.services
        ],
        checkpoint_key=request.checkpoint_key,
    )
    return Decision(events=[Event(realm_founded=founded)])


FOUNDING_HANDLERS: Mapping[type[Message], Handler] = {
    FoundRealm: Handler(FoundRealm, decide_found_realm),
}
