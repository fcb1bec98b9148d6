"""The commands that reads cause, and handing them to the sequencer a bounded number at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from google.protobuf.message import Message

from core.errors import DecideFailed, QueueFull
from core.portal.alarms import Held
from core.portal.tracker import Gone
from core.readlog.segments import Segment
from core.sequencer import Command, Committed
from core.store.v1.commands_pb2 import (
    KeepCounters,
    PruneReadSegment,
    RaisePortalAlarm,
    RecordPassage,
    SealReadSegment,
)
from core.suppressed import Suppressed
from jinku.type.v1.command_pb2 import (
    CommandId,
    CountersCommandId,
    PassageCommandId,
    PassageStage,
    SegmentCommandId,
    SegmentStep,
)
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.type.v1.tag_pb2 import TagState, Verdict

# Commands of one portal at the sequencer at a time; the rest wait here.
SUBMITTED_MAX: Final = 64

CAUSES: Final[dict[int, ReasonCode]] = {
    # Genuine, and there was no room to follow it.
    Verdict.VERDICT_GENUINE: ReasonCode.REASON_CODE_PASSAGE_UNDETERMINED,
    Verdict.VERDICT_UNKNOWN_TAG: ReasonCode.REASON_CODE_TAG_UNKNOWN,
    Verdict.VERDICT_BAD_EVIDENCE: ReasonCode.REASON_CODE_TAG_EVIDENCE_FORGED,
    Verdict.VERDICT_REPLAYED: ReasonCode.REASON_CODE_TAG_EVIDENCE_REPLAYED,
    Verdict.VERDICT_NOT_ACTIVE: ReasonCode.REASON_CODE_TAG_FROZEN,
    Verdict.VERDICT_NO_EVIDENCE: ReasonCode.REASON_CODE_TAG_NO_EVIDENCE,
}


def cause_of(verdict: int, tag_state: int) -> ReasonCode:
    """Why a read of this verdict holds the tag; a dead tag is told from a frozen one."""
    if verdict == Verdict.VERDICT_NOT_ACTIVE and tag_state == TagState.TAG_STATE_RETIRED:
        return ReasonCode.REASON_CODE_TAG_DEAD
    return CAUSES[verdict]


def reasons_of(held: Held, tag_state: int, tag_id: bytes = b"") -> list[ReasonRecord]:
    """Why a tag is held, one reason per cause; the item is its identity in hexadecimal."""
    return [
        ReasonRecord(
            code=cause_of(verdict, tag_state), item=held.identity.hex().upper(), item_id=tag_id
        )
        for verdict in held.causes
    ]


class Submitter(Protocol):
    """What is used of the sequencer."""

    def submit(self, command: Command) -> Future[Committed]: ...


@dataclass(frozen=True, slots=True)
class CommandMaker:
    """Makes a portal's commands. The same reads make the same command id, also after a crash."""

    principal: str
    portal_id: bytes
    portal_name: str

    def alarm(
        self, epoch: int, sequence: int, tag: bytes, held: Held, reasons: list[ReasonRecord]
    ) -> Command:
        """An alarm about one identity. `tag` is the tag's id or the identity's blinded digest."""
        request = RaisePortalAlarm(
            portal_id=self.portal_id,
            identity=held.identity,
            reasons=reasons,
            seen_at_ns=held.seen_at_ns,
        )
        stage = PassageStage.PASSAGE_STAGE_PRESENTATION
        return self._command(request, epoch, tag, sequence, stage)

    def summary(self, epoch: int, suppressed: Suppressed, seen_at_ns: int) -> Command:
        """One alarm that stands for those suppressed."""
        record = ReasonRecord(code=ReasonCode.REASON_CODE_ALARMS_SUPPRESSED, item=self.portal_name)
        request = RaisePortalAlarm(
            portal_id=self.portal_id,
            reasons=[record],
            seen_at_ns=seen_at_ns,
            suppressed_count=suppressed.count,
            suppressed_digest=suppressed.digest,
        )
        stage = PassageStage.PASSAGE_STAGE_PRESENTATION
        return self._command(request, epoch, suppressed.digest, suppressed.from_sequence, stage)

    def passage(self, epoch: int, tag_id: bytes, gone: Gone) -> Command:
        """What became of a tag that is gone.

        Within one batch a tag can come twice: only a track that began in the batch's first window
        of time is named by the tag alone.
        """
        window = gone.birth.window
        tag = tag_id + window.to_bytes(4, "big") if window else tag_id
        request = RecordPassage(
            portal_id=self.portal_id,
            tag_id=tag_id,
            direction=gone.direction,  # type: ignore[arg-type]  # a number of the enum
            confidence_permille=gone.confidence_permille,
            first_read_ns=gone.first_ns,
            last_read_ns=gone.last_ns,
            reads_inner=gone.reads_inner,
            reads_outer=gone.reads_outer,
            portal_epoch=epoch,
            first_sequence=gone.birth.sequence,
            last_sequence=gone.last_sequence,
        )
        stage = PassageStage.PASSAGE_STAGE_PASSAGE
        return self._command(request, epoch, tag, gone.birth.sequence, stage)

    def seal_segment(self, epoch: int, segment: Segment) -> Command:
        """A run of batches is complete."""
        request = SealReadSegment(
            portal_id=self.portal_id,
            portal_epoch=epoch,
            first_sequence=segment.first_sequence,
            last_sequence=segment.last_sequence,
            reads=segment.reads,
            digest=segment.digest,
            first_received_ns=segment.first_received_ns,
            last_received_ns=segment.last_received_ns,
            first_turn=segment.first_turn,
            end_turn=segment.end_turn,
            counter_batches=segment.counter_batches,
        )
        step = SegmentStep.SEGMENT_STEP_SEAL
        return self._own(request, self._segment_id(epoch, segment.first_sequence, step))

    def prune_segment(
        self, epoch: int, first_sequence: int, retention_days: int, retention_article: str
    ) -> Command:
        """A run of batches was kept long enough."""
        request = PruneReadSegment(
            portal_id=self.portal_id,
            portal_epoch=epoch,
            first_sequence=first_sequence,
            retention_days=retention_days,
            retention_article=retention_article,
        )
        step = SegmentStep.SEGMENT_STEP_PRUNE
        return self._own(request, self._segment_id(epoch, first_sequence, step))

    def keep_counters(self, turn: int, tags: int, digest: bytes) -> Command:
        """The counters as they were before the batches that are kept."""
        request = KeepCounters(turn=turn, tags=tags, digest=digest)
        return self._own(request, CommandId(counters=CountersCommandId(turn=turn)))

    def _segment_id(self, epoch: int, first_sequence: int, step: SegmentStep) -> CommandId:
        segment = SegmentCommandId(
            portal_id=self.portal_id, portal_epoch=epoch, first_sequence=first_sequence, step=step
        )
        return CommandId(segment=segment)

    def _command(
        self, request: Message, epoch: int, tag: bytes, sequence: int, stage: PassageStage
    ) -> Command:
        passage = PassageCommandId(
            portal_id=self.portal_id,
            portal_epoch=epoch,
            tag=tag,
            first_sequence=sequence,
            stage=stage,
        )
        return self._own(request, CommandId(passage=passage))

    def _own(self, request: Message, command_id: CommandId) -> Command:
        return Command(
            request=request,
            principal=self.principal,
            device_id=self.portal_id,
            command_id=command_id,
        )


