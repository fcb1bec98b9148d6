"""The commands of tags: issue, replace, freeze, unfreeze, retire (TAG-01, TAG-02).

Each `decide` reports every reason it finds, in the order in which it checks. Each `answer` is a
pure function of the entry.
"""

from __future__ import annotations

from collections.abc import Callable

from core.decisions import Context, Decision, Handler, reason
from core.ledger.tables import CONTAINERS, TAGS, IndexKind, State
from core.mechanisms.credentials import NONE, TagAct, refusal_of
from core.store.v1.rows_pb2 import ContainerRow
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import (
    Event,
    Events,
    TagFrozen,
    TagIssued,
    TagRetired,
    TagUnfrozen,
)
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.type.v1.tag_pb2 import TagScheme, TagState
from jinku.v1.common_pb2 import Outcome
from jinku.v1.registry_pb2 import (
    FreezeTagRequest,
    FreezeTagResponse,
    IssueTagRequest,
    IssueTagResponse,
    RetireTagRequest,
    RetireTagResponse,
    UnfreezeTagRequest,
    UnfreezeTagResponse,
)

IDENTITY_SIZES = frozenset({7, 8, 12, 16})
UID_SIZE = 7

# (issuing realm, version) of the tag masters in the arena: what can be verified here and now.
LoadedTagKeys = Callable[[], frozenset[tuple[int, int]]]

_SCHEMES = frozenset(TagScheme.values()) - {TagScheme.TAG_SCHEME_UNSPECIFIED}
_SUN = TagScheme.TAG_SCHEME_SUN


def show_identity(identity: bytes) -> str:
    """An identity as a person reads it off a reader: upper-case hexadecimal."""
    return identity.hex().upper()


def decide_issue_tag(
    request: IssueTagRequest, state: State, context: Context, loaded: frozenset[tuple[int, int]]
) -> Decision:
    """Refused if the container is not registered, has a live tag (or none to replace), the
    identity is no identity or was ever bound (TAG-02), the scheme is none, or the key is not here.

    A replacement retires the old tag and issues the new one in one entry, in this order, so that
    no state between them has two live tags or loses the history (TAG-01).
    """
    container_id, container, reasons = _container(state, request.container_label)
    reasons += _live_tag_faults(request, container_id, container)
    reasons += _identity_faults(request, state)
    identity = show_identity(request.identity)
    if request.scheme not in _SCHEMES:
        reasons.append(reason(ReasonCode.REASON_CODE_TAG_SCHEME_INVALID, identity))
    version = _key_version(request, context.realm, loaded)
    if (context.realm, version) not in loaded:
        item = f"{context.realm}-{'?' if version is None else version}"
        reasons.append(reason(ReasonCode.REASON_CODE_TAG_KEY_NOT_LOADED, item))
    if reasons:
        # Whatever is wrong, it is part of the container's history.
        for one in reasons:
            one.container_id = container_id
        return Decision(reasons=reasons)
    events = []
    replaced_id = container.live_tag_id if request.replaces else b""
    if replaced_id:
        events.append(Event(tag_retired=TagRetired(tag_id=replaced_id)))
    issued = TagIssued(
        tag_id=context.new_id(),
        institution_id=container.institution_id,
        container_id=container_id,
        identity=request.identity,
        scheme=request.scheme,
        issuing_realm=context.realm,
        key_version=version,
        replaces_tag_id=replaced_id,
    )
    events.append(Event(tag_issued=issued))
    return Decision(events=events, extras=request.extras)


def _live_tag_faults(
    request: IssueTagRequest, container_id: bytes, container: ContainerRow
) -> list[ReasonRecord]:
    """Of a container that is registered; of one that is not, nothing is known to be wrong."""
    if not container_id:
        return []
    if container.live_tag_id and not request.replaces:
        code = ReasonCode.REASON_CODE_CONTAINER_HAS_LIVE_TAG
        return [reason(code, request.container_label, container.live_tag_id)]
    if request.replaces and not container.live_tag_id:
        code = ReasonCode.REASON_CODE_CONTAINER_HAS_NO_LIVE_TAG
        return [reason(code, request.container_label, container_id)]
    return []


def _identity_faults(request: IssueTagRequest, state: State) -> list[ReasonRecord]:
    identity, item = request.identity, show_identity(request.identity)
    # A secure unique NFC message is made over a 7-byte UID: another tag could never prove itself.
    sizes = {UID_SIZE} if request.scheme == _SUN else IDENTITY_SIZES
    if len(identity) not in sizes or not any(identity):
        return [reason(ReasonCode.REASON_CODE_TAG_IDENTITY_INVALID, item)]
    tag_id = state.find(IndexKind.TAG_IDENTITY, identity)
    why = refusal_of(_tag_state(state, tag_id), TagAct.ISSUE)
    return [] if why is None else [reason(why, item, tag_id or b"")]


