"""Completes erasures: everybody else's keys go under a new wrapping key, the old one is destroyed.

Each step is done when the journal or the directory of keys says so, and every run begins from what
they say, so that a run that was cut off anywhere is finished by the next. The order is what makes it
safe: a new key's file is durable before anything is wrapped under it; the wrap set is durable before
a key is destroyed; a key is destroyed when nothing is under it; and only then is it called destroyed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import Message

from core.clock import Clock, system_clock
from core.errors import LedgerCorrupt, LedgerStopped, QueueFull, WrappingKeyMissing
from core.ledger.ledger import Ledger
from core.ledger.tables import REALM_KEY, SUBJECT_KEYS, SUBJECTS, WRAPPING
from core.personal.office import kept_subject
from core.personal.wrapping import WrappingKeys
from core.sequencer import Command, Committed, Sequencer
from core.store.v1.personal_pb2 import (
    CarryErasure,
    NoteWrappingKeyDestroyed,
    RewrapSubjectKeys,
    TakeWrappingKey,
    WrappedSubject,
    WrappingRow,
    WrapSet,
)
from jinku.type.v1.command_pb2 import CommandId, SchedulerCommandId

# In one commit, which everybody else's commands wait for.
_REWRAPPED_MAX: Final = 500
_QUEUE_RETRY_SECONDS: Final = 0.05
_RETRY_SECONDS: Final = 60.0


class Stopped(LedgerStopped):
    """The service ends."""


@dataclass(frozen=True)
class EraserParts:
    """Opened elsewhere."""

    ledger: Ledger
    keys: WrappingKeys
    sequencer: Sequencer
    principal: str
    # Somebody should look: it is tried again.
    on_incident: Callable[[BaseException], object] = lambda _: None
    # The wrapping key was replaced: copies of the directory of keys are to be made anew.
    on_replaced: Callable[[int], None] = lambda _: None
    clock: Clock = system_clock
    stopping: threading.Event = field(default_factory=threading.Event)


class Eraser:
    """One per service, in a thread of its own; started after the sequencer."""

    def __init__(self, parts: EraserParts) -> None:
        self._parts = parts
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eraser", daemon=True)

    def start(self) -> None:
        """Begin with what an earlier run left undone."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step that is being done. Safe to call twice."""
        self._parts.stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def on_committed(self, committed: Sequence[Committed]) -> None:
        """Follow the journal; called by the writer, never waits."""
        for entry in committed:
            if any(event.HasField("subject_erased") for event in entry.events.events):
                self.wake()

    def wake(self) -> None:
        """Look whether there is something to be done."""
        self._wake.set()

    def _run(self) -> None:
        stopping = self._parts.stopping
        while not stopping.is_set():
            self._wake.clear()
            try:
                self.complete()
            except LedgerStopped:
                return
            except Exception as error:
                if stopping.is_set():
                    return
                self._parts.on_incident(error)
                self._wake.wait(_RETRY_SECONDS)
                continue
            self._wake.wait()

    def complete(self) -> bool:
        """Do all that is to be done now; whether a wrapping key was destroyed.

        Raises LedgerStopped, WrappingKeyMissing for subjects whose keys neither a wrapping key nor
        the wrap set opens, and what the file system says.
        """
        keys = self._parts.keys
        taken = self._taken()
        if taken.erased_generation > taken.destroyed_generation and (
            taken.erased_generation >= keys.newest
        ):
            keys.begin_next()
        if not taken.generation:
            return False
        if keys.newest > taken.generation:
            self._submit(TakeWrappingKey())
        replaced = keys.newest - 1
        if replaced <= taken.destroyed_generation:
            return False
        self._rewrap_all()
        wraps = self._wrap_set()
        # One that is there is of the time when this key was made, and may know more than a ledger
        # that was put back.
        if not keys.has_set:
            keys.write_set(wraps)
        keys.destroy_through(replaced)
        self._submit(NoteWrappingKeyDestroyed(generation=replaced))
        self._parts.on_replaced(keys.newest)
        return True

    def _taken(self) -> WrappingRow:
        with self._parts.ledger.read() as state:
            return state.get(WRAPPING, REALM_KEY) or WrappingRow()

    def _rewrap_all(self) -> None:
        """Whatever is under an older wrapping key goes under the newest, or is erased."""
        keys = self._parts.keys
        erased = keys.erased
        start, missing = b"", 0
        while True:
            older, start = self._older(start)
            for subject_id in older:
                if subject_id in erased:
                    self._submit(CarryErasure(subject_id=subject_id))
            openable = [one for one, is_openable in older.items() if is_openable]
            if openable:
                self._submit(RewrapSubjectKeys(subject_ids=openable))
            missing += len(older.keys() - erased - set(openable))
            if not start:
                break
        if missing:
            raise WrappingKeyMissing(
                f"keys of {missing} persons are wrapped under wrapping keys that are neither in the "
                "directory of keys nor in the wrap set; put the newest copy of that directory back"
            )

    def _older(self, start: bytes) -> tuple[dict[bytes, bool], bytes]:
        """The next subjects whose keys are under an older wrapping key, or there although they must
        not be; whether each can be rewrapped or removed, and where to go on; nowhere: empty.
        """
        keys, found = self._parts.keys, dict[bytes, bool]()
        with self._parts.ledger.read() as state:
            for subject_id, row in state.scan(SUBJECT_KEYS, start=start):
                if len(found) == _REWRAPPED_MAX:
                    return found, subject_id
                if kept_subject(state, subject_id) is None:
                    found[subject_id] = True
                elif row.generation != keys.newest:
                    found[subject_id] = keys.can_unwrap(subject_id, row)
        return found, b""

    def _wrap_set(self) -> WrapSet:
        wraps, newest = WrapSet(), self._parts.keys.newest
        with self._parts.ledger.read() as state:
            for subject_id, row in state.scan(SUBJECT_KEYS):
                if row.generation != newest or kept_subject(state, subject_id) is None:
                    raise LedgerCorrupt(f"key of {subject_id.hex()}", "was not rewrapped")
                wraps.kept.append(WrappedSubject(subject_id=subject_id, wrapped=row.wrapped))
            erased = (subject_id for subject_id, row in state.scan(SUBJECTS) if row.erased_at_ns)
            wraps.erased.extend(erased)
        return wraps

    def _submit(self, request: Message) -> None:
        """Durable on return."""
        parts = self._parts
        job = f"{request.DESCRIPTOR.name}/{parts.ledger.size}"
        command = Command(
            request=request,
            principal=parts.principal,
            device_id=b"",
            command_id=CommandId(scheduler=SchedulerCommandId(job=job, due_ns=parts.clock())),
        )
        while True:
            if parts.stopping.is_set():
                raise Stopped("the service ends")
            try:
                parts.sequencer.submit(command).result()
            except QueueFull:
                parts.stopping.wait(_QUEUE_RETRY_SECONDS)
            else:
                return
