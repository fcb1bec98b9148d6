"""All portals of a service: opens their sessions and restores them after a restart."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from enum import Enum
from typing import Final

import numpy as np

from core.errors import JinkuError
from core.ledger.tables import PORTALS
from core.portal.door import Door, Judged, Use
from core.portal.parts import Parts
from core.portal.session import End, PortalSession
from core.portal.settling import Settler, Tell, tell_nobody
from core.portal.tracker import EVERYTHING_NS
from core.readlog.verify import check_not_older
from core.store.v1.rows_pb2 import PortalRow
from jinku.v1.portal_pb2 import Hello

EPOCH_AHEAD_NS_MAX: Final = 24 * 3600 * 1_000_000_000


class HelloFault(Enum):
    """Why a stream is not opened; the value names the field at fault."""

    NOT_REGISTERED = "portal"
    EPOCH_MISSING = "portal_epoch"
    EPOCH_AHEAD = "portal_epoch is of a time to come"
    EPOCH_OLDER = "portal_epoch is older than the one known"
    ANTENNA_NOT_REGISTERED = "antennas"
    STOPPED = "the service stops"
    GONE = "nobody waits for it any more"


class HelloRefused(JinkuError):
    """A Hello that opens no stream."""

    def __init__(self, fault: HelloFault, item: str = "") -> None:
        super().__init__(f"{fault.value}: {item}" if item else fault.value)
        self.fault = fault
        self.item = item


class PortalDesk:
    """One per service. `start` before the first `open`; `stop` before ledger and read log close."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._doors: dict[bytes, Door] = {}
        self._sessions: dict[bytes, PortalSession] = {}
        self._openings: dict[bytes, threading.Lock] = {}
        self._stopped = False

    def start(self) -> int:
        """Restore what was there when the service ended; how many batches were replayed.

        Loads the durable counters into the tag index, rebuilds open tracks, and makes again the
        commands of alarms and passages that may not have been journalled. Sequencer and read log
        must have been started. All of it is durable on return. LedgerCorrupt if the read log is
        older than the journal.
        """
        with self._parts.ledger.read() as state:
            check_not_older(state, self._parts.read_log)
        self._parts.read_log.load_counters(self._parts.directory.index)
        replayed = 0
        for portal_id, _ in list(self._parts.read_log.positions()):
            with self._parts.ledger.read() as state:
                row = state.get(PORTALS, portal_id)
            if row is not None:
                replayed += self._restore(portal_id, row)[1]
        return replayed

    def open(
        self,
        portal_id: bytes,
        hello: Hello,
        send: Tell,
        on_end: Callable[[End], None],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> PortalSession:
        """Begin a stream: an older one of this portal is ended and settled, then Welcome is sent.

        `send` is called from several threads, may block and must return at once when `on_end` was
        called; `on_end` is called once, when nothing more will be sent. `is_wanted` is asked when
        it is this opening's turn: one that was given up meanwhile ends nobody's stream. Raises
        HelloRefused, LedgerStopped.
        """
        with self._parts.ledger.read() as state:
            row = state.get(PORTALS, portal_id)
        if row is None:
            raise HelloRefused(HelloFault.NOT_REGISTERED)
        use = _use(hello, row)
        with self._opening(portal_id):
            if self._stopped:
                raise HelloRefused(HelloFault.STOPPED)
            if not is_wanted():
                raise HelloRefused(HelloFault.GONE)
            door = self._door(portal_id, row)
            # An epoch is a time; one far ahead would shut out every later one for good.
            if hello.portal_epoch > door.now_ns() + EPOCH_AHEAD_NS_MAX:
                raise HelloRefused(HelloFault.EPOCH_AHEAD, "lies more than a day ahead")
            if hello.portal_epoch < door.epoch:
                raise HelloRefused(HelloFault.EPOCH_OLDER, str(door.epoch))
            older = self._sessions.pop(portal_id, None)
            if older is not None:
                older.stop(End.SUPERSEDED)
            if door.failed:
                door = self._rebuild(portal_id, row)
            if hello.portal_epoch > door.epoch:
                self._begin_epoch(door, hello.portal_epoch)
            session = PortalSession(door, use, send, on_end)
            self._sessions[portal_id] = session
            session.start()
            return session

    def fail(self, error: BaseException) -> None:
        """Nothing is told any more: what the ledger or the read log holds is not known. At once."""
        self._stopped = True
        for session in list(self._sessions.values()):
            session.fail(error)

    def stop(self) -> None:
        """End all sessions; all that was taken is settled and durable on return."""
        with self._lock:
            self._stopped = True
            portal_ids = list(self._openings)
        for portal_id in portal_ids:
            with self._opening(portal_id):
                session = self._sessions.pop(portal_id, None)
                if session is not None:
                    session.stop(End.ABANDONED)

    def _door(self, portal_id: bytes, row: PortalRow) -> Door:
        with self._lock:
            door = self._doors.get(portal_id)
            if door is None:
                door = self._doors[portal_id] = Door(self._parts, portal_id, row)
            return door

    def _opening(self, portal_id: bytes) -> threading.Lock:
        """One opening of a portal at a time."""
        with self._lock:
            return self._openings.setdefault(portal_id, threading.Lock())

    def _rebuild(self, portal_id: bytes, row: PortalRow) -> Door:
        """A stream ended in an error: what it left undone is done again from what is durable."""
        self._parts.read_log.flush()
        with self._lock:
            del self._doors[portal_id]
        return self._restore(portal_id, row)[0]

    def _restore(self, portal_id: bytes, row: PortalRow) -> tuple[Door, int]:
        door = self._door(portal_id, row)
        position = self._parts.read_log.position(portal_id)
        if position is None:
            return door, 0
        door.restore(position)
        settler = Settler(door, queue.SimpleQueue(), tell_nobody)

        def handle(judged: Judged) -> None:
            settler.handle(judged)
            settler.drain()

        settler.resume_segment(position)
        replayed = door.replay(position, handle)
        settler.sum_up_at_last(door.last_read_ns)
        return door, replayed

    def _begin_epoch(self, door: Door, epoch: int) -> None:
        """The portal lost its counter or its clock went back: decide all that is open, start anew."""
        settler = Settler(door, queue.SimpleQueue(), tell_nobody)
        with door.changed:
            gone = door.tracker.finish(EVERYTHING_NS, door.taken_sequence)
        settler.handle_gone(gone)
        settler.end_segment()
        settler.drain()
        settler.sum_up_at_last(door.last_read_ns)
        with door.changed:
            position = door.begin_epoch(epoch)
        self._parts.read_log.flush(door.portal_id, position)


def _use(hello: Hello, row: PortalRow) -> Use:
    """What is in use, if the portal has it."""
    if not hello.portal_epoch:
        raise HelloRefused(HelloFault.EPOCH_MISSING, "must be drawn, not 0")
    registered = {antenna.port for antenna in row.antennas}
    foreign = sorted(set(hello.antennas) - registered)
    if foreign:
        raise HelloRefused(HelloFault.ANTENNA_NOT_REGISTERED, ", ".join(map(str, foreign)))
    known = np.zeros(256, np.uint8)
    known[list(hello.antennas)] = 1
    return Use(known, len(hello.frequencies_khz))
