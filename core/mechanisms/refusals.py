"""What the journal knows of refusals that have no entry of their own (HND-26)."""

from __future__ import annotations

from core.ledger.tables import WritableState
from core.mechanisms.history import Where, remember
from jinku.event.v1.event_pb2 import RefusalsCounted


def apply_refusals_counted(event: RefusalsCounted, state: WritableState, where: Where) -> None:
    """In the history of the device or service that was refused."""
    remember(state, where, b"", event.device_id)
