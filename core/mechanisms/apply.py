"""What every event does: one total table over the events' oneof, and nothing beside it.

`apply` for every event ever written stays; replaying the journal through it over empty tables
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from core.errors import LedgerCorrupt
from core.ledger.tables import WritableState
from core.mechanisms.credentials import (
    apply_tag_frozen,
    apply_tag_issued,
    apply_tag_retired,
    apply_tag_unfrozen,
)
from core.mechanisms.custody import apply_custody_moved
from core.mechanisms.history import Where
from core.mechanisms.incidents import apply_alarm_raised
from core.mechanisms.personal import (
    apply_contact_changed,
    apply_contact_ended,
    apply_contact_registered,
    apply_erasure_requested,
    apply_personal_values_read,
    apply_subject_erased,
    apply_subject_keys_rewrapped,
    apply_wrapping_key_destroyed,
    apply_wrapping_key_taken,
)
from core.mechanisms.presence import apply_passage_recorded
from core.mechanisms.readlog import (
    apply_counters_kept,
    apply_read_segment_pruned,
    apply_read_segment_sealed,
)
from core.mechanisms.refusals import apply_refusals_counted
from core.mechanisms.registry import (
    apply_container_registered,
    apply_institution_registered,
    apply_portal_registered,
    apply_realm_founded,
    apply_vault_registered,
)
from jinku.event.v1.event_pb2 import Event

__all__ = ["APPLY", "Where", "apply"]

Apply = Callable[[Any, WritableState, Where], None]

APPLY: Mapping[str, Apply] = MappingProxyType(
    {
        "realm_founded": apply_realm_founded,
        "institution_registered": apply_institution_registered,
        "vault_registered": apply_vault_registered,
        "portal_registered": apply_portal_registered,
        "container_registered": apply_container_registered,
        "tag_issued": apply_tag_issued,
        "tag_frozen": apply_tag_frozen,
        "tag_unfrozen": apply_tag_unfrozen,
        "tag_retired": apply_tag_retired,
        "custody_moved": apply_custody_moved,
        "passage_recorded": apply_passage_recorded,
        "alarm_raised": apply_alarm_raised,
        "read_segment_sealed": apply_read_segment_sealed,
        "read_segment_pruned": apply_read_segment_pruned,
        "counters_kept": apply_counters_kept,
        "refusals_counted": apply_refusals_counted,
        "contact_registered": apply_contact_registered,
        "contact_changed": apply_contact_changed,
        "contact_ended": apply_contact_ended,
        "personal_values_read": apply_personal_values_read,
        "erasure_requested": apply_erasure_requested,
        "subject_erased": apply_subject_erased,
        "wrapping_key_taken": apply_wrapping_key_taken,
        "subject_keys_rewrapped": apply_subject_keys_rewrapped,
        "wrapping_key_destroyed": apply_wrapping_key_destroyed,
    }
)


def apply(event: Event, state: WritableState, where: Where) -> None:
    """Change the tables as an event says; durable when the writer's transaction commits.

    LedgerCorrupt for an event that this version does not know, or that does not fit the state it
    meets: nobody decided it here, so nothing may be built on it.
    """
    kind = event.WhichOneof("event")
    if kind is None:
        raise LedgerCorrupt(str(where), "is an event that this version does not know")
    APPLY[kind](getattr(event, kind), state, where)
