"""One portal, from stream to stream: where it stands, what it sees, what is left to decide.

Everything here survives a crash: it is in the read log, or follows from it and the journal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from core.errors import QueueFull
from core.kernels import UNKNOWN_NUMBER, verify_batch
from core.ledger.tables import PASSAGES
from core.portal.alarms import AlarmBook, Batch, Held
from core.portal.columns import U8, U32, Columns
from core.portal.commands import CommandMaker
from core.portal.parts import Parts
from core.portal.tracker import NO_VERDICT, Gone, Outstanding, Tracker, leave_out_decided
from core.readlog.layout import Basis, Block, Position
from core.readlog.log import counters_of
from core.readlog.segments import OpenSegment, Stored
from core.readlog.terms import terms_of
from core.sequencer import Committed
from core.store.v1.rows_pb2 import PortalRow
from core.suppressed import Suppressed
from jinku.type.v1.tag_pb2 import Verdict
from jinku.v1.portal_pb2 import ChallengeState

_NS_PER_MS: Final = 1_000_000
_WITHOUT_NUMBER: Final = (Verdict.VERDICT_UNKNOWN_TAG, Verdict.VERDICT_MALFORMED)


@dataclass(frozen=True, slots=True)
class Use:
    """What of a portal is in use during a stream, as its Hello said."""

    known_antennas: U8  # (256,) 1 where the antenna is in use
    channel_count: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A batch with its verdicts, on its way to the disk or back from it."""

    sequence: int
    received_ns: int  # service's clock when it was judged
    columns: Columns
    verdicts: U8
    counts: Sequence[int]  # reads by number of the verdict
    numbers: U32
    challenge_state: ChallengeState
    # Reads of just now when they were judged: they may open a gate, if they still are.
    live: bool
    # Rows of the tags newly seen, and the tags that went.
    fresh: U32
    gone: list[Gone]
    # A row of each genuine tag that there was no room to follow: nobody will say where it went.
    left_out: U32
    # Whether its alarms have still to be looked at.
    alarming: bool
    # What its segment counts; None for a batch that is back from the disk.
    stored: Stored | None


