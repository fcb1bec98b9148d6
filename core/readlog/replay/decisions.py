"""What followed from stored reads, decided again and compared with the journal: passages and alarms.

A portal's tracks are followed as they were, batch by batch: they end where the stored batches end them,
or where a batch says that time alone had. Where the tracks were made again after a restart, they are
here, too, from the same batches without the reads of what the journal had decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from core.errors import LedgerCorrupt
from core.kernels import UNKNOWN_NUMBER
from core.ledger.ledger import Ledger
from core.ledger.tables import COMMANDS, IndexKind, State
from core.portal.alarms import Separator
from core.portal.columns import U8, U32
from core.portal.commands import CAUSES, CommandMaker
from core.portal.tracker import (
    EVERYTHING_NS,
    NO_VERDICT,
    Gone,
    Tracker,
    leave_out_decided,
)
from core.readlog.layout import Block, Position
from core.readlog.replay.batches import Batch
from core.readlog.replay.report import Report
from core.readlog.replay.tags import TagsThen
from core.readlog.stored import StoredReads
from core.readlog.terms import parse_terms
from core.store.v1.reads_pb2 import ReadTerms
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import AlarmRaised, Event, Events, PassageRecorded
from jinku.type.v1.command_pb2 import CommandId, PassageCommandId, PassageStage
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.type.v1.tag_pb2 import Direction, Verdict

Progress = Callable[[str, int, int], None]

_FAULTLESS: Final = (Verdict.VERDICT_GENUINE, Verdict.VERDICT_MALFORMED)
_WITHOUT_NUMBER: Final = (Verdict.VERDICT_UNKNOWN_TAG, Verdict.VERDICT_MALFORMED)
_PASSAGE: Final = PassageStage.PASSAGE_STAGE_PASSAGE
_PRESENTATION: Final = PassageStage.PASSAGE_STAGE_PRESENTATION
_VERDICTS: Final[dict[int, int]] = {
    **{int(code): verdict for verdict, code in CAUSES.items()},
    int(ReasonCode.REASON_CODE_TAG_DEAD): int(Verdict.VERDICT_NOT_ACTIVE),
}
_TELL_EVERY: Final = 4096
_REMEMBERED_MAX: Final = 65_536


@dataclass(slots=True)
class _Follower:
    """One epoch of one portal."""

    batch: Batch  # the last one
    tracker: Tracker
    position: Position
    # Batches from this one on are here; decisions on reads until then may rest on ones that are not.
    first_sequence: int
    unsure_until_ns: int
    # Last read of the last passage that the journal has, by number of the tag.
    decided: dict[int, int] = field(default_factory=dict)
    # Identities of batches with a new cause and no alarm: they must have been counted.
    uncounted: int = 0

    @property
    def where(self) -> str:
        return f"read log, portal {self.batch.portal}, epoch {self.batch.epoch}"


class _Repeats:
    """When a cause was last new at an identity, at one portal."""

    def __init__(self, begun_ns: int) -> None:
        # Whether what comes soon after is new rests on reads that are not here.
        self._begun_ns = begun_ns
        self._last: dict[tuple[bytes, int], int] = {}

    def alarmed(self, identity: bytes, cause: int, received_ns: int) -> None:
        self._last[identity, cause] = received_ns

    def is_new(self, identity: bytes, cause: int, received_ns: int, repeat_ns: int) -> bool:
        """Whether it is, for sure; if so it is not for some time."""
        if received_ns < self._last.get((identity, cause), self._begun_ns) + repeat_ns:
            return False
        if len(self._last) >= _REMEMBERED_MAX:
            self._last = {
                key: at_ns for key, at_ns in self._last.items() if received_ns < at_ns + repeat_ns
            }
        self._last[identity, cause] = received_ns
        return True


class Decisions:
    """Follows all portals at once."""

    def __init__(
        self,
        ledger: Ledger,
        state: State,
        read_log: StoredReads,
        principal: str,
        tags: TagsThen,
        report: Report,
    ) -> None:
        self._ledger = ledger
        self._state = state
        self._log = read_log
        self._principal = principal
        self._tags = tags
        self._report = report
        self._separator = Separator()
        self._followers: dict[tuple[bytes, int], _Follower] = {}
        self._repeats: dict[bytes, _Repeats] = {}
        self._terms: dict[bytes, ReadTerms] = {}
        # Entries of passages and alarms that stored reads make.
        self._derived = bytearray(ledger.size)

    # -- following -------------------------------------------------------------------------------

    def follow(self, batch: Batch, numbers: U32) -> None:
        """The portal's next batch, its verdicts proven."""
        basis = batch.block.basis
        terms = self._terms_of(basis.terms)
        one = self._followers.get((batch.portal_id, batch.epoch))
        if one is None:
            one = self._begin(batch, terms)
        elif basis.restored:
            self._restore(one, batch, terms)
        one.batch = batch
        gone: list[Gone] = []
        if basis.quiet_before_ns:
            gone = one.tracker.finish(basis.quiet_before_ns, batch.sequence - 1)
        seen = one.tracker.observe(
            batch.sequence, batch.block.columns, batch.block.verdicts, numbers
        )
        for track in gone + seen.gone:
            self._check_passage(one, track)
        self._check_alarms(one, batch, numbers, seen.left_out, terms)

    def _terms_of(self, digest: bytes) -> ReadTerms:
        if digest not in self._terms:
            self._terms[digest] = parse_terms(self._log.terms(digest) or b"")
        return self._terms[digest]

    def _begin(self, batch: Batch, terms: ReadTerms) -> _Follower:
        position = self._log.position(batch.portal_id)
        assert position is not None
        unsure_until_ns = 0
        if batch.sequence > 1:
            first_ns = batch.block.columns.first_ns
            unsure_until_ns = first_ns + terms.time_back_ns + terms.quiet_ns
        follower = _Follower(batch, _tracker(terms), position, batch.sequence, unsure_until_ns)
        self._followers[batch.portal_id, batch.epoch] = follower
        self._repeats.setdefault(batch.portal_id, _Repeats(batch.block.received_ns))
        return follower

    def _restore(self, one: _Follower, batch: Batch, terms: ReadTerms) -> None:
        """Tracks are made again as a start makes them: without what the journal had decided."""
        undecided = []
        for track in one.tracker.finish(EVERYTHING_NS, batch.sequence - 1):
            _, event = self._find_passage(one, track) or (0, None)
            # It may have gone on afterwards.
            if event is not None and event.last_sequence < batch.sequence:
                self._check_passage(one, track)
            else:
                undecided.append(track.birth.sequence)
        one.tracker = _tracker(terms)
        if not undecided:
            return
        stored = self._log.batches(batch.portal_id, batch.epoch, min(undecided))
        for sequence, block in stored:
            if sequence >= batch.sequence:
                return
            numbers = self._numbers(block, terms)
            if block.basis.quiet_before_ns:
                one.tracker.finish(block.basis.quiet_before_ns, sequence - 1)
            verdicts = np.where(numbers == UNKNOWN_NUMBER, np.uint8(NO_VERDICT), block.verdicts)
            verdicts = leave_out_decided(block.columns, verdicts, numbers, one.decided)
            one.tracker.observe(sequence, block.columns, verdicts, numbers)

    def _numbers(self, block: Block, terms: ReadTerms) -> U32:
        """As a start finds them: not of tags whose master was not loaded any more."""
        numbers = self._tags.index.find_many(block.columns.identity)
        unknown = np.isin(block.verdicts, _WITHOUT_NUMBER) | (numbers == UNKNOWN_NUMBER)
        loaded = {(one.issuing_realm, one.key_version) for one in terms.masters}
        is_loaded = np.array([one in loaded for one in self._tags.masters], bool)
        unknown[~unknown] = ~is_loaded[self._tags.master_of(numbers[~unknown])]
        numbers[unknown] = UNKNOWN_NUMBER
        return numbers

    # -- passages --------------------------------------------------------------------------------

    def _check_passage(self, one: _Follower, track: Gone) -> None:
        """A tag is gone: the journal has that passage, or none if there was none to be journalled."""
        if track.first_ns <= one.unsure_until_ns:
            self._report.passages_cut_off += 1
            return
        where = f"{one.where}, batch {track.birth.sequence}"
        found = self._find_passage(one, track)
        if track.direction == Direction.DIRECTION_STRAY:
            if found is not None:
                raise LedgerCorrupt(
                    where, f"entry {found[0]} is a passage, and its reads a stray tag's"
                )
            return
        if found is None:
            if not self._is_pending(one, track.birth.sequence, one.position.replay_from):
                name = Direction.Name(track.direction)
                raise LedgerCorrupt(
                    where, f"its reads make a passage {name}, and there is no entry"
                )
            self._report.pending += 1
            return
        index, event = found
        if event is None:
            # The service had found that the journal knows these reads already.
            return
        self._compare_passage(index, event, track, where)
        one.decided[track.number] = track.last_ns
        self._mark(index)
        self._report.passages += 1

    def _compare_passage(self, index: int, event: PassageRecorded, track: Gone, where: str) -> None:
        names = (
            "direction", "confidence_permille", "first_read_ns", "last_read_ns", "reads_inner",
            "reads_outer", "last_sequence",
        )  # fmt: skip
        derived = (
            track.direction, track.confidence_permille, track.first_ns, track.last_ns,
            track.reads_inner, track.reads_outer, track.last_sequence,
        )  # fmt: skip
        for name, value in zip(names, derived, strict=True):
            stored = getattr(event, name)
            if stored != value:
                raise LedgerCorrupt(
                    where, f"entry {index} says {name} {stored}, and its reads make it {value}"
                )

    def _find_passage(
        self, one: _Follower, track: Gone
    ) -> tuple[int, PassageRecorded | None] | None:
        """Entry and event of a passage of this track; no event: it was known by then."""
        maker = CommandMaker(self._principal, one.batch.portal_id, one.batch.portal)
        tag_id = self._tags.tag_id(track.number)
        found = self._look_up(maker.passage(one.batch.epoch, tag_id, track).command_id)
        if found is None:
            return None
        index, events = found
        for event in events:
            if event.HasField("passage_recorded"):
                return index, event.passage_recorded
        return index, None

    # -- alarms ----------------------------------------------------------------------------------

    def _check_alarms(
        self, one: _Follower, batch: Batch, numbers: U32, left_out: U32, terms: ReadTerms
    ) -> None:
        """Every alarm of the batch rests on its reads; and of what must not pass nothing is left without
        an alarm that neither repeats one nor can have been counted.
        """
        verdicts, received_ns = batch.block.verdicts, batch.block.received_ns
        if not (~np.isin(verdicts, _FAULTLESS)).any() and not len(left_out):
            return
        found = self._separator.separate(batch.block.columns, verdicts, numbers, left_out)
        repeats = self._repeats[batch.portal_id]
        pending = self._is_pending(one, batch.sequence, one.position.alarms_from)
        for held in found.held:
            raised = self._raised(one, batch, held.identity, held.number)
            for index, event in raised:
                causes = {_VERDICTS.get(reason.code, 0) for reason in event.reasons}
                if not causes.issubset(held.causes) or event.seen_at_ns != held.seen_at_ns:
                    raise LedgerCorrupt(str(batch), f"entry {index} is an alarm that no read makes")
                for cause in causes:
                    repeats.alarmed(held.identity, cause, received_ns)
                self._mark(index)
                self._report.alarms += 1
            new = [
                cause
                for cause in held.causes
                if repeats.is_new(held.identity, cause, received_ns, terms.alarm_repeat_ns)
            ]
            # Without room to follow them, tags are left out otherwise after a restart.
            one.uncounted += not pending and any(cause != Verdict.VERDICT_GENUINE for cause in new)
        if not pending:
            one.uncounted += found.further

    def _raised(
        self, one: _Follower, batch: Batch, identity: bytes, number: int
    ) -> list[tuple[int, AlarmRaised]]:
        """Entries and events of the alarms about an identity in a batch: at most one."""
        # A tag may have been registered after the batch was judged and before that was settled.
        known = self._state.find(IndexKind.TAG_IDENTITY, identity)
        if number != UNKNOWN_NUMBER:
            known = self._tags.tag_id(number)
        for tag in filter(None, (known, self._state.blind("portal-alarm", identity))):
            command_id = PassageCommandId(
                portal_id=batch.portal_id, portal_epoch=batch.epoch, tag=tag,
                first_sequence=batch.sequence, stage=_PRESENTATION,
            )  # fmt: skip
            found = self._look_up(CommandId(passage=command_id))
            if found is not None:
                index, events = found
                return [
                    (index, event.alarm_raised)
                    for event in events
                    if event.HasField("alarm_raised")
                ]
        return []

    # -- the journal -----------------------------------------------------------------------------

    def _look_up(self, command_id: CommandId) -> tuple[int, list[Event]] | None:
        row = self._state.get(COMMANDS, self._state.command_key(self._principal, command_id))
        if row is None:
            return None
        entry = self._ledger.entry(row.entry_index)
        return row.entry_index, list(Events.FromString(entry.events).events)

    def _is_pending(self, one: _Follower, sequence: int, pending_from: int) -> bool:
        """Whether the next start would decide it: it may not be journalled yet."""
        return one.batch.epoch == one.position.epoch and sequence >= pending_from

    def _mark(self, index: int) -> None:
        self._derived[index] = 1

    def finish(self, progress: Progress) -> None:
        """All batches were followed: what is still open, and whether the journal has anything else.

        LedgerCorrupt names a passage or an alarm that no stored reads make.
        """
        for one in self._followers.values():
            ended = one.batch.epoch < one.position.epoch
            for track in one.tracker.finish(EVERYTHING_NS, one.batch.sequence):
                if ended or self._find_passage(one, track) is not None:
                    self._check_passage(one, track)
        counted: dict[tuple[bytes, int], int] = {}
        total = self._ledger.size
        for index, entry in self._ledger.entries():
            header = EntryHeader.FromString(entry.header)
            if header.command_id.HasField("passage") and not self._derived[index]:
                self._check_entry(index, header.command_id.passage, entry.events, counted)
            if index % _TELL_EVERY == 0:
                progress("journal", index, total)
        progress("journal", total, total)
        for key, one in self._followers.items():
            waiting = one.position.suppressed_count if key[1] == one.position.epoch else 0
            if one.uncounted > counted.get(key, 0) + waiting:
                raise LedgerCorrupt(
                    one.where,
                    f"{one.uncounted} alarms of its reads are not journalled, and "
                    f"{counted.get(key, 0) + waiting} were counted",
                )

    def _check_entry(
        self,
        index: int,
        command_id: PassageCommandId,
        events: bytes,
        counted: dict[tuple[bytes, int], int],
    ) -> None:
        key = (command_id.portal_id, command_id.portal_epoch)
        one = self._followers.get(key)
        if one is None:
            return
        for event in Events.FromString(events).events:
            if command_id.stage == _PASSAGE and event.HasField("passage_recorded"):
                passage = event.passage_recorded
                here = command_id.first_sequence >= one.first_sequence
                if here and passage.first_read_ns > one.unsure_until_ns:
                    raise LedgerCorrupt(
                        f"{one.where}, batch {command_id.first_sequence}",
                        f"entry {index} is a passage that no reads make",
                    )
            elif command_id.stage == _PRESENTATION and event.HasField("alarm_raised"):
                alarm = event.alarm_raised
                if alarm.suppressed_count:
                    counted[key] = counted.get(key, 0) + alarm.suppressed_count
                elif command_id.first_sequence >= one.first_sequence:
                    raise LedgerCorrupt(
                        f"{one.where}, batch {command_id.first_sequence}",
                        f"entry {index} is an alarm that no read makes",
                    )


def _tracker(terms: ReadTerms) -> Tracker:
    sides: U8 = np.frombuffer(terms.sides, np.uint8)
    return Tracker(terms.tracks_max, sides, terms.quiet_ns)
