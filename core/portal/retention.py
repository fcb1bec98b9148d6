"""Deletes the batches that were kept as long as they had to be, while portals stream.

The journal is told first: a run that it calls pruned may be gone, whole or in part, and no other may,
so that a check finds the difference between a deletion that was cut off and one that nobody ordered.
What was cut off is done first at the next start.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from core.errors import JinkuError, LedgerStopped, QueueFull
from core.ledger.tables import PORTALS, SEGMENTS, segment_key, split_segment_key
from core.portal.commands import CommandMaker
from core.portal.parts import Parts

_NS_PER_DAY: Final = 86_400 * 1_000_000_000
_RETRY_SECONDS: Final = 0.05
# Runs that one look at the journal finds; the next look is taken when they are deleted.
_FOUND_MAX: Final = 64

_Run = tuple[bytes, int, int, int]  # portal id, epoch, first and last sequence


class _Stopped(JinkuError):
    """The service ends."""


class Pruner:
    """One per service. Looks at once and then at intervals; started after the desk."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
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
            self._finish_cut_off()
            self._is_cut_off = False
        pruned = 0
        for portal_id, _ in list(self._parts.read_log.positions()):
            while due := list(self._due(portal_id)):
                for run in due:
                    self._journal(run)
                    self._parts.read_log.prune(*run)
                    pruned += 1
        return pruned

    def _due(self, portal_id: bytes) -> Iterator[_Run]:
        """The portal's oldest runs that are over their time, at most so many."""
        parts = self._parts
        position = parts.read_log.position(portal_id)
        if position is None:
            return
        # What a restart would replay stays, however old it is.
        needed_from = min(position.replay_from, position.alarms_from)
        received_before = parts.clock() - parts.retention.retention_days * _NS_PER_DAY
        found = 0
        with parts.ledger.read() as state:
            # The earlier of them are pruned for good: they are passed over once.
            for key, row in state.scan(SEGMENTS, portal_id, self._start.get(portal_id, b"")):
                _, epoch, first = split_segment_key(key)
                if row.pruned:
                    continue
                if not found:
                    self._start[portal_id] = key
                needed = epoch == position.epoch and row.last_sequence >= needed_from
                if needed or row.last_received_ns >= received_before or found == _FOUND_MAX:
                    return
                found += 1
                yield portal_id, epoch, first, row.last_sequence

    def _journal(self, run: _Run) -> None:
        """Durable on return."""
        portal_id, epoch, first, _ = run
        parts = self._parts
        with parts.ledger.read() as state:
            row = state.get(PORTALS, portal_id)
        maker = CommandMaker(parts.principal, portal_id, row.name if row is not None else "")
        command = maker.prune_segment(epoch, first, parts.retention.retention_days)
        while True:
            if self._stopping.is_set():
                raise _Stopped("the service ends")
            try:
                future = parts.sequencer.submit(command)
            except QueueFull:
                self._stopping.wait(_RETRY_SECONDS)
                continue
            future.result()
            return

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
