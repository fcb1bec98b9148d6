"""What follows once a batch is durable: presentations, alarms, passages. Never before."""

from __future__ import annotations

import queue
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Final

import numpy as np

from core.errors import LedgerCorrupt, QueueFull
from core.ledger.tables import CONTAINERS, TAGS, State
from core.portal import answers
from core.portal.alarms import REMEMBERED_MAX, Batch, Held
from core.portal.commands import Dispatcher, Finished, reasons_of
from core.portal.door import Door, Judged
from core.portal.tracker import Gone
from core.procedures.segments import next_segment
from core.readlog.layout import Position, unpack_block
from core.readlog.log import stored_of
from core.readlog.segments import OpenSegment, Segment
from core.sequencer import Committed
from jinku.type.v1.tag_pb2 import Direction, Verdict
from jinku.v1.portal_pb2 import StreamResponse

Tell = Callable[[StreamResponse], None]

_WAIT_SECONDS: Final = 0.01


class Settler:
    """Makes a door's commands and tells its portal. One thread at a time."""

    def __init__(self, door: Door, arrived: Callable[[Finished], None], tell: Tell) -> None:
        """`arrived` is given, in the sequencer's thread, what `dispatcher.done` must be given here."""
        self._door = door
        self._tell = tell
        self._parts = door.parts
        self.dispatcher = Dispatcher(door.parts.sequencer, arrived, door.parts.on_incident)
        # Tags that are here and were not presented on this stream: seen before it, or in spooled
        # reads only.
        self._unpresented = set(door.tracker.numbers())
        # Causes for which this stream was told to hold an identity, until it is told otherwise.
        self._held: OrderedDict[bytes, frozenset[int]] = OrderedDict()

    def weight(self, judged: Judged) -> int:
        """About how many identities `handle` has to look up."""
        weight = len(judged.columns) - judged.counts[Verdict.VERDICT_GENUINE] + len(judged.gone)
        seen_again = bool(self._unpresented) and judged.live
        return weight + (len(judged.columns) if seen_again else len(judged.fresh))

    def handle(self, judged: Judged) -> None:
        """A batch is durable: tell of the tags in it, queue what it causes."""
        batch, new = self._sift(judged)
        # Before: a tag may have gone and come back within the batch.
        self._unpresented.difference_update(one.number for one in judged.gone)
        if judged.live:
            self._present(judged, batch, new)
        else:
            self._unpresented.update(judged.numbers[judged.fresh].tolist())
        self.handle_gone(judged.gone)
        if judged.stored is not None:
            self._seal(self._door.segment.add(judged.sequence, judged.stored))

    def handle_gone(self, gone: Iterable[Gone]) -> None:
        """Tags have gone: queue their passages; strays are told at once and not journalled."""
        gone = list(gone)
        if not gone:
            return
        strays = []
        with self._parts.ledger.read() as state:
            for one in gone:
                tag_id = self._parts.directory.tag_id(one.number)
                container_id, label = _box(state, tag_id)
                if one.direction == Direction.DIRECTION_STRAY:
                    self._settle(one)
                    strays.append(answers.passage(one, tag_id, container_id, label, None))
                else:
                    self.dispatcher.add(
                        self._door.commands.passage(self._door.epoch, tag_id, one),
                        partial(self._passed, one, tag_id, container_id, label),
                    )
        # Afterwards: a portal that does not read must not keep a snapshot of the ledger open.
        for message in strays:
            self._tell(message)

    def submit_summary(self, seen_at_ns: int) -> Future[Committed]:
        """Have one alarm journalled for those suppressed so far; `summed_up` must follow, and nothing
        be handled meanwhile. Raises QueueFull if the sequencer has no room, LedgerStopped.
        """
        door = self._door
        command = door.commands.summary(door.epoch, door.alarms.suppressed, seen_at_ns)
        return self._parts.sequencer.submit(command)

    def summed_up(self, committed: Committed, from_sequence: int) -> None:
        """The summary is durable: tell of it, count anew."""
        with self._door.lock:
            self._door.alarms.summed_up()
        self._door.checkpoint()
        self._tell_alarms(committed, b"", "", from_sequence)

    # -- segments --------------------------------------------------------------------------------

    def end_segment(self) -> None:
        """The epoch ends: no batch comes any more. Queued."""
        self._seal(self._door.segment.close())

    def _seal(self, segment: Segment | None) -> None:
        if segment is not None:
            command = self._door.commands.seal_segment(self._door.epoch, segment)
            self.dispatcher.add(command, _tell_nothing)

    # -- alarms ----------------------------------------------------------------------------------

    def _sift(self, judged: Judged) -> tuple[Batch, list[Held]]:
        """Queue the alarms of a batch; the identities that must not pass, and what is new of them."""
        if not judged.alarming:
            return Batch([]), []
        door, sequence = self._door, judged.sequence
        batch = self._parts.separator.separate(
            judged.columns, judged.verdicts, judged.numbers, judged.left_out
        )
        new, raised = door.sift(batch, sequence, judged.received_ns)
        if raised:
            with self._parts.ledger.read() as state:
                for held in raised:
                    self._queue_alarm(state, held, sequence)
        return batch, new

    def _queue_alarm(self, state: State, held: Held, sequence: int) -> None:
        known = answers.look_up(state, held.identity)
        tag, tag_state, label = state.blind("portal-alarm", held.identity), 0, ""
        if known is not None:
            tag, tag_state = known.tag_id, known.tag.state
            label = known.container.label if known.container else ""
        reasons = reasons_of(held, tag_state)
        self.dispatcher.add(
            self._door.commands.alarm(self._door.epoch, sequence, tag, held, reasons),
            partial(self._alarmed, held.identity, label, sequence),
        )

    def _alarmed(self, identity: bytes, label: str, sequence: int, committed: Committed) -> None:
        self._door.alarmed(sequence)
        self._tell_alarms(committed, identity, label, sequence)

    def _tell_alarms(
        self, committed: Committed, identity: bytes, label: str, sequence: int
    ) -> None:
        receipt = self._parts.ledger.receipt(committed.entry_index)
        for message in answers.alarms(committed.events, identity, label, sequence, receipt):
            self._tell(message)

    # -- presentations ---------------------------------------------------------------------------

    def _present(self, judged: Judged, batch: Batch, new: list[Held]) -> None:
        held = self._to_hold(batch, new)
        rows: list[int] = []
        if self._door.is_still_live(judged):
            rows = judged.fresh.tolist()
            if self._unpresented:
                rows += self._seen_again(judged)
        else:
            # The disk or the portal kept it waiting: what was held is, and nothing passes on it.
            self._unpresented.update(judged.numbers[judged.fresh].tolist())
        numbers = dict.fromkeys(judged.numbers[rows].tolist())
        # Where a copy shows itself beside it, a genuine tag is not let through either.
        for one in batch.held:
            numbers.pop(one.number, None)
        if not numbers and not held:
            return
        presenter = answers.Presenter(self._parts.ledger, self._door.vault_id)
        directory = self._parts.directory
        tags = presenter.present(
            held,
            [(directory.index.identity_of(number), directory.tag_id(number)) for number in numbers],
        )
        for tag in tags[len(held) :]:
            self._held.pop(tag.identity, None)
        for message in answers.presentations(judged.sequence, tags):
            self._tell(message)

    def _to_hold(self, batch: Batch, new: list[Held]) -> list[Held]:
        """What is new, and what this stream was not told to hold since it was last released."""
        fresh = {one.identity for one in new}
        found = []
        for one in batch.held:
            causes = self._held.get(one.identity, frozenset())
            if one.identity in fresh or not causes.issuperset(one.causes):
                found.append(one)
                self._held[one.identity] = causes.union(one.causes)
                self._held.move_to_end(one.identity)
        while len(self._held) > 2 * REMEMBERED_MAX:
            self._held.popitem(last=False)
        return found

    def _seen_again(self, judged: Judged) -> list[int]:
        """A genuine row of each tag that had not been presented; they are now."""
        waiting = np.fromiter(self._unpresented, np.uint32, len(self._unpresented))
        genuine = np.flatnonzero(judged.verdicts == Verdict.VERDICT_GENUINE)
        rows = genuine[np.isin(judged.numbers[genuine], waiting)]
        numbers, first = np.unique(judged.numbers[rows], return_index=True)
        self._unpresented.difference_update(numbers.tolist())
        return [int(row) for row in rows[first]]

    # -- passages --------------------------------------------------------------------------------

    def _settle(self, gone: Gone) -> None:
        with self._door.lock:
            self._door.tracker.settle(gone)

    def _passed(
        self, gone: Gone, tag_id: bytes, container_id: bytes, label: str, committed: Committed
    ) -> None:
        self._settle(gone)
        events = committed.events.events
        if not any(event.HasField("passage_recorded") for event in events):
            # The same reads had been decided before.
            return
        receipt = self._parts.ledger.receipt(committed.entry_index)
        self._tell(answers.passage(gone, tag_id, container_id, label, receipt))
        identity = self._parts.directory.index.identity_of(gone.number)
        messages = answers.alarms(committed.events, identity, label, gone.last_sequence, receipt)
        for message in messages:
            self._tell(message)


