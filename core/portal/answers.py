"""What a portal is told: acknowledgements, presentations, passages, alarms. Pure, given a state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from core.ledger.ledger import Ledger
from core.ledger.tables import CONTAINERS, TAGS, VAULTS, IndexKind, State
from core.portal.alarms import Held
from core.portal.columns import U8
from core.portal.commands import reasons_of
from core.portal.tracker import Gone
from core.reasons import explain, refusal
from core.store.v1.rows_pb2 import ContainerRow, TagRow
from jinku.event.v1.event_pb2 import AlarmRaised, Events
from jinku.type.v1.command_pb2 import DurabilityLevel
from jinku.type.v1.place_pb2 import CustodyPlace
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.type.v1.tag_pb2 import Direction, GateDecision, TagState, Verdict
from jinku.v1.common_pb2 import Receipt
from jinku.v1.portal_pb2 import (
    Acknowledgement,
    Alarm,
    BatchAcknowledgement,
    BatchRejected,
    Passage,
    Presentation,
    PresentedTag,
    StreamResponse,
    VerdictCounts,
)

# Tags of one presentation; a batch with more of them is presented in parts.
PRESENTED_MAX = 256


def batch_acknowledgement(
    sequence: int,
    verdicts: U8,
    counts: Sequence[int],
    challenge_state: int,
    *,
    duplicate: bool = False,
) -> BatchAcknowledgement:
    """Counts (by number of the verdict) and the rows that are not genuine."""
    faulty = counts[Verdict.VERDICT_GENUINE] != len(verdicts)
    found = np.flatnonzero(verdicts != Verdict.VERDICT_GENUINE) if faulty else verdicts[:0]
    rows = found.astype("<u4")
    return BatchAcknowledgement(
        sequence=sequence,
        duplicate=duplicate,
        counts=_counts(counts),
        exception_row=rows.tobytes(),
        exception_verdict=verdicts[rows].tobytes(),
        challenge_state=challenge_state,  # type: ignore[arg-type]  # a number of the enum
    )


def _counts(counts: Sequence[int]) -> VerdictCounts:
    return VerdictCounts(
        genuine=counts[Verdict.VERDICT_GENUINE],
        unknown_tag=counts[Verdict.VERDICT_UNKNOWN_TAG],
        bad_evidence=counts[Verdict.VERDICT_BAD_EVIDENCE],
        replayed=counts[Verdict.VERDICT_REPLAYED],
        not_active=counts[Verdict.VERDICT_NOT_ACTIVE],
        no_evidence=counts[Verdict.VERDICT_NO_EVIDENCE],
        malformed=counts[Verdict.VERDICT_MALFORMED],
    )


def acknowledgement(
    through_sequence: int, batches: Iterable[BatchAcknowledgement]
) -> StreamResponse:
    """All up to `through_sequence` are durable on this machine."""
    return StreamResponse(
        acknowledgement=Acknowledgement(
            through_sequence=through_sequence,
            batches=batches,
            level=DurabilityLevel.DURABILITY_LEVEL_LOCAL,
        )
    )


def rejection(
    sequence: int, expected_sequence: int, reasons: Sequence[ReasonRecord]
) -> StreamResponse:
    """A batch that was not taken."""
    return StreamResponse(
        rejected=BatchRejected(
            sequence=sequence, refused=refusal(reasons), expected_sequence=expected_sequence
        )
    )


@dataclass(frozen=True, slots=True)
class Known:
    """What the registry says of an identity now."""

    tag_id: bytes
    tag: TagRow
    container: ContainerRow | None


def look_up(state: State, identity: bytes) -> Known | None:
    """Tag and box of an identity; None if nobody registered it."""
    tag_id = state.find(IndexKind.TAG_IDENTITY, identity)
    tag = state.get(TAGS, tag_id) if tag_id is not None else None
    if tag_id is None or tag is None:
        return None
    return Known(tag_id, tag, state.get(CONTAINERS, tag.container_id))


class Presenter:
    """Presents the tags of one batch, by the registry as it is now: one snapshot of it."""

    def __init__(self, ledger: Ledger, vault_id: bytes) -> None:
        self._ledger = ledger
        self._vault_id = vault_id
        # Whether a holder is a vault: boxes that come together have the same few holders.
        self._vaults: dict[bytes, bool] = {}

    def present(
        self, held: Iterable[Held], genuine: Iterable[tuple[bytes, bytes]]
    ) -> list[PresentedTag]:
        """First what must not pass, then the tags that proved themselves (identity, tag id)."""
        with self._ledger.read() as state:
            tags = [_present_held(state, one) for one in held]
            tags += [self._genuine(state, identity, tag_id) for identity, tag_id in genuine]
        return tags

    def _genuine(self, state: State, identity: bytes, tag_id: bytes) -> PresentedTag:
        tag = state.get(TAGS, tag_id)
        if tag is None:
            code = ReasonCode.REASON_CODE_TAG_UNKNOWN
            return _presented(identity, None, [ReasonRecord(code=code, item=_item(identity))])
        known = Known(tag_id, tag, state.get(CONTAINERS, tag.container_id))
        if tag.state != TagState.TAG_STATE_ACTIVE:
            frozen = tag.state == TagState.TAG_STATE_FROZEN
            code = ReasonCode.REASON_CODE_TAG_FROZEN if frozen else ReasonCode.REASON_CODE_TAG_DEAD
            record = ReasonRecord(code=code, item=_item(identity), item_id=tag_id)
            return _presented(identity, known, [record])
        if known.container is None or not self._may_be_here(state, known.container):
            label = known.container.label if known.container else _item(identity)
            code = ReasonCode.REASON_CODE_CONTAINER_OF_ANOTHER_PLACE
            record = ReasonRecord(code=code, item=label, item_id=tag.container_id)
            return _presented(identity, known, [record])
        return _presented(identity, known, [])

    def _may_be_here(self, state: State, container: ContainerRow) -> bool:
        """False if another vault has it under its roof, as far as anybody recorded."""
        custody = container.custody
        holder_id = custody.holder_id
        if custody.place != CustodyPlace.CUSTODY_PLACE_WITH_HOLDER or holder_id == self._vault_id:
            return True
        if holder_id not in self._vaults:
            self._vaults[holder_id] = state.get(VAULTS, holder_id) is not None
        return not self._vaults[holder_id]


def _item(identity: bytes) -> str:
    return identity.hex().upper()


def _present_held(state: State, held: Held) -> PresentedTag:
    """A tag that did not prove itself, or may not pass."""
    known = look_up(state, held.identity)
    tag_id, tag_state = (known.tag_id, known.tag.state) if known else (b"", 0)
    return _presented(held.identity, known, reasons_of(held, tag_state, tag_id))


def _presented(
    identity: bytes, known: Known | None, reasons: Sequence[ReasonRecord]
) -> PresentedTag:
    return PresentedTag(
        identity=identity,
        tag_id=known.tag_id if known else b"",
        container_id=known.tag.container_id if known else b"",
        container_label=known.container.label if known and known.container else "",
        decision=GateDecision.GATE_DECISION_HOLD if reasons else GateDecision.GATE_DECISION_RELEASE,
        reasons=[explain(record) for record in reasons],
    )


def presentations(sequence: int, tags: Sequence[PresentedTag]) -> list[StreamResponse]:
    """The tags newly seen in a batch, in parts; none if there are none."""
    hold = GateDecision.GATE_DECISION_HOLD
    decision = (
        hold if any(tag.decision == hold for tag in tags) else GateDecision.GATE_DECISION_RELEASE
    )
    return [
        StreamResponse(
            presentation=Presentation(
                sequence=sequence, decision=decision, tags=tags[start : start + PRESENTED_MAX]
            )
        )
        for start in range(0, len(tags), PRESENTED_MAX)
    ]


def passage(
    gone: Gone, tag_id: bytes, container_id: bytes, label: str, receipt: Receipt | None
) -> StreamResponse:
    """Which way a tag went; without a receipt for what is not journalled."""
    reasons = []
    if gone.direction == Direction.DIRECTION_UNDETERMINED:
        code = ReasonCode.REASON_CODE_PASSAGE_UNDETERMINED
        reasons.append(explain(ReasonRecord(code=code, item=label, item_id=tag_id)))
    return StreamResponse(
        passage=Passage(
            tag_id=tag_id,
            container_id=container_id,
            container_label=label,
            direction=gone.direction,  # type: ignore[arg-type]  # a number of the enum
            confidence_permille=gone.confidence_permille,
            first_read_ns=gone.first_ns,
            last_read_ns=gone.last_ns,
            reads_inner=gone.reads_inner,
            reads_outer=gone.reads_outer,
            receipt=receipt,
            reasons=reasons,
        )
    )


def alarms(
    events: Events, identity: bytes, label: str, sequence: int, receipt: Receipt
) -> list[StreamResponse]:
    """The alarms of a committed entry."""
    raised = [event.alarm_raised for event in events.events if event.HasField("alarm_raised")]
    return [StreamResponse(alarm=_alarm(one, identity, label, sequence, receipt)) for one in raised]


def _alarm(
    raised: AlarmRaised, identity: bytes, label: str, sequence: int, receipt: Receipt
) -> Alarm:
    return Alarm(
        alarm_id=raised.alarm_id,
        identity=identity,
        tag_id=raised.tag_id,
        container_label=label,
        reasons=[explain(record) for record in raised.reasons],
        seen_at_ns=raised.seen_at_ns,
        receipt=receipt,
        sequence=sequence,
        suppressed_count=raised.suppressed_count,
    )
