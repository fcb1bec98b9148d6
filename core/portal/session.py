"""One stream of one portal, without a transport: batches in, messages out.

Two threads meet here. The transport's calls `receive` and waits there while too many batches are
unsettled, so that a portal is never read faster than its reads become durable and its answers are
taken. The session's own tells the portal what came of it, always after the commit.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np

from core import guard
from core.errors import JinkuError, LedgerStopped, QueueFull
from core.portal import answers
from core.portal.challenges import ChallengeSchedule
from core.portal.columns import BatchFault, Columns, fault_of, read_columns
from core.portal.commands import Finished
from core.portal.door import Door, Judged, Use
from core.portal.settling import Settler, Tell
from core.readlog.layout import Block
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.v1.portal_pb2 import BatchAcknowledgement, ReadBatch, StreamResponse, Welcome

# Settled batches that one acknowledgement may cover.
ACKNOWLEDGED_MAX: Final = 64
# An acknowledgement that lists so many bytes of exceptions takes no further batch: peers limit
# what a message may hold, and one batch is far below that.
EXCEPTION_BYTES: Final = 1 << 16
# Commands that may wait for the sequencer before the portal is held up.
COMMANDS_WAITING_MAX: Final = 4096
_RETRY_SECONDS: Final = 0.01
_TICK_SECONDS_MAX: Final = 0.25
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


_WAKE: Final = object()


class PortalSession:
    """Made by `PortalDesk.open`. `end` is None while it lasts."""

    def __init__(self, door: Door, use: Use, send: Tell, on_end: Callable[[End], None]) -> None:
        """`send` may block, which holds the portal up, and must not once `on_end` was called."""
        self._door = door
        self._use = use
        self._send = send
        self._on_end = on_end
        self._parts = door.parts
        self.profile = door.profile
        self._receiving = threading.Lock()
        self._inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._settler = Settler(door, self._inbox, send)
        self._schedule = ChallengeSchedule(door.parts.challenges, door.portal_id)
        self._thread = threading.Thread(target=self._run, name="portal", daemon=True)
        self._tick_seconds = min(self._parts.quiet_ns / 4 / _NS_PER_SECOND, _TICK_SECONDS_MAX)
        # The portal's clock is taken to go on at our pace since its latest read, or since now.
        self._heard_at_ns = self._parts.monotonic()
        self._wait_quiet = False
        self._told_end = False
        # Batches that are handled and still count as unsettled, because their commands wait.
        self._held_up = 0
        self.end: End | None = None
        self.failure: BaseException | None = None

    # -- the desk's side -------------------------------------------------------------------------

    def start(self) -> None:
        """Say welcome, issue challenges, begin to settle."""
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
        self._thread.start()

    def stop(self, end: End) -> None:
        """End at once: nothing more is taken or told. All that was taken is settled on return."""
        # A line that broke may come back with the rest of a crossing: nothing is decided for it.
        self._close(end)
        self._tell_end(end)
        with self._receiving:
            self._inbox.put(_WAKE)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def finish(self, *, wait_quiet: bool) -> None:
        """End in order: nothing more is taken, all that was taken is settled and told, then `on_end`.

        `wait_quiet`: first wait until the tags that are still here are quiet and decided, at most
        the quiet time. Does not block.
        """
        self._close(End.FINISHED, wait_quiet=wait_quiet)
        self._inbox.put(_WAKE)

    def fail(self, error: BaseException) -> None:
        """End because of an error of ours: the next opening stands on what is durable."""
        self.failure = error
        self._close(End.FAILED)
        with self._door.changed:
            self._door.failed = True
        self._tell_end(End.FAILED)
        if not isinstance(error, LedgerStopped):
            self._parts.on_incident(error)

    def _close(self, end: End, *, wait_quiet: bool = False) -> None:
        with self._door.changed:
            # Whoever wants it to end soonest prevails, in whatever order they come.
            self._wait_quiet = wait_quiet and (self.end is None or self._wait_quiet)
            if self.end is None or end in {End.SUPERSEDED, End.FAILED}:
                self.end = end
            self._door.changed.notify_all()

    def _tell_end(self, end: End) -> None:
        with self._door.changed:
            told, self._told_end = self._told_end, True
        if not told:
            self._on_end(end)

    # -- the transport's side --------------------------------------------------------------------

    def receive(self, batch: ReadBatch, size: int | None = None) -> None:
        """Take a batch, or tell the portal why not. `size` is that of the received bytes.

        Nothing is durable on return; the acknowledgement says when. Blocks while as many batches
        are unsettled as may be. Raises SessionEnded, LedgerStopped.
        """
        with self._receiving:
            self._check_open()
            now_ns = self._door.now_ns()
            sequence = batch.sequence
            expected = self._door.taken_sequence + 1
            profile, begun_ns = self.profile, time.perf_counter_ns()
            found = guard.violations(batch, size)
            guarded_ns = time.perf_counter_ns()
            profile.guard_ns += guarded_ns - begun_ns
            if found:
                self._reject(sequence, [fault_of(one) for one in found[:_REASONS_MAX]])
                return
            if sequence < 1 or sequence > expected:
                code = ReasonCode.REASON_CODE_BATCH_SEQUENCE_JUMPED
                item = f"sequence: {sequence}, {expected} expected"
                self._reject(sequence, [ReasonRecord(code=code, item=item)])
                return
            try:
                columns = read_columns(batch, self._parts.settings.batch_reads_max)
                if sequence < expected:
                    self._repeat(sequence, columns)
                    return
                self._check_times(columns, now_ns)
                profile.columns_ns += time.perf_counter_ns() - guarded_ns
            except BatchFault as fault:
                self._reject(sequence, [fault.reason])
                return
            self._wait_for_room()
            self._take(columns, now_ns)

    def _take(self, columns: Columns, now_ns: int) -> None:
        try:
            self._door.take(columns, self._use, now_ns, self._durable)
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
        self._inbox.put(_Durable(judged, error))

    def _check_open(self) -> None:
        if self.end is not None:
            raise SessionEnded(self.end)

    def _check_times(self, columns: Columns, now_ns: int) -> None:
        fault = self._door.time_fault(columns, now_ns)
        if fault == "ahead":
            raise BatchFault(ReasonCode.REASON_CODE_BATCH_TIME_AHEAD, "time_us")
        if fault == "back":
            raise BatchFault(ReasonCode.REASON_CODE_BATCH_TIME_BACKWARDS, "base_time_ns")

    def _wait_for_room(self) -> None:
        limit = self._parts.settings.batches_in_flight_max
        with self._door.changed:
            self._door.changed.wait_for(
                lambda: self._door.unsettled < limit or self.end is not None
            )
        self._check_open()

    def _repeat(self, sequence: int, columns: Columns) -> None:
        """The same batch again is acknowledged again; another one under its number is refused."""
        with self._door.changed:
            self._door.changed.wait_for(
                lambda: self._door.durable_sequence >= sequence or self.end is not None
            )
        self._check_open()
        kept = self._parts.read_log.block(self._door.portal_id, self._door.epoch, sequence)
        if kept is None:
            # Durable, so it was there: its time is over.
            raise BatchFault(ReasonCode.REASON_CODE_BATCH_NO_LONGER_KEPT, f"sequence: {sequence}")
        if not _is_same(kept, columns):
            raise BatchFault(ReasonCode.REASON_CODE_BATCH_SEQUENCE_REUSED, f"sequence: {sequence}")
        again = answers.batch_acknowledgement(
            sequence,
            kept.verdicts,
            np.bincount(kept.verdicts, minlength=8).tolist(),
            kept.challenge_state,
            duplicate=True,
        )
        self._send(answers.acknowledgement(self._door.durable_sequence, [again]))

    def _reject(self, sequence: int, reasons: list[ReasonRecord]) -> None:
        self._send(answers.rejection(sequence, self._door.taken_sequence + 1, reasons))

    # -- the session's own thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._step():
                continue
            if self.end is not End.FAILED and self._door.taken_sequence:
                self._door.checkpoint()
        except BaseException as error:
            self.fail(error)
            return
        self._tell_end(self.end or End.FINISHED)

    def _step(self) -> bool:
        """One round; whether the session is over."""
        dispatcher = self._settler.dispatcher
        timeout = _RETRY_SECONDS if dispatcher.blocked else self._tick_seconds
        durable: list[Judged] = []
        for item in self._arrived(timeout):
            if isinstance(item, Finished):
                dispatcher.done(item)
            elif isinstance(item, _Durable):
                if item.error is not None:
                    raise item.error
                durable.append(item.judged)
        if durable:
            profile, begun_ns = self.profile, time.perf_counter_ns()
            self._acknowledge(durable)
            told_ns = time.perf_counter_ns()
            profile.send_ns += told_ns - begun_ns
            for judged in durable:
                self._settler.handle(judged)
                self._held_up += 1
            profile.settle_ns += time.perf_counter_ns() - told_ns
        dispatcher.pump()
        self._make_room()
        self.tick()
        return self.end is End.FAILED or (self.end is not None and self._is_settled())

    def _arrived(self, timeout: float) -> list[object]:
        """What came in, after waiting for it."""
        items: list[object] = []
        try:
            items.append(self._inbox.get(timeout=timeout))
            while len(items) < ACKNOWLEDGED_MAX:
                items.append(self._inbox.get_nowait())
        except queue.Empty:
            return items
        return items

    def _acknowledge(self, durable: list[Judged]) -> None:
        with self._door.changed:
            self._door.durable_sequence = durable[-1].sequence
            self._door.changed.notify_all()
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

    def tick(self) -> None:
        """What time alone causes: challenges, tags gone quiet, the summary of an interval."""
        now_ns = self._door.now_ns()
        if self.end is None:
            self._send_challenges(now_ns)
        if self.end is None or self._wait_quiet:
            self._finish_quiet()
        if self._door.summary_due(now_ns):
            try:
                self._settler.sum_up(self._door.last_read_ns)
            except QueueFull:
                return

    def _send_challenges(self, now_ns: int) -> None:
        for challenge in self._schedule.due(now_ns):
            self._send(StreamResponse(challenge=challenge))

    def _finish_quiet(self) -> None:
        """Decide the tags that went, if nothing is on its way that could hold reads of them."""
        door = self._door
        with door.changed:
            if door.unsettled or not len(door.tracker):
                return
            silent_ns = self._parts.monotonic() - self._heard_at_ns
            gone = door.tracker.finish(
                door.last_read_ns + silent_ns - self._parts.quiet_ns, door.taken_sequence
            )
        self._settler.handle_gone(gone)
        self._settler.dispatcher.pump()

    def _is_settled(self) -> bool:
        """Whether nothing is left to do. Asked only after the end: no batch is taken any more but
        the one that the transport may be giving us right now.
        """
        if not self._receiving.acquire(blocking=False):
            return False
        try:
            with self._door.changed:
                if self._wait_quiet and self.end is End.FINISHED and len(self._door.tracker):
                    return False
                return not self._door.unsettled and self._settler.dispatcher.idle
        finally:
            self._receiving.release()


def _is_same(kept: Block, columns: Columns) -> bool:
    """Whether these are the very reads that are kept."""
    before = kept.columns
    envelope = ("scheme", "challenge_id", "base_time_ns")
    arrays = (
        "identity", "evidence", "antenna", "channel", "rssi_cdbm", "phase", "doppler_chz",
        "time_us",
    )  # fmt: skip
    return all(getattr(before, name) == getattr(columns, name) for name in envelope) and all(
        np.array_equal(getattr(before, name), getattr(columns, name)) for name in arrays
    )
