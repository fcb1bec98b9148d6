"""Deletes the batches that were kept as long as they had to be, while portals stream.

The journal is told first: a run that it calls pruned may be gone, whole or in part, and no other may,
so that a check finds the difference between a deletion that was cut off and one that nobody ordered.
What was cut off is done first at the next start.

Verdicts on counters rest on earlier batches, of other portals too. So the counters that tags had before
the first batch that is kept are kept themselves, journalled, and moved on before anything goes: a run
with counters goes when all runs are over their time whose batches were judged before its last one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from core.errors import JinkuError, LedgerCorrupt, LedgerStopped, QueueFull
from core.ledger.tables import (
    PORTALS,
    READ_COUNTERS,
    REALM_KEY,
    SEGMENTS,
    State,
    segment_key,
    split_segment_key,
)
from core.portal.commands import CommandMaker
from core.portal.parts import Parts
from core.portal.policy import Policy, Rule
from core.procedures.segments import next_segment
from core.readlog.counters import Run, advances, counted, digest_kept
from core.readlog.layout import Block, Counter
from core.sequencer import Command
from core.store.v1.rows_pb2 import SegmentRow

_NS_PER_DAY: Final = 86_400 * 1_000_000_000
_RETRY_SECONDS: Final = 0.05
# Counters that change in one commit of the read log, or those of one batch: it then takes some tens of
# milliseconds.
_CHANGED_MAX: Final = 8_192


class _Stopped(JinkuError):
    """The service ends."""


@dataclass(frozen=True, slots=True)
class _Due:
    """A sealed run that is over its time."""

    run: Run
    rule: Rule
    first_turn: int
    end_turn: int
    has_counters: bool
    # What a restart would replay stays, however old it is.
    is_needed: bool


@dataclass(slots=True)
class _Look:
    """What is over its time, by portal in order, and how far the kept counters may go."""

    # No batch that must be kept was judged before this turn.
    turn: int
    due: dict[bytes, list[_Due]] = field(default_factory=dict)

    def counted(self) -> list[_Due]:
        return [one for listed in self.due.values() for one in listed if one.has_counters]


class Pruner:
    """One per service. Looks at once and then at intervals; started after the desk."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._policy = Policy(parts.retention)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pruner", daemon=True)
        # By portal: where its runs begin that are not pruned.
        self._start: dict[bytes, bytes] = {}
        # Something may have been left half done: at the last end, or by an error.
        self._is_cut_off = True

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after what is being deleted at this moment. Safe to call twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.prune()
            except (LedgerStopped, _Stopped):
                return
            except Exception as error:
                self._is_cut_off = True
                self._parts.on_incident(error)
            self._stopping.wait(self._parts.retention.prune_interval_seconds)

    def prune(self) -> int:
        """Journal and delete all that is due now; how many runs. Raises LedgerStopped."""
        if self._is_cut_off:
            self._finish_counters()
            self._finish_cut_off()
            self._is_cut_off = False
        look = self._look()
        counted_runs = look.counted()
        if counted_runs:
            turn = min(look.turn, max(one.end_turn for one in counted_runs))
            self._move_counters(counted_runs, turn)
        kept_turn = self._parts.read_log.kept_turn or 0
        pruned = 0
        for listed in look.due.values():
            for one in listed:
                # The oldest first, so that what a deletion was cut off in is what is kept first.
                if one.is_needed or (one.has_counters and one.end_turn > kept_turn):
                    break
                self._journal_pruned(one)
                run = one.run
                self._parts.read_log.prune(
                    run.portal_id, run.epoch, run.first_sequence, run.last_sequence
                )
                pruned += 1
        return pruned

    # -- what is due -----------------------------------------------------------------------------

    def _look(self) -> _Look:
        parts = self._parts
        # First of all: what becomes durable from here on has no earlier turn.
        look = _Look(parts.read_log.turns)
        now_ns = parts.clock()
        with parts.ledger.read() as state:
            rules = self._policy.rules(state)
            for portal_id, _ in list(parts.read_log.positions()):
                rule = rules(portal_id)
                before_ns = now_ns - rule.days * _NS_PER_DAY if rule is not None else None
                self._look_at(look, state, portal_id, rule, before_ns)
        return look

    def _look_at(
        self, look: _Look, state: State, portal_id: bytes, rule: Rule | None, before_ns: int | None
    ) -> None:
        position = self._parts.read_log.position(portal_id)
        portal = state.get(PORTALS, portal_id)
        if position is None or portal is None:
            return
        needed_from = min(position.replay_from, position.alarms_from)
        for key, row in self._unpruned(state, portal_id):
            if rule is None or before_ns is None or row.last_received_ns >= before_ns:
                look.turn = min(look.turn, row.first_turn)
                return
            run = run_of(key, row, portal.name)
            is_needed = run.epoch == position.epoch and row.last_sequence >= needed_from
            due = _Due(
                run, rule, row.first_turn, row.end_turn, bool(row.counter_batches), is_needed
            )
            look.due.setdefault(portal_id, []).append(due)
        first = next_segment(state, portal_id, position.epoch)
        found = self._parts.read_log.first_basis(portal_id, position.epoch, first)
        if found is not None:
            look.turn = min(look.turn, found[1].turn)

    def _unpruned(self, state: State, portal_id: bytes) -> Iterator[tuple[bytes, SegmentRow]]:
        """The portal's runs that are there, oldest first."""
        begun = False
        # The earlier of them are pruned for good: they are passed over once.
        for key, row in state.scan(SEGMENTS, portal_id, self._start.get(portal_id, b"")):
            if row.pruned:
                continue
            if not begun:
                begun, self._start[portal_id] = True, key
            yield key, row

    # -- counters --------------------------------------------------------------------------------

    def _move_counters(self, due: Iterable[_Due], turn: int) -> None:
        """Keep the counters as of `turn`, some at a time; each step is journalled, then durable."""
        log = self._parts.read_log
        kept_turn = log.kept_turn or 0
        if turn <= kept_turn:
            return
        runs = [one.run for one in due if one.end_turn > kept_turn and one.first_turn < turn]
        changed: dict[bytes, int] = {}
        for found, block in counted(log, runs, kept_turn, turn):
            _advance(changed, block)
            if len(changed) >= _CHANGED_MAX or found + 1 == turn:
                tags, digest = digest_kept(log, found + 1, changed)
                self._submit(self._maker().keep_counters(found + 1, tags, digest))
                log.keep_counters(found + 1, _as_counters(changed))
                changed = {}

    def _finish_counters(self) -> None:
        """Write the counters that the journal was told of and the read log does not have."""
        parts = self._parts
        with parts.ledger.read() as state:
            row = state.get(READ_COUNTERS, REALM_KEY)
            kept_turn = parts.read_log.kept_turn or 0
            if row is None or row.turn == kept_turn:
                return
            if row.turn < kept_turn:
                raise LedgerCorrupt("read log", "keeps counters that are newer than the journal")
            runs = [
                run_of(key, segment, "")
                for key, segment in state.scan(SEGMENTS)
                if not segment.pruned
                and segment.counter_batches
                and segment.end_turn > kept_turn
                and segment.first_turn < row.turn
            ]
        changed: dict[bytes, int] = {}
        for _, block in counted(parts.read_log, runs, kept_turn, row.turn):
            _advance(changed, block)
        if digest_kept(parts.read_log, row.turn, changed) != (row.tags, row.digest):
            raise LedgerCorrupt("read log", f"does not make the journal's counters of {row.turn}")
        parts.read_log.keep_counters(row.turn, _as_counters(changed))

    # -- the journal -----------------------------------------------------------------------------

    def _journal_pruned(self, due: _Due) -> None:
        """Durable on return."""
        maker = self._maker(due.run.portal_id, due.run.name)
        self._submit(
            maker.prune_segment(
                due.run.epoch, due.run.first_sequence, due.rule.days, due.rule.article
            )
        )

    def _maker(self, portal_id: bytes = b"", name: str = "") -> CommandMaker:
        return CommandMaker(self._parts.principal, portal_id, name)

    def _submit(self, command: Command) -> None:
        """Durable on return."""
        while not self._stopping.is_set():
            try:
                future = self._parts.sequencer.submit(command)
            except QueueFull:
                self._stopping.wait(_RETRY_SECONDS)
                continue
            future.result()
            return
        raise _Stopped("the service ends")

    def _finish_cut_off(self) -> None:
        """Runs are deleted oldest first: what was left of one is what is kept first."""
        read_log = self._parts.read_log
        for portal_id, _ in list(read_log.positions()):
            while (kept := read_log.first_kept(portal_id)) is not None:
                last = self._pruned_through(portal_id, *kept)
                if not last:
                    break
                read_log.prune(portal_id, *kept, last)

    def _pruned_through(self, portal_id: bytes, epoch: int, sequence: int) -> int:
        """Where the run that holds this batch ends, if the journal calls it pruned; else 0."""
        with self._parts.ledger.read() as state:
            for _, row in state.scan(SEGMENTS, segment_key(portal_id, epoch, 0)[:24]):
                if row.last_sequence >= sequence:
                    return row.last_sequence if row.pruned else 0
        return 0


def run_of(key: bytes, row: SegmentRow, name: str) -> Run:
    """A segment's row as a run; `name` is the portal's."""
    portal_id, epoch, first = split_segment_key(key)
    return Run(portal_id, epoch, first, row.last_sequence, row.digest, name)


def _advance(changed: dict[bytes, int], block: Block) -> None:
    identities, counters = advances(block)
    for identity, counter in zip(identities, counters.tolist(), strict=True):
        changed[identity.tobytes()] = counter


def _as_counters(changed: dict[bytes, int]) -> list[Counter]:
    return [Counter(identity, counter) for identity, counter in changed.items()]