class Resettler(Settler):
    """Settles while no stream is open: tells nobody, waits until all is durable."""

    def __init__(self, door: Door) -> None:
        self._finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        super().__init__(door, self._finished.put, _tell_nobody)

    def drain(self) -> None:
        """Submit what is queued and wait until all of it is durable. Raises LedgerStopped."""
        self.dispatcher.pump()
        while not self.dispatcher.idle:
            with suppress(queue.Empty):
                self.dispatcher.done(self._finished.get(timeout=_WAIT_SECONDS))
            self.dispatcher.pump()

    def sum_up(self, seen_at_ns: int) -> None:
        """Journal one alarm for those suppressed, if any, however long the sequencer has no room;
        durable on return.
        """
        suppressed = self._door.alarms.suppressed
        while suppressed.count:
            try:
                future = self.submit_summary(seen_at_ns)
            except QueueFull:
                time.sleep(_WAIT_SECONDS)
                continue
            self.summed_up(future.result(), suppressed.from_sequence)
            return

    def resume_segment(self, position: Position) -> None:
        """Count again what is durable after the last segment that the journal has.

        Reads at most a segment, and those that were complete and not journalled. LedgerCorrupt if a
        batch is not there. Durable on return.
        """
        door = self._door
        with self._parts.ledger.read() as state:
            first = next_segment(state, door.portal_id, position.epoch)
        if first > position.last_sequence + 1:
            raise LedgerCorrupt(
                "read log", f"ends before batch {first - 1}, which is in the journal"
            )
        door.segment = OpenSegment(self._parts.retention, first)
        batches = self._parts.read_log.packed(door.portal_id, position.epoch, first)
        for expected in range(first, position.last_sequence + 1):
            sequence, packed = next(batches, (0, b""))
            if sequence != expected:
                raise LedgerCorrupt(f"read log, batch {expected}", "is missing")
            block = unpack_block(packed)
            if block.turn is not None and block.turn >= self._parts.read_log.turns:
                raise LedgerCorrupt(f"read log, batch {sequence}", "is newer than the counters")
            self._seal(door.segment.add(sequence, stored_of(packed, block)))
        self.drain()


def _tell_nobody(_: StreamResponse) -> None:
    """For what is settled while no stream is open."""


def _tell_nothing(_: Committed) -> None:
    """For what only the journal is told."""


def _box(state: State, tag_id: bytes) -> tuple[bytes, str]:
    """Id and label of the box that a tag is on."""
    tag = state.get(TAGS, tag_id)
    container = state.get(CONTAINERS, tag.container_id) if tag is not None else None
    if tag is None or container is None:
        return b"", ""
    return tag.container_id, container.label
