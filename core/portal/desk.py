"""All portals of a service: opens their sessions and restores them after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import Final

import numpy as np

from core.errors import JinkuError, LedgerStopped
from core.ledger.tables import PORTALS
from core.portal.door import Door, Judged, Use
from core.portal.outbound import Outbound
from core.portal.parts import Parts
from core.portal.session import End, PortalSession
from core.portal.settling import Resettler
from core.portal.tracker import EVERYTHING_NS
from core.readlog.verify import check_not_newer, check_not_older
from core.store.v1.rows_pb2 import PortalRow
from jinku.v1.portal_pb2 import Hello

_NS_PER_SECOND: Final = 1_000_000_000
_TICK_SECONDS_MAX: Final = 0.25
EPOCH_AHEAD_NS_MAX: Final = 24 * 3600 * _NS_PER_SECOND


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
    """One per service. `start` before the first `open`; `stop` before ledger and read log close.

    All but `start` and `fail` run in the floor's thread.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._doors: dict[bytes, Door] = {}
        self._sessions: dict[bytes, PortalSession] = {}
        self._openings: dict[bytes, asyncio.Lock] = {}
        self._tick_seconds = min(parts.quiet_ns / 4 / _NS_PER_SECOND, _TICK_SECONDS_MAX)
        self._stopped = False
        # A moment of the service's time is on its way to the disk.
        self._keeping_time = False

    def start(self) -> int:
        """Restore what was there when the service ended; how many batches were replayed.

        Loads the durable counters into the tag index, rebuilds open tracks, and makes again the
        commands of alarms and passages that may not have been journalled. Sequencer and read log
        must have been started. All of it is durable on return. LedgerCorrupt if the read log is
        older than the journal, or the journal older than the read log.
        """
        with self._parts.ledger.read() as state:
            check_not_older(state, self._parts.read_log)
        check_not_newer(self._parts.read_log, self._parts.ledger.size)
        self._resume_time()
        self._parts.read_log.load_counters(self._parts.directory.index)
        replayed = 0
        for portal_id, _ in list(self._parts.read_log.positions()):
            with self._parts.ledger.read() as state:
                row = state.get(PORTALS, portal_id)
            if row is not None:
                replayed += self._restore(portal_id, row)[1]
        self._parts.floor.loop.call_soon_threadsafe(self._tick)
        return replayed

    def _resume_time(self) -> None:
        read_log = self._parts.read_log
        used_ns = max((position.service_ns for _, position in read_log.positions()), default=0)
        live_ns = self._parts.challenges.live_ns
        self._parts.service_time.resume(read_log.kept_time(), used_ns, live_ns)

    def _keep_time(self) -> None:
        """Have the read log keep the service's time, if that is due and the last is not on its way."""
        if not self._keeping_time:
            moment = self._parts.service_time.to_keep()
            if moment is not None:
                self._keeping_time = True
                self._parts.read_log.keep_time(moment, self._time_kept)

    def _time_kept(self, _: BaseException | None) -> None:
        """In the read log's thread. Should it have failed, the service ends."""
        self._keeping_time = False

    def _tick(self) -> None:
        """What time alone causes, for every portal."""
        if not self._stopped:
            self._parts.floor.attempt(self._keep_time)
            for session in list(self._sessions.values()):
                self._parts.floor.attempt(session.tick)
            for door in list(self._doors.values()):
                self._parts.floor.attempt(partial(self._seal_over, door))
            self._parts.floor.loop.call_later(self._tick_seconds, self._tick)

    def _seal_over(self, door: Door) -> None:
        """Seal a run that has lasted long enough, whether or not anything still comes."""
        opening = self._openings.get(door.portal_id)
        session = self._sessions.get(door.portal_id)
        # What a stream has on its way to the journal goes first.
        if not (opening and opening.locked()) and (session is None or session.is_idle):
            door.seal_over()

    async def open(
        self,
        portal_id: bytes,
        hello: Hello,
        outbound: Outbound,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> PortalSession:
        """Begin a stream: an older one of this portal is ended and settled, then Welcome is sent.

        `is_wanted` is asked when it is this opening's turn, and at its end: one that was given up
        meanwhile ends nobody's stream and leaves none. Raises HelloRefused, LedgerStopped.
        """
        # Whoever gives up waiting does not leave a portal half opened.
        opening = asyncio.create_task(self._open(portal_id, hello, outbound, is_wanted))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._leave)
            raise

    def _leave(self, opening: asyncio.Task[PortalSession]) -> None:
        """Nobody heard how an opening ended: there is no stream, and an error is told of."""
        if opening.cancelled():
            return
        error = opening.exception()
        if error is None:
            session = opening.result()
            self._parts.floor.loop.create_task(session.stop(End.ABANDONED))
        elif not isinstance(error, (HelloRefused, LedgerStopped)):
            self._parts.on_incident(error)

    async def _open(
        self, portal_id: bytes, hello: Hello, outbound: Outbound, is_wanted: Callable[[], bool]
    ) -> PortalSession:
        with self._parts.ledger.read() as state:
            row = state.get(PORTALS, portal_id)
        if row is None:
            raise HelloRefused(HelloFault.NOT_REGISTERED)
        use = _use(hello, row)
        async with self._openings.setdefault(portal_id, asyncio.Lock()):
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
                await older.stop(End.SUPERSEDED)
            if door.failed:
                door = await asyncio.to_thread(self._rebuild, portal_id, row)
            if hello.portal_epoch > door.epoch:
                await asyncio.to_thread(self._begin_epoch, door, hello.portal_epoch)
            session = PortalSession(door, use, outbound)
            if not is_wanted():
                raise HelloRefused(HelloFault.GONE)
            self._sessions[portal_id] = session
            session.start()
            return session

    def finish(self) -> None:
        """Every session ends in order: what was taken is settled and told, tags are not waited for."""
        for session in list(self._sessions.values()):
            if session.end is None:
                session.finish(wait_quiet=False)

    def fail(self, error: BaseException) -> None:
        """Nothing is told any more: what the ledger or the read log holds is not known. From any
        thread; it takes effect soon.
        """
        self._stopped = True
        with suppress(RuntimeError):
            self._parts.floor.loop.call_soon_threadsafe(self._fail_all, error)

    def _fail_all(self, error: BaseException) -> None:
        for session in list(self._sessions.values()):
            session.fail(error)

    async def stop(self) -> None:
        """End all sessions; all that was taken is settled and durable on return."""
        self._stopped = True
        for portal_id, lock in list(self._openings.items()):
            async with lock:
                session = self._sessions.pop(portal_id, None)
                if session is not None:
                    await session.stop(End.ABANDONED)

    def _door(self, portal_id: bytes, row: PortalRow) -> Door:
        door = self._doors.get(portal_id)
        if door is None:
            door = self._doors[portal_id] = Door(self._parts, portal_id, row)
        return door

    def _rebuild(self, portal_id: bytes, row: PortalRow) -> Door:
        """A stream ended in an error: what it left undone is done again from what is durable."""
        self._parts.read_log.flush()
        self._doors.pop(portal_id).wait_sealed()
        return self._restore(portal_id, row)[0]

    def _restore(self, portal_id: bytes, row: PortalRow) -> tuple[Door, int]:
        door = self._door(portal_id, row)
        position = self._parts.read_log.position(portal_id)
        if position is None:
            return door, 0
        # Should it not be restored wholly, nobody may stand on it.
        door.failed = True
        door.restore(position)
        settler = Resettler(door)

        def handle(judged: Judged) -> None:
            settler.handle(judged)
            settler.drain()

        settler.resume_segment(position)
        replayed = door.replay(position, handle)
        settler.sum_up(door.last_read_ns)
        door.failed = False
        return door, replayed

    def _begin_epoch(self, door: Door, epoch: int) -> None:
        """The portal lost its counter or its clock went back: decide all that is open, start anew."""
        settler = Resettler(door)
        door.failed = True
        with door.lock:
            gone = door.tracker.finish(EVERYTHING_NS, door.taken_sequence)
        settler.handle_gone(gone)
        settler.end_segment()
        settler.drain()
        settler.sum_up(door.last_read_ns)
        with door.lock:
            position = door.begin_epoch(epoch)
        self._parts.read_log.flush(door.portal_id, position)
        door.failed = False


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