# Told of the committed command, in the thread that calls `Dispatcher.done`.
Done = Callable[[Committed], None]


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that the sequencer is through with, and who wants to know."""

    future: Future[Committed]
    done: Done


class Dispatcher:
    """Feeds commands to the sequencer in order; bounded there, and told of in the owner's thread.

    Used by one thread; what is finished is handed to `arrived` in the writer's.
    """

    def __init__(
        self,
        sequencer: Submitter,
        arrived: Callable[[Finished], None],
        on_incident: Callable[[BaseException], None],
    ) -> None:
        """`on_incident` is told of a procedure that raised: its command is not journalled and stays
        outstanding, so that the next start makes it again."""
        self._on_incident = on_incident
        self._sequencer = sequencer
        self._hand_over = arrived
        self._waiting: deque[tuple[Command, Done]] = deque()
        self._submitted = 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is at the sequencer."""
        return not self._waiting and not self._submitted

    @property
    def waiting(self) -> int:
        """How many commands are not at the sequencer yet."""
        return len(self._waiting)

    @property
    def blocked(self) -> bool:
        """Whether something waits although there is room: the sequencer's queue was full."""
        return bool(self._waiting) and self._submitted < SUBMITTED_MAX

    def add(self, command: Command, done: Done) -> None:
        """Queue a command; `pump` submits it."""
        self._waiting.append((command, done))

    def pump(self) -> None:
        """Submit what there is room for. Raises LedgerStopped if the sequencer has stopped."""
        while self._waiting and self._submitted < SUBMITTED_MAX:
            command, done = self._waiting[0]
            try:
                future = self._sequencer.submit(command)
            except QueueFull:
                return
            self._waiting.popleft()
            self._submitted += 1
            future.add_done_callback(partial(self._arrived, done))

    def _arrived(self, done: Done, future: Future[Committed]) -> None:
        """In the writer's thread."""
        self._hand_over(Finished(future, done))

    def done(self, finished: Finished) -> None:
        """Take note of a finished command. Raises LedgerStopped if its outcome is unknown."""
        self._submitted -= 1
        try:
            committed = finished.future.result()
        except DecideFailed as error:
            self._on_incident(error)
            return
        finished.done(committed)