class Door:
    """The lasting state of one portal. `lock` guards all of it."""

    def __init__(self, parts: Parts, portal_id: bytes, row: PortalRow) -> None:
        self.parts = parts
        self.portal_id = portal_id
        self.vault_id = row.vault_id
        self.sides = np.zeros(256, np.uint8)
        for antenna in row.antennas:
            self.sides[antenna.port] = antenna.side
        self.commands = CommandMaker(parts.principal, portal_id, row.name)
        self.lock = threading.Lock()
        # A session ended in an error: the next one stands on what the read log says, not on this.
        self.failed = False
        self.epoch = 0
        # The last batch handed to the read log, and the last that is durable.
        self.taken_sequence = 0
        self.durable_sequence = 0
        # Batches taken and not yet settled: durable, answered, their commands made.
        self.unsettled = 0
        self.last_read_ns = 0
        self.tracker = self._new_tracker()
        self.alarms = AlarmBook(parts.settings)
        # Batches whose alarms are not all journalled.
        self.alarming = Outstanding()
        # What was suppressed before a batch whose alarms are at the sequencer: a replay begins at
        # the first of them and suppresses its share again.
        self._suppressed_before: dict[int, Suppressed] = {}
        # The run that durable batches are counted into, by whoever settles them.
        self.segment = OpenSegment(parts.retention)
        # Of the run that time alone completed last.
        self._sealing: Future[Committed] | None = None
        self.profile = parts.profiles.of(portal_id)
        masters = parts.directory.loaded_keys()
        terms = terms_of(parts.settings, parts.challenges, masters, self.sides)
        self._terms = parts.read_log.keep_terms(terms)
        # No batch came since the tracks were made again.
        self._restored = False

    def _new_tracker(self) -> Tracker:
        settings = self.parts.settings
        return Tracker(settings.tracks_max, self.sides, self.parts.quiet_ns)

    def now_ns(self) -> int:
        """The service's time."""
        return self.parts.service_time.now_ns()

    def restore(self, position: Position) -> None:
        """Stand where the read log says; the tracks are rebuilt by `replay`."""
        self.epoch = position.epoch
        self.taken_sequence = self.durable_sequence = position.last_sequence
        self.last_read_ns = position.last_read_ns
        self._restored = True
        self.alarms = AlarmBook(self.parts.settings, position)

    def begin_epoch(self, epoch: int) -> Position:
        """Sequences begin at 1 again, nothing is seen; the caller writes the position."""
        assert not self.unsettled
        self.epoch = epoch
        self.taken_sequence = self.durable_sequence = self.last_read_ns = 0
        self.tracker = self._new_tracker()
        self.alarming = Outstanding()
        self._suppressed_before = {}
        self.segment = OpenSegment(self.parts.retention)
        self._restored = False
        return Position(epoch=epoch, service_ns=self.now_ns())

    def time_fault(self, columns: Columns, now_ns: int) -> str | None:
        """`ahead` or `back` if the times of a batch cannot be, else None."""
        settings = self.parts.settings
        if columns.last_ns > now_ns + settings.time_ahead_ms_max * _NS_PER_MS:
            return "ahead"
        if columns.first_ns < self.last_read_ns - settings.time_back_ms_max * _NS_PER_MS:
            return "back"
        return None

    def take(
        self,
        columns: Columns,
        use: Use,
        settled: Callable[[Judged, BaseException | None], None],
    ) -> Judged:
        """Judge the next batch as of now, follow its tags and hand it to the read log.

        `settled` is called from the log's thread when the batch is durable, or never will be.
        Raises LedgerStopped if the log has stopped. Any other error leaves counters advanced that
        nobody recorded: the service must stop.
        """
        profile, begun_ns = self.profile, time.perf_counter_ns()
        # However long the batch waited: what expired meanwhile is judged so.
        now_ns = self.now_ns()
        state, challenge = self._challenge(columns, now_ns)
        directory = self.parts.directory
        result = verify_batch(
            directory.index, directory.arena, columns.scheme, columns.identity, columns.evidence,
            columns.antenna, use.known_antennas, columns.channel, use.channel_count, challenge,
        )  # fmt: skip
        if result.data is not None:
            # Of the tags' memory: confidential, not vouched for, and nobody asks for it.
            result.data.fill(0)
        counts = result.counts.tolist()
        faultless = counts[Verdict.VERDICT_GENUINE] + counts[Verdict.VERDICT_MALFORMED]
        verified_ns = time.perf_counter_ns()
        profile.verify_ns += verified_ns - begun_ns
        with self.lock:
            sequence = self.taken_sequence + 1
            before, quiet_before_ns = self.tracker.overflow, self.tracker.closed_before_ns
            seen = self.tracker.observe(sequence, columns, result.verdicts, result.numbers)
            alarming = faultless < len(columns) or bool(len(seen.left_out))
            untracked = self.tracker.overflow - before
            if alarming:
                self.alarming.add(sequence)
            self.unsettled += 1
            self.last_read_ns = max(self.last_read_ns, columns.last_ns)
        if untracked:
            self.parts.on_untracked(untracked)
        tracked_ns = time.perf_counter_ns()
        profile.tracks_ns += tracked_ns - verified_ns
        block = Block(
            columns, result.verdicts, now_ns, state, use.known_antennas, use.channel_count,
            Basis(result.mark, result.turn, quiet_before_ns, self._terms, self._restored),
        )  # fmt: skip
        read_log = self.parts.read_log
        sealed = read_log.seal_block(self.portal_id, self.epoch, sequence, block)
        judged = Judged(
            sequence, now_ns, columns, result.verdicts, counts, result.numbers, state,
            self._is_live(columns, state, now_ns), seen.fresh, seen.gone, seen.left_out,
            alarming, sealed.stored,
        )  # fmt: skip
        counters = counters_of(directory.index, result.advanced_numbers, result.advanced_counters)
        with self.lock:
            self.taken_sequence, self._restored = sequence, False
            read_log.submit(
                self.portal_id, self._position(), sealed.chunks, counters,
                lambda error: settled(judged, error), block.turn,
            )  # fmt: skip
        profile.pack_seal_ns += time.perf_counter_ns() - tracked_ns
        profile.batches += 1
        profile.reads += len(columns)
        return judged

    def checkpoint(self) -> None:
        """Hand the position to the read log without a batch, so that a restart replays less.

        Not durable on return. Raises LedgerStopped.
        """
        with self.lock:
            if not self.unsettled:
                self.parts.read_log.submit(self.portal_id, self._position(), [], [], lambda _: None)

    def _challenge(self, columns: Columns, now_ns: int) -> tuple[ChallengeState, bytes | None]:
        if not columns.challenge_id:
            return ChallengeState.CHALLENGE_STATE_NOT_NEEDED, None
        return self.parts.challenges.judge(self.portal_id, columns.challenge_id, now_ns)

    def is_still_live(self, judged: Judged) -> bool:
        """Whether its reads, judged some time ago, may open a gate now."""
        if not judged.live:
            return False
        now_ns = self.now_ns()
        state, _ = self._challenge(judged.columns, now_ns)
        return self._is_live(judged.columns, state, now_ns)

    def _is_live(self, columns: Columns, state: ChallengeState, now_ns: int) -> bool:
        if state == ChallengeState.CHALLENGE_STATE_NOT_NEEDED:
            # Counters prove no time: reads that were kept back open no gate either.
            return columns.first_ns >= now_ns - self.parts.challenges.live_ns
        return state == ChallengeState.CHALLENGE_STATE_LIVE

    def _position(self) -> Position:
        sequence = self.taken_sequence
        alarms_from = self.alarming.first(sequence + 1)
        suppressed = self._suppressed_before.get(alarms_from, self.alarms.suppressed)
        return Position(
            epoch=self.epoch,
            last_sequence=sequence,
            last_read_ns=self.last_read_ns,
            service_ns=self.now_ns(),
            replay_from=self.tracker.outstanding.first(sequence + 1),
            alarms_from=alarms_from,
            suppressed_count=suppressed.count,
            suppressed_from=suppressed.from_sequence,
            suppressed_digest=suppressed.digest,
        )

    def sift(self, batch: Batch, sequence: int, received_ns: int) -> tuple[list[Held], list[Held]]:
        """What is new of a batch, and which of that to journal; `alarmed` when one of those is.

        As of when it was received, so that what is a repetition follows from the stored batches.
        """
        with self.lock:
            before = replace(self.alarms.suppressed)
            new, raised = self.alarms.sift(batch, sequence, received_ns)
            if raised:
                self._suppressed_before[sequence] = before
            self.alarming.add(sequence, len(raised))
            self.alarming.release(sequence)
        return new, raised

    def alarmed(self, sequence: int) -> None:
        """An alarm of a batch is durable in the journal."""
        with self.lock:
            self.alarming.release(sequence)
            if sequence not in self.alarming:
                del self._suppressed_before[sequence]

    def summary_due(self, now_ns: int) -> bool:
        """Whether to sum up now: not while a replay would suppress again what is summed up."""
        with self.lock:
            return not self._suppressed_before and self.alarms.summary_due(now_ns)

    def seal_over(self) -> None:
        """Journal a run that has lasted long enough although no batch came to complete it; later, if the
        sequencer has no room. By whoever settles batches, with nothing under way. LedgerStopped.
        """
        segment = self.segment.so_far()
        if self.failed or segment is None or not self.segment.is_over(self.now_ns()):
            return
        with suppress(QueueFull):
            self._sealing = self.parts.sequencer.submit(
                self.commands.seal_segment(self.epoch, segment)
            )
            self.segment.close()

    def wait_sealed(self) -> None:
        """The journal has what `seal_over` handed to it. Raises LedgerStopped, DecideFailed."""
        if self._sealing is not None:
            self._sealing.result()

    def settled(self) -> None:
        """A batch is answered and its commands are made: there is room for another."""
        with self.lock:
            self.unsettled -= 1

    # -- after a restart -------------------------------------------------------------------------

    def replay(self, position: Position, handle: Callable[[Judged], None]) -> int:
        """Follow the stored batches again from where something was left; how many there were.

        `handle` is given each, with the tags gone by then and whether its alarms have to be looked
        at. Reads of passages that are in the journal already are left out, so that none is decided
        twice; the others are decided as they would have been.
        """
        first = min(position.replay_from, position.alarms_from)
        if first > position.last_sequence:
            return 0
        count = 0
        decided: dict[int, int] = {}
        seen = np.empty(0, np.uint32)
        nothing = np.empty(0, np.uint32)
        batches = self.parts.read_log.batches(self.portal_id, position.epoch, first)
        for sequence, block in batches:
            columns = block.columns
            gone: list[Gone] = []
            left_out = nothing
            numbers = self.parts.directory.index.find_many(columns.identity)
            # As they were then: a tag may have been registered since.
            numbers[np.isin(block.verdicts, _WITHOUT_NUMBER)] = UNKNOWN_NUMBER
            if sequence >= position.replay_from:
                if block.basis.quiet_before_ns:
                    gone = self.tracker.finish(block.basis.quiet_before_ns, sequence - 1)
                # A tag whose master was loaded then and is not now has no number: it is not followed.
                verdicts = np.where(numbers == UNKNOWN_NUMBER, np.uint8(NO_VERDICT), block.verdicts)
                genuine = np.unique(numbers[verdicts == Verdict.VERDICT_GENUINE])
                decided |= self._decided(np.setdiff1d(genuine, seen).tolist())
                seen = np.union1d(seen, genuine).astype(np.uint32)
                verdicts = leave_out_decided(columns, verdicts, numbers, decided)
                seen_now = self.tracker.observe(sequence, columns, verdicts, numbers)
                gone += seen_now.gone
                left_out = seen_now.left_out
            faulty = ~np.isin(block.verdicts, (Verdict.VERDICT_GENUINE, Verdict.VERDICT_MALFORMED))
            alarming = sequence >= position.alarms_from and bool(faulty.any() or len(left_out))
            if alarming:
                self.alarming.add(sequence)
            state = ChallengeState.CHALLENGE_STATE_UNSPECIFIED
            judged = Judged(
                sequence, block.received_ns, columns, block.verdicts, (), numbers, state, False,
                nothing, gone, left_out, alarming, None,
            )  # fmt: skip
            handle(judged)
            count += 1
        return count

    def _decided(self, numbers: list[int]) -> dict[int, int]:
        """Last read of the last journalled passage here, of those tags that have one."""
        found = {}
        with self.parts.ledger.read() as state:
            for number in numbers:
                tag_id = self.parts.directory.tag_id(number)
                row = state.get(PASSAGES, self.portal_id + tag_id)
                if row is not None and row.portal_epoch == self.epoch:
                    found[number] = row.last_read_ns
        return found
