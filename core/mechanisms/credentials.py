"""Tags: one live tag, one container, and a life that ends once (TAG-01, TAG-02).

The life is one total table: every (state, act) pair says what becomes of the tag, or why not.
Deciding reads it to refuse, applying reads it again to be sure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from core.errors import LedgerCorrupt
from core.ledger.tables import CONTAINERS, TAGS, IndexKind, WritableState
from core.mechanisms.history import Where, need, need_new, remember
from core.store.v1.rows_pb2 import TagRow
from jinku.event.v1.event_pb2 import TagFrozen, TagIssued, TagRetired, TagUnfrozen
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.type.v1.tag_pb2 import TagState

NONE = TagState.TAG_STATE_UNSPECIFIED
ACTIVE = TagState.TAG_STATE_ACTIVE
FROZEN = TagState.TAG_STATE_FROZEN
RETIRED = TagState.TAG_STATE_RETIRED


class TagAct(StrEnum):
    """What can be done to a tag."""

    ISSUE = "issue"
    FREEZE = "freeze"
    UNFREEZE = "unfreeze"
    RETIRE = "retire"

    # An enumeration's own goes through Python; every transition is looked up by it.
    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class Illegal:
    """In the table of transitions: why there is none."""

    why: ReasonCode


_BOUND = Illegal(ReasonCode.REASON_CODE_TAG_ALREADY_BOUND)
_NOT_REGISTERED = Illegal(ReasonCode.REASON_CODE_TAG_NOT_REGISTERED)
_ALREADY_FROZEN = Illegal(ReasonCode.REASON_CODE_TAG_ALREADY_FROZEN)
_NOT_FROZEN = Illegal(ReasonCode.REASON_CODE_TAG_NOT_FROZEN)
_RETIRED = Illegal(ReasonCode.REASON_CODE_TAG_RETIRED)

# TAG_STATE_UNSPECIFIED is the state of an identity that no tag ever had.
TRANSITIONS: Mapping[tuple[TagState, TagAct], TagState | Illegal] = MappingProxyType(
    {
        (NONE, TagAct.ISSUE): ACTIVE,
        (NONE, TagAct.FREEZE): _NOT_REGISTERED,
        (NONE, TagAct.UNFREEZE): _NOT_REGISTERED,
        (NONE, TagAct.RETIRE): _NOT_REGISTERED,
        (ACTIVE, TagAct.ISSUE): _BOUND,
        (ACTIVE, TagAct.FREEZE): FROZEN,
        (ACTIVE, TagAct.UNFREEZE): _NOT_FROZEN,
        (ACTIVE, TagAct.RETIRE): RETIRED,
        (FROZEN, TagAct.ISSUE): _BOUND,
        (FROZEN, TagAct.FREEZE): _ALREADY_FROZEN,
        (FROZEN, TagAct.UNFREEZE): ACTIVE,
        (FROZEN, TagAct.RETIRE): RETIRED,
        (RETIRED, TagAct.ISSUE): _BOUND,
        (RETIRED, TagAct.FREEZE): _RETIRED,
        (RETIRED, TagAct.UNFREEZE): _RETIRED,
        (RETIRED, TagAct.RETIRE): _RETIRED,
    }
)


def refusal_of(state: TagState, act: TagAct) -> ReasonCode | None:
    """Why an act is not possible in a state; None if it is."""
    outcome = TRANSITIONS[state, act]
    return outcome.why if isinstance(outcome, Illegal) else None


def apply_tag_issued(event: TagIssued, state: WritableState, where: Where) -> None:
    """A live tag on a container that has none; its identity is bound for ever."""
    need_new(state, TAGS, event.tag_id, where)
    container = need(state, CONTAINERS, event.container_id, where)
    if container.live_tag_id:
        raise LedgerCorrupt(str(where), "binds a second live tag to a container")
    if state.find(IndexKind.TAG_IDENTITY, event.identity) is not None:
        raise LedgerCorrupt(str(where), "binds an identity a second time")
    row = TagRow(
        institution_id=event.institution_id,
        container_id=event.container_id,
        identity=event.identity,
        scheme=event.scheme,
        state=ACTIVE,
        issuing_realm=event.issuing_realm,
        key_version=event.key_version,
    )
    state.put(TAGS, event.tag_id, row)
    state.bind(IndexKind.TAG_IDENTITY, event.identity, event.tag_id)
    container.live_tag_id = event.tag_id
    container.tag_ids.append(event.tag_id)
    state.put(CONTAINERS, event.container_id, container)
    remember(state, where, event.institution_id, event.tag_id, event.container_id)


def apply_tag_frozen(event: TagFrozen, state: WritableState, where: Where) -> None:
    """The tag opens no gate until it is unfrozen; it is live all the same."""
    _move(event.tag_id, TagAct.FREEZE, state, where)


def apply_tag_unfrozen(event: TagUnfrozen, state: WritableState, where: Where) -> None:
    """The freeze is over."""
    _move(event.tag_id, TagAct.UNFREEZE, state, where)


def apply_tag_retired(event: TagRetired, state: WritableState, where: Where) -> None:
    """The tag is dead for ever, and its container has no live tag."""
    row = _move(event.tag_id, TagAct.RETIRE, state, where)
    container = need(state, CONTAINERS, row.container_id, where)
    if container.live_tag_id != event.tag_id:
        raise LedgerCorrupt(str(where), "retires a tag that is not its container's live one")
    container.live_tag_id = b""
    state.put(CONTAINERS, row.container_id, container)


def _move(tag_id: bytes, act: TagAct, state: WritableState, where: Where) -> TagRow:
    row = need(state, TAGS, tag_id, where)
    outcome = TRANSITIONS[row.state, act]
    if isinstance(outcome, Illegal):
        raise LedgerCorrupt(str(where), f"{act} of a tag that is {TagState.Name(row.state)}")
    row.state = outcome
    state.put(TAGS, tag_id, row)
    remember(state, where, row.institution_id, tag_id, row.container_id)
    return row