def _key_version(
    request: IssueTagRequest, realm: int, loaded: frozenset[tuple[int, int]]
) -> int | None:
    """The version asked for, or this realm's newest; None if it has none."""
    if request.HasField("key_version"):
        return request.key_version
    return max((version for issuer, version in loaded if issuer == realm), default=None)


def answer_issue_tag(header: EntryHeader, events: Events, outcome: Outcome) -> IssueTagResponse:
    """With the tag's id and key version, and the tag it replaced. Never its key."""
    issued = events.events[-1].tag_issued if events.events else TagIssued()
    return IssueTagResponse(
        outcome=outcome,
        tag_id=issued.tag_id,
        key_version=issued.key_version,
        replaced_tag_id=issued.replaces_tag_id,
    )


def decide_freeze_tag(request: FreezeTagRequest, state: State, context: Context) -> Decision:
    """Refused if the tag is not registered, frozen already or retired."""
    tag_id, reasons = _tag_for(request.identity, TagAct.FREEZE, state)
    if reasons:
        return Decision(reasons=reasons)
    frozen = TagFrozen(tag_id=tag_id, note=request.note)
    return Decision(events=[Event(tag_frozen=frozen)], extras=request.extras)


def answer_freeze_tag(header: EntryHeader, events: Events, outcome: Outcome) -> FreezeTagResponse:
    """The outcome says it all."""
    return FreezeTagResponse(outcome=outcome)


def decide_unfreeze_tag(request: UnfreezeTagRequest, state: State, context: Context) -> Decision:
    """Refused if the tag is not registered, not frozen or retired."""
    tag_id, reasons = _tag_for(request.identity, TagAct.UNFREEZE, state)
    if reasons:
        return Decision(reasons=reasons)
    unfrozen = TagUnfrozen(tag_id=tag_id, note=request.note)
    return Decision(events=[Event(tag_unfrozen=unfrozen)], extras=request.extras)


def answer_unfreeze_tag(
    header: EntryHeader, events: Events, outcome: Outcome
) -> UnfreezeTagResponse:
    """The outcome says it all."""
    return UnfreezeTagResponse(outcome=outcome)


def decide_retire_tag(request: RetireTagRequest, state: State, context: Context) -> Decision:
    """Refused if the tag is not registered or retired already. A frozen tag may be retired."""
    tag_id, reasons = _tag_for(request.identity, TagAct.RETIRE, state)
    if reasons:
        return Decision(reasons=reasons)
    retired = TagRetired(tag_id=tag_id, note=request.note)
    return Decision(events=[Event(tag_retired=retired)], extras=request.extras)


def answer_retire_tag(header: EntryHeader, events: Events, outcome: Outcome) -> RetireTagResponse:
    """The outcome says it all."""
    return RetireTagResponse(outcome=outcome)


def _tag_state(state: State, tag_id: bytes | None) -> TagState:
    row = None if tag_id is None else state.get(TAGS, tag_id)
    return NONE if row is None else row.state


def _tag_for(identity: bytes, act: TagAct, state: State) -> tuple[bytes, list[ReasonRecord]]:
    """The tag of an identity, and why the act is not possible."""
    tag_id = state.find(IndexKind.TAG_IDENTITY, identity)
    why = refusal_of(_tag_state(state, tag_id), act)
    if why is None:
        return tag_id or b"", []
    return b"", [reason(why, show_identity(identity), tag_id or b"")]


def _container(state: State, label: str) -> tuple[bytes, ContainerRow, list[ReasonRecord]]:
    container_id = state.find(IndexKind.CONTAINER_LABEL, label.encode())
    container = None if container_id is None else state.get(CONTAINERS, container_id)
    if container_id is None or container is None:
        why = [reason(ReasonCode.REASON_CODE_CONTAINER_NOT_REGISTERED, label)]
        return b"", ContainerRow(), why
    return container_id, container, []


def tag_handlers(loaded_keys: LoadedTagKeys) -> list[Handler]:
    """The commands of tags. `loaded_keys` is asked for each tag that is issued, in the writer's
    thread; replay asks nobody, for it reads events.
    """

    def decide_issue(request: IssueTagRequest, state: State, context: Context) -> Decision:
        return decide_issue_tag(request, state, context, loaded_keys())

    return [
        Handler(IssueTagRequest, decide_issue, answer_issue_tag),
        Handler(FreezeTagRequest, decide_freeze_tag, answer_freeze_tag),
        Handler(UnfreezeTagRequest, decide_unfreeze_tag, answer_unfreeze_tag),
        Handler(RetireTagRequest, decide_retire_tag, answer_retire_tag),
    ]
