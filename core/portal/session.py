"""One stream of one portal, without a transport: batches in, messages out.

Lives in the floor's thread. `receive` waits while too many batches are unsettled or the portal does
not take what it is told, so that a portal is never read faster than its reads become durable and its
answers are taken. What follows from a batch is told after the commit, when the floor hands it back.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import Enum
from functools import partial
from typing import Any, Final

import numpy as np

from core import guard
from core.errors import JinkuError, LedgerStopped, QueueFull
from core.portal import answers
from core.portal.challenges import ChallengeSchedule
from core.portal.columns import BatchFault, Columns, fault_of, read_columns
from core.portal.commands import Finished
from core.portal.door import Door, Judged, Use
from core.portal.floor import Signal
from core.portal.outbound import Outbound
from core.portal.profile import timed
from core.portal.settling import Settler
from core.readlog.layout import Block
from core.sequencer import Committed
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.v1.portal_pb2 import BatchAcknowledgement, ReadBatch, StreamResponse, Welcome

# Settled batches that one acknowledgement may cover.
ACKNOWLEDGED_MAX: Final = 64
# An acknowledgement that lists so many bytes of exceptions takes no further batch: peers limit
# what a message may hold, and one batch is far below that.
EXCEPTION_BYTES: Final = 1 << 16
# Commands that may wait for the sequencer before the portal is held up.
COMMANDS_WAITING_MAX: Final = 4096
# Larger batches are judged beside the floor's thread: a tenth of a millisecond is no wait for others.
JUDGED_HERE_MAX: Final = 512
LARGE_BYTES: Final = 32 << 10
# What follows from a batch is looked up tag by tag; more than so many are looked up beside it too.
SETTLED_HERE_MAX: Final = 64
# A larger batch holds its door too long for anything else to be settled while it is judged.
SETTLED_MEANWHILE_MAX: Final = 8192
# Messages that are made ready to be sent before others have their turn.
_SAID_AT_ONCE: Final = 32
_RETRY_SECONDS: Final = 0.01
_NS_PER_SECOND: Final = 1_000_000_000
_REASONS_MAX: Final = 8


class End(Enum):
    """Why a session is over."""

    FINISHED = "the portal said all it had to say"
    SUPERSEDED = "a newer stream of this portal has taken over"
    ABANDONED = "the transport gave it up"
    FAILED = "an error of the service"


class SessionEnded(JinkuError):
    """The session takes no more batches; `end` says why."""

    def __init__(self, end: End) -> None:
        super().__init__(end.value)
        self.end = end


@dataclass(frozen=True, slots=True)
class _Durable:
    """A batch that is on disk, or never will be."""

    judged: Judged
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class _SummedUp:
    """The journal has the summary of suppressed alarms."""

    future: Future[Committed]
    from_sequence: int


class PortalSession:
    """Made by `PortalDesk.open`. `end` is None while it lasts."""

    def __init__(self, door: Door, use: Use, outbound: Outbound) -> None:
        self._door = door
        self._use = use
        self._outbound = outbound
        self._send = outbound.put
        self._parts = door.parts
        self._floor = door.parts.floor
        self.profile = door.profile
        # What the floor hands over: batches that are durable, commands that are through.
        self.inbox: deque[object] = deque()
        self._settler = Settler(door, partial(self._floor.post, self), self._tell)
        self._schedule = ChallengeSchedule(door.parts.challenges, door.portal_id)
        self._changed = Signal()
        outbound.on_room = self._go_on
        # The portal's clock is taken to go on at our pace since its latest read, or since now.
        self._heard_at_ns = self._parts.monotonic()
        self._wait_quiet = False
        # A batch is being judged in another thread, and the door is not to be waited for meanwhile.
        self._judging = self._door_taken = False
        # What follows from batches is being worked out in another thread; what it said so far.
        self._settling = False
        self._said: list[StreamResponse] = []
        # A summary is at the sequencer: nothing is counted meanwhile that a crash would lose.
        self._summing = False
        self._retrying = False
        # Batches that are handled and still count as unsettled, because their commands wait.
        self._held_up = 0
        self.end: End | None = None
        # What the portal was told, when nothing more is told.
        self.told: End | None = None
        self.failure: BaseException | None = None
        self._over = False

    # -- the desk's side -------------------------------------------------------------------------

    def start(self) -> None:
        """Say welcome and issue challenges."""
        now_ns = self._door.now_ns()
        settings = self._parts.settings
        self._send(
            StreamResponse(
                welcome=Welcome(
                    portal_id=self._door.portal_id,
                    resume_sequence=self._door.durable_sequence + 1,
                    batch_reads_max=settings.batch_reads_max,
                    batches_in_flight_max=settings.batches_in_flight_max,
                    service_time_ns=now_ns,
                )
            )
        )
        self._send_challenges(now_ns)

    async def stop(self, end: End) -> None:
        """End at once: nothing more is taken or told. All that was taken is settled on return."""
        # A line that broke may come back with the rest of a crossing: nothing is decided for it.
        self._close(end)
        self._tell_end(end)
        self.advance()
        await self._changed.until(lambda: self._over and not self._judging and not self._settling)

    def finish(self, *, wait_quiet: bool) -> None:
        """End in order: nothing more is taken; all that was taken is settled and told, then `told` is
        set.

        `wait_quiet`: first wait until the tags that are still here are quiet and decided, at most
        the quiet time. Does not wait itself.
        """
        self._close(End.FINISHED, wait_quiet=wait_quiet)
        self.advance()

    def fail(self, error: BaseException) -> None:
        """End because of an error of ours: the next opening stands on what is durable."""
        self.failure = error
        self._close(End.FAILED)
        with self._door.lock:
            self._door.failed = True
        self._over = True
        self._tell_end(End.FAILED)
        if not isinstance(error, LedgerStopped):
            self._parts.on_incident(error)

    def _close(self, end: End, *, wait_quiet: bool = False) -> None:
        # Whoever wants it to end soonest prevails, in whatever order they come.
        self._wait_quiet = wait_quiet and (self.end is None or self._wait_quiet)
        if self.end is None or end in {End.SUPERSEDED, End.FAILED}:
            self.end = end
        self._changed.notify()

    def _tell_end(self, end: End) -> None:
        if self.told is None:
            self.told = end
        self._outbound.close(keep=end is End.FINISHED)
        self._changed.notify()

    # -- the transport's side --------------------------------------------------------------------

    async def receive(
        self,
        batch: ReadBatch,
        size: int | None = None,
        columns: Mapping[str, memoryview] | None = None,
    ) -> None:
        """Take a batch, or tell the portal why not. `size` is that of the received bytes. `columns`:
        those of a batch that was taken apart; `batch` and `size` are then of the rest.

        Nothing is durable on return; the acknowledgement says when. Waits while as many batches are
        unsettled, or answers not taken, as may be. One at a time. Raises SessionEnded, LedgerStopped.
        """
        self._check_open()
        now_ns = self._door.now_ns()
        sequence = batch.sequence
        if _is_large(batch, size):
            examined = await self._floor.beside(partial(self._examine, batch, size))
            self._check_open()
        else:
            examined = self._examine(batch, size, columns)
        if isinstance(examined, list):
            await self._reject(sequence, examined)
            return
        expected = self._door.taken_sequence + 1
        if sequence < 1 or sequence > expected:
            code = ReasonCode.REASON_CODE_BATCH_SEQUENCE_JUMPED
            item = f"sequence: {sequence}, {expected} expected"
            await self._reject(sequence, [ReasonRecord(code=code, item=item)])
            return
        try:
            if isinstance(examined, BatchFault):
                raise examined
            reads = examined
            if sequence < expected:
                await self._repeat(sequence, reads)
                return
            self._check_times(reads, now_ns)
        except BatchFault as fault:
            await self._reject(sequence, [fault.reason])
            return
        limit = self._parts.settings.batches_in_flight_max
        await self._until(lambda: self._door.unsettled < limit)
        await self._take(reads)

    def _examine(
        self,
        batch: ReadBatch,
        size: int | None,
        columns: Mapping[str, memoryview] | None = None,
    ) -> Columns | BatchFault | list[ReasonRecord]:
        """The reads, or what the guard has against them, or why they do not agree. In any thread."""
        profile, begun_ns = self.profile, time.perf_counter_ns()
        found = guard.unlisted(batch, size or 0) or guard.violations(batch, size)
        guarded_ns = time.perf_counter_ns()
        profile.guard_ns += guarded_ns - begun_ns
        if found:
            return [fault_of(one) for one in found[:_REASONS_MAX]]
        try:
            return read_columns(batch, self._parts.settings.batch_reads_max, columns)
        except BatchFault as fault:
            return fault
        finally:
            profile.columns_ns += time.perf_counter_ns() - guarded_ns

    async def _take(self, columns: Columns) -> None:
        take = partial(self._door.take, columns, self._use, self._durable)
        if len(columns) <= JUDGED_HERE_MAX:
            with self._taking():
                take()
        else:
            # Whoever gives up waiting does not undo what is being judged.
            self._judging = True
            self._door_taken = len(columns) > SETTLED_MEANWHILE_MAX
            await asyncio.shield(self._floor.loop.create_task(self._take_beside(take)))

    async def _take_beside(self, take: Callable[[], Judged]) -> None:
        try:
            with self._taking():
                await self._floor.beside(take)
        finally:
            self._judging = self._door_taken = False
            self._changed.notify()
            self.advance()

    @contextmanager
    def _taking(self) -> Iterator[None]:
        try:
            yield
        except LedgerStopped as error:
            self.fail(error)
            raise
        except BaseException as error:
            # Counters may have advanced that nobody recorded: only a restart is right.
            self._parts.on_failure(error)
            raise
        self._heard_at_ns = self._parts.monotonic()

    def _durable(self, judged: Judged, error: BaseException | None) -> None:
        """In the read log's thread."""
        self._floor.post(self, _Durable(judged, error))

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for it. Raises SessionEnded."""
        if self.end is None and not condition():
            await self._changed.until(lambda: self.end is not None or condition())
        self._check_open()

    def _check_open(self) -> None:
        if self.end is not None:
            raise SessionEnded(self.end)

    def _check_times(self, columns: Columns, now_ns: int) -> None:
        fault = self._door.time_fault(columns, now_ns)
        if fault == "ahead":
            raise BatchFault(ReasonCode.REASON_CODE_BATCH_TIME_AHEAD, "time_us")
        if fault == "back":
            raise BatchFault(ReasonCode.REASON_CODE_BATCH_TIME_BACKWARDS, "base_time_ns")

    async def _repeat(self, sequence: int, columns: Columns) -> None:
        """The same batch again is acknowledged again; another one under its number is refused."""
        await self._until(lambda: self._door.durable_sequence >= sequence)
        find = partial(self._find_same, self._door.epoch, sequence, columns)
        # However small it is, what is kept under its number may be large.
        kept, found_ns = await self._floor.beside(partial(timed, find))
        self.profile.other_ns += found_ns
        again = answers.batch_acknowledgement(
            sequence,
            kept.verdicts,
            np.bincount(kept.verdicts, minlength=8).tolist(),
            kept.challenge_state,
            duplicate=True,
        )
        await self._until(lambda: self._outbound.has_room)
        self._send(answers.acknowledgement(self._door.durable_sequence, [again]))

    def _find_same(self, epoch: int, sequence: int, columns: Columns) -> Block:
        """What is kept under this number, if it is the same. In any thread. Raises BatchFault."""
        kept = self._parts.read_log.block(self._door.portal_id, epoch, sequence)
        if kept is None:
            # Durable, so it was there: its time is over.
            raise BatchFault(ReasonCode.REASON_CODE_BATCH_NO_LONGER_KEPT, f"sequence: {sequence}")
        if not _is_same(kept, columns):
            raise BatchFault(ReasonCode.REASON_CODE_BATCH_SEQUENCE_REUSED, f"sequence: {sequence}")
        return kept

    async def _reject(self, sequence: int, reasons: list[ReasonRecord]) -> None:
        await self._until(lambda: self._outbound.has_room)
        self._send(answers.rejection(sequence, self._door.taken_sequence + 1, reasons))

    # -- settling --------------------------------------------------------------------------------

    def advance(self) -> None:
        """Settle what has arrived, as far as the portal takes what it is told."""
        if self._over:
            self.inbox.clear()
            return
        if self._is_busy:
            # Whoever is busy calls again.
            return
        with self.profile.the_rest():
            try:
                self._settle()
                if self.end is not None and self._is_settled():
                    self._conclude()
            except Exception as error:
                self.fail(error)

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is on its way to the journal."""
        return self._over or not (self._is_busy or self.inbox or not self._settler.dispatcher.idle)

    @property
    def _is_busy(self) -> bool:
        """Another thread has the settler, or has the door for long."""
        return self._settling or self._door_taken

    def _go_on(self) -> None:
        """The portal takes again what it is told."""
        self._changed.notify()
        self.advance()

    def _conclude(self) -> None:
        self._over = True
        if self._door.taken_sequence:
            self._door.checkpoint()
        self._tell_end(self.end or End.FINISHED)

    def _settle(self) -> None:
        dispatcher = self._settler.dispatcher
        while (self.inbox or self._summing) and self._outbound.has_room:
            if self._summing and not self._take_summary():
                return
            self._settle_some()
            if self._settling:
                return
            self._timed(dispatcher.pump)
            self._make_room()
        self._timed(dispatcher.pump)
        self._make_room()
        if dispatcher.blocked and not self._retrying:
            # The sequencer's queue was full.
            self._retrying = True
            self._floor.loop.call_later(_RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        self.advance()

    def _settle_some(self) -> None:
        dispatcher = self._settler.dispatcher
        durable: list[Judged] = []
        profile, begun_ns = self.profile, time.perf_counter_ns()
        while self.inbox and len(durable) < ACKNOWLEDGED_MAX:
            item = self.inbox.popleft()
            if isinstance(item, Finished):
                dispatcher.done(item)
            elif isinstance(item, _Durable):
                if item.error is not None:
                    raise item.error
                durable.append(item.judged)
        finished_ns = time.perf_counter_ns()
        profile.settle_ns += finished_ns - begun_ns
        if durable:
            self._acknowledge(durable)
            profile.send_ns += time.perf_counter_ns() - finished_ns
            self._held_up += len(durable)
            weight = sum(self._settler.weight(judged) for judged in durable)
            self._work(partial(self._handle, durable), weight)

    def _handle(self, durable: list[Judged]) -> None:
        for judged in durable:
            self._settler.handle(judged)

    def _timed(self, work: Callable[[], None]) -> None:
        """Do what follows from batches. By whoever settles."""
        begun_ns = time.perf_counter_ns()
        try:
            work()
        finally:
            self.profile.settle_ns += time.perf_counter_ns() - begun_ns

    def _work(self, work: Callable[[], None], weight: int) -> None:
        """Have the settler do something, here or beside the loop; then nothing else is settled until
        it is done.
        """
        if weight <= SETTLED_HERE_MAX:
            self._timed(work)
        else:
            self._settling = True
            self._floor.loop.create_task(self._work_beside(partial(self._timed, work)))

    async def _work_beside(self, work: Callable[[], None]) -> None:
        try:
            await self._floor.beside(work)
            for at, message in enumerate(self._said, 1):
                self._send(message)
                if not at % _SAID_AT_ONCE:
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.fail(LedgerStopped("the loop ends"))
            raise
        except Exception as error:
            self.fail(error)
        finally:
            self._settling = False
            self._said = []
            self._changed.notify()
            self.advance()

    def _tell(self, message: StreamResponse) -> None:
        """The settler's: said at once, or when its work in another thread is done."""
        if self._settling:
            self._said.append(message)
        else:
            self._send(message)

    def _acknowledge(self, durable: list[Judged]) -> None:
        self._door.durable_sequence = durable[-1].sequence
        self._changed.notify()
        batches: list[BatchAcknowledgement] = []
        size = 0
        for one in durable:
            self._parts.on_verdicts(one.counts)
            batch = answers.batch_acknowledgement(
                one.sequence, one.verdicts, one.counts, one.challenge_state
            )
            batches.append(batch)
            size += len(batch.exception_row) + len(batch.exception_verdict)
            if size >= EXCEPTION_BYTES or one is durable[-1]:
                self._send(answers.acknowledgement(one.sequence, batches))
                batches, size = [], 0

    def _make_room(self) -> None:
        """Batches are acknowledged at once; they make room when few of their commands wait."""
        while self._held_up and self._settler.dispatcher.waiting <= COMMANDS_WAITING_MAX:
            self._held_up -= 1
            self._door.settled()
            self._changed.notify()

    def _is_settled(self) -> bool:
        """Whether nothing is left to do. Asked only after the end: no batch is taken any more."""
        if self._judging or self._settling or self._summing or self.inbox:
            return False
        if self._wait_quiet and self.end is End.FINISHED and len(self._door.tracker):
            return False
        return not self._door.unsettled and self._settler.dispatcher.idle

    # -- what time alone causes ------------------------------------------------------------------

    def tick(self) -> None:
        """Challenges, tags gone quiet, the summary of an interval; called now and then."""
        if self._over or self._is_busy:
            return
        with self.profile.the_rest():
            try:
                if self._outbound.has_room and not self._summing:
                    self._tick()
            except Exception as error:
                self.fail(error)
        self.advance()

    def _tick(self) -> None:
        now_ns = self._door.now_ns()
        if self.end is None:
            self._send_challenges(now_ns)
        if self.end is None or self._wait_quiet:
            self._finish_quiet()
        if not self._settling and self._door.summary_due(now_ns):
            self._sum_up()

    def _send_challenges(self, now_ns: int) -> None:
        for challenge in self._schedule.due(now_ns):
            self._send(StreamResponse(challenge=challenge))

    def _finish_quiet(self) -> None:
        """Decide the tags that went, if nothing is on its way that could hold reads of them."""
        door = self._door
        with door.lock:
            if door.unsettled or self._judging or not len(door.tracker):
                return
            silent_ns = self._parts.monotonic() - self._heard_at_ns
            gone = door.tracker.finish(
                door.last_read_ns + silent_ns - self._parts.quiet_ns, door.taken_sequence
            )
        self._work(partial(self._settler.handle_gone, gone), len(gone))

    def _sum_up(self) -> None:
        """Have the suppressed alarms journalled as one; later again if the sequencer has no room."""
        suppressed = self._door.alarms.suppressed
        try:
            future = self._settler.submit_summary(self._door.last_read_ns)
        except QueueFull:
            return
        self._summing = True
        from_sequence = suppressed.from_sequence
        future.add_done_callback(
            lambda done: self._floor.post(self, _SummedUp(done, from_sequence))
        )

    def _take_summary(self) -> bool:
        """Note that the summary is durable, if it is."""
        for item in self.inbox:
            if isinstance(item, _SummedUp):
                self.inbox.remove(item)
                done = partial(self._settler.summed_up, item.future.result(), item.from_sequence)
                self._timed(done)
                self._summing = False
                return True
        return False


def _is_large(batch: ReadBatch, size: int | None) -> bool:
    """Whether it takes long to look at."""
    return (size or 0) > LARGE_BYTES or max(len(batch.rows), len(batch.antenna)) > JUDGED_HERE_MAX


def _is_same(kept: Block, columns: Columns) -> bool:
    """Whether these are the very reads that are kept: all that a batch says of them agrees."""
    given = [one.name for one in fields(Columns) if one.init]
    return all(_agree(getattr(kept.columns, name), getattr(columns, name)) for name in given)


def _agree(one: Any, other: Any) -> bool:
    # Bytes as bytes: arrays of them do not tell zeros at the end from none.
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
