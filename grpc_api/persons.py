"""What a service opens to keep persons' values, and to erase them."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from core.ledger.ledger import Ledger
from core.ledger.tables import REALM_KEY, WRAPPING
from core.personal.eraser import Eraser, EraserParts
from core.personal.office import Office
from core.personal.wrapping import WrappingKeys
from core.sequencer import Sequencer
from core.settings import Settings
from core.store.v1.personal_pb2 import WrappingRow

log = structlog.get_logger()


def open_wrapping_keys(settings: Settings, ledger: Ledger, *, own: bool) -> WrappingKeys:
    """The realm's wrapping keys; `own` as they take it. KeyFileError if the ledger's is missing."""
    with ledger.read() as state:
        taken = state.get(WRAPPING, REALM_KEY) or WrappingRow()
    return WrappingKeys.open(settings.keys.directory, ledger.realm, taken, own=own)


def open_office(settings: Settings, ledger: Ledger) -> Office:
    """What the commands about persons share."""
    keys = open_wrapping_keys(settings, ledger, own=True)
    return Office(ledger, keys, settings.personal)


def open_eraser(
    office: Office,
    sequencer: Sequencer,
    principal: str,
    on_incident: Callable[[BaseException], object],
) -> Eraser:
    """What completes erasures; to be started."""
    parts = EraserParts(
        ledger=office.ledger,
        keys=office.keys,
        sequencer=sequencer,
        principal=principal,
        on_incident=on_incident,
        on_replaced=_tell_replaced,
    )
    return Eraser(parts)


def _tell_replaced(generation: int) -> None:
    log.warning(
        "the wrapping key was replaced: run `jinkud backup-keys`, and destroy every older copy of "
        "keys.directory; until then no erasure is complete outside of this machine",
        generation=generation,
    )
