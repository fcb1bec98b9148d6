"""Founding a realm: the first entry of a journal, written once."""

from __future__ import annotations

from pathlib import Path

from core.clock import Clock, system_clock
from core.errors import SettingsError
from core.keys import RealmKeys
from core.ledger.ledger import Ledger
from core.procedures.founding import FOUNDING_HANDLERS, OWN_NAME
from core.sequencer import Command, Writer
from core.store.v1.commands_pb2 import FoundRealm
from jinku.type.v1.command_pb2 import CommandId, FoundingCommandId


def principal_of(trust_domain: str, realm: int, kind: str, name: str) -> str:
    """The SPIFFE URI of a device or service."""
    return f"spiffe://{trust_domain}/{realm}/{kind}/{name}"


def found_realm(
    path: Path,
    keys: RealmKeys,
    request: FoundRealm,
    *,
    map_gib: int = 64,
    clock: Clock = system_clock,
) -> str:
    """Begin the ledger in `path` with its founding entry; durable on return. Gives the
    checkpoints' verifier key.

    SettingsError if the ledger has entries already, or names what is wrong with the founding.
    """
    ledger = Ledger(path, keys, request.realm, request.trust_domain, map_gib=map_gib)
    try:
        if ledger.size:
            raise SettingsError(
                f"{path}: has a ledger of {ledger.size} entries; it is not founded again"
            )
        request.checkpoint_key = ledger.verifier_key
        command = Command(
            request=request,
            principal=principal_of(request.trust_domain, request.realm, "service", OWN_NAME),
            device_id=b"",
            command_id=CommandId(founding=FoundingCommandId(realm=request.realm)),
        )
        (result,) = Writer(ledger, FOUNDING_HANDLERS, clock).commit([command])
        if isinstance(result, Exception):
            raise (result.__cause__ if isinstance(result.__cause__, SettingsError) else result)
        return ledger.verifier_key
    finally:
        ledger.close()
