"""A founded ledger and a writer for tests of the core, with real files and real syncs."""

from __future__ import annotations

from hashlib import sha256
from itertools import count
from pathlib import Path

from google.protobuf.message import Message

from core.keys import RealmKeys
from core.ledger.ledger import Ledger
from core.procedures.table import handlers
from core.realm import found_realm, principal_of
from core.sequencer import Command
from core.store.v1.commands_pb2 import FoundingServiceSpec, FoundRealm
from jinku.type.v1.command_pb2 import ClientCommandId, CommandId

REALM = 7
TRUST_DOMAIN = "test.example"
REGISTRAR = principal_of(TRUST_DOMAIN, REALM, "service", "registrar")
# The handlers with one tag master loaded.
HANDLERS = handlers(lambda: frozenset({(REALM, 1)}))

_sequences = count(1)


def found(directory: Path) -> RealmKeys:
    """Make keys and a founded ledger under `directory`."""
    keys = RealmKeys.create(directory / "keys")
    services = [
        FoundingServiceSpec(name="registrar", roles=["REGISTRAR"]),
        FoundingServiceSpec(name="auditor", roles=["AUDITOR"]),
    ]
    request = FoundRealm(realm=REALM, trust_domain=TRUST_DOMAIN, services=services)
    found_realm(directory / "ledger", keys, request, map_gib=1)
    return keys


def reopen(directory: Path, *, as_found: bool = False) -> Ledger:
    """Open the ledger that `found` made; `as_found`: also where somebody edited its file."""
    keys = RealmKeys.load(directory / "keys")
    return Ledger(directory / "ledger", keys, REALM, TRUST_DOMAIN, map_gib=1, as_found=as_found)


def command(request: Message, *, epoch: int = 1, sequence: int | None = None) -> Command:
    """The registrar's command, its own id unless one is given."""
    identifier = ClientCommandId(epoch=epoch, sequence=sequence or next(_sequences))
    if "command_id" in request.DESCRIPTOR.fields_by_name:
        request.command_id.CopyFrom(identifier)  # type: ignore[attr-defined]
    return Command(
        request=request,
        principal=REGISTRAR,
        device_id=b"",
        command_id=CommandId(client=identifier),
        request_digest=sha256(request.SerializeToString(deterministic=True)).digest(),
    )
