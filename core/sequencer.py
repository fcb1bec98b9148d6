"""The one writer of a realm: decide, apply, journal; many commands per commit, all durable first.

Design section 3. An error in deciding changes nothing and fails that command alone; an error in
applying or committing means that the outcome is unknown, so the writer stops for good and the
ledger verifies itself when it is opened again.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from google.protobuf.message import Message

from core.clock import Clock, system_clock
from core.decisions import Context, Decision, Handler
from core.errors import DecideFailed, LedgerStopped, QueueFull
from core.ledger.ledger import HEADER_SIZE_MAX, Entry, Ledger, Writing
from core.ledger.tables import COMMANDS, WritableState
from core.mechanisms.apply import Where, apply
from core.procedures.repeats import decide_reused
from core.store.v1.rows_pb2 import CommandRow
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.entry_pb2 import Outcome as EntryOutcome
from jinku.event.v1.event_pb2 import Events
from jinku.type.v1.command_pb2 import CommandId

# The rules in force before policy packs exist (piece 5).
POLICY_VERSION = "founding-1"
SALT_SIZE = 16


@dataclass(frozen=True)
class Command:
    """One request to decide.

    `request_digest` is SHA-256 of the bytes received, empty where nothing was received.
    """

    request: Message
    principal: str
    device_id: bytes
    command_id: CommandId
    request_digest: bytes = b""


@dataclass(frozen=True)
class Committed:
    """An entry that is durable. `repeated`: it had been before; nothing was done again."""

    entry_index: int
    header: EntryHeader
    events: Events
    repeated: bool

    @property
    def accepted(self) -> bool:
        """Whether the command was accepted."""
        return self.header.outcome == EntryOutcome.OUTCOME_ACCEPTED


Handlers = Mapping[type[Message], Handler]


def record(header: EntryHeader, events: Events, tables: WritableState) -> None:
    """Everything that an entry does to the tables. Replay calls this and nothing else."""
    key = tables.command_key(header.principal, header.command_id)
    # A command id that came back with another body: the first entry stays its answer, and this
    # one is what that body is answered with from now on.
    if tables.get(COMMANDS, key) is not None:
        key = tables.altered_key(key, header.command, header.request_digest)
    row = CommandRow(entry_index=header.index, request_digest=header.request_digest)
    tables.put(COMMANDS, key, row)
    for ordinal, event in enumerate(events.events):
        apply(event, tables, Where(header.realm, header.index, ordinal))


class Writer:
    """Commits batches of commands. Not thread-safe: it belongs to one sequencer."""

    def __init__(self, ledger: Ledger, handlers: Handlers, clock: Clock = system_clock) -> None:
        self._ledger = ledger
        self._handlers = handlers
        self._clock = clock
        self._last_ns = ledger.last_decided_at_ns

    def commit(self, commands: Sequence[Command]) -> list[Committed | DecideFailed]:
        """Decide and record the commands in order.

        Durable on return. Any exception means: outcome unknown.
        """
        with self._ledger.writing() as writing:
            return [self._one(command, writing) for command in commands]

    def _one(self, command: Command, writing: Writing) -> Committed | DecideFailed:
        state = writing.state
        key = state.command_key(command.principal, command.command_id)
        first = _recall(key, writing)
        if first is not None:
            if _is_same(command, first.header):
                return first
            name = command.request.DESCRIPTOR.full_name
            altered = _recall(state.altered_key(key, name, command.request_digest), writing)
            if altered is not None:
                return altered
        self._last_ns = max(self._last_ns, self._clock())
        context = Context(
            realm=self._ledger.realm, entry_index=writing.next_index, decided_at_ns=self._last_ns,
            principal=command.principal, device_id=command.device_id,
            command_id=command.command_id, request_digest=command.request_digest,
        )  # fmt: skip
        if first is not None:
            decision = decide_reused(first.events, state, context)
        else:
            try:
                decision = self._handlers[type(command.request)].decide(
                    command.request, state, context
                )
            except Exception as error:
                failure = DecideFailed(f"{command.request.DESCRIPTOR.full_name}: {error!r}")
                failure.__cause__ = error
                return failure
        header = _header(command, context, decision)
        events = Events(events=decision.events, extras=decision.extras)
        entry = Entry(header.SerializeToString(deterministic=True),
                      events.SerializeToString(deterministic=True))  # fmt: skip
        if len(entry.header) > HEADER_SIZE_MAX:
            return DecideFailed(f"{header.command}: {len(entry.header)} bytes of header")
        record(header, events, writing.tables)
        for beside in decision.beside:
            writing.tables.put_beside(beside.table, beside.key, beside.row)
        writing.append(entry)
        return Committed(header.index, header, events, repeated=False)


def _recall(key: bytes, writing: Writing) -> Committed | None:
    """The entry that a command is remembered by."""
    row = writing.state.get(COMMANDS, key)
    if row is None:
        return None
    entry = writing.entry(row.entry_index)
    header, events = EntryHeader.FromString(entry.header), Events.FromString(entry.events)
    return Committed(header.index, header, events, repeated=True)


def _is_same(command: Command, header: EntryHeader) -> bool:
    """Whether it is the command of this entry: the same bytes mean another thing to another RPC."""
    return (command.request.DESCRIPTOR.full_name, command.request_digest) == (
        header.command,
        header.request_digest,
    )


def _header(command: Command, context: Context, decision: Decision) -> EntryHeader:
    accepted = decision.accepted
    return EntryHeader(
        realm=context.realm,
        index=context.entry_index,
        salt=os.urandom(SALT_SIZE),
        principal=command.principal,
        device_id=command.device_id,
        command_id=command.command_id,
        command=command.request.DESCRIPTOR.full_name,
        request_digest=command.request_digest,
        decided_at_ns=context.decided_at_ns,
        policy_version=POLICY_VERSION,
        outcome=EntryOutcome.OUTCOME_ACCEPTED if accepted else EntryOutcome.OUTCOME_REFUSED,
        reasons=decision.reasons,
        made_ids=context.made_ids,
    )


class Sequencer:
    """The writer in its own thread, behind a bounded queue."""

    def __init__(
        self,
        ledger: Ledger,
        handlers: Handlers,
        *,
        queue_max: int = 1024,
        batch_max: int = 256,
        clock: Clock = system_clock,
        on_committed: Callable[[Sequence[Committed]], None] = lambda _: None,
        on_stop: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        """`on_committed` runs in the writer's thread, after the commit and before anybody is
        answered.
        """
        self._ledger = ledger
        self._writer = Writer(ledger, handlers, clock)
        self._batch_max = batch_max
        self._on_committed = on_committed
        self._on_stop = on_stop
        # None: the last one, nothing comes after it.
        self._queue: queue.Queue[tuple[Command, Future[Committed]] | None] = queue.Queue(queue_max)
        self._closed = False
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)

    def start(self) -> None:
        """Begin to take commands."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many commands wait."""
        return self._queue.qsize()

    def submit(self, command: Command) -> Future[Committed]:
        """Hand in a command. The future is done only when its entry is durable.

        Raises QueueFull if too many wait, LedgerStopped after `stop` or a fail-stop. The future
        fails with DecideFailed if the procedure raised (nothing recorded), LedgerStopped if the
        outcome is unknown.
        """
        future: Future[Committed] = Future()
        # From here on it cannot be cancelled: a caller who goes away does not take back what it
        # asked for.
        future.set_running_or_notify_cancel()
        with self._gate:
            if self._closed:
                raise LedgerStopped("the writer has stopped")
            try:
                self._queue.put_nowait((command, future))
            except queue.Full:
                raise QueueFull("as many commands wait as the writer takes") from None
        return future

    def stop(self) -> None:
        """Take no more, finish what waits, end the thread. Safe to call twice."""
        with self._gate:
            first, self._closed = not self._closed, True
        if first and self._thread.is_alive():
            self._queue.put(None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            batch, stopping = self._take()
            if batch and not self._commit(batch):
                return

    def _take(self) -> tuple[list[tuple[Command, Future[Committed]]], bool]:
        """Wait for one command, then take what else waits."""
        batch: list[tuple[Command, Future[Committed]]] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) == self._batch_max:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit(self, batch: list[tuple[Command, Future[Committed]]]) -> bool:
        try:
            results = self._writer.commit([command for command, _ in batch])
            self._on_committed([r for r in results if isinstance(r, Committed) and not r.repeated])
        except BaseException as error:
            self._fail(batch, error)
            return False
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, Committed):
                future.set_result(result)
            else:
                future.set_exception(result)
        return True

    def _fail(self, batch: list[tuple[Command, Future[Committed]]], error: BaseException) -> None:
        """Outcome unknown.

        Stop for good, tell everyone who waits, let the next opening verify everything.
        """
        with self._gate:
            self._closed = True
        try:
            self._ledger.suspect()
        finally:
            stopped = LedgerStopped(
                "the outcome of a commit is unknown; the service must be restarted"
            )
            stopped.__cause__ = error
            for _, future in batch:
                future.set_exception(stopped)
            while True:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is not None:
                    item[1].set_exception(stopped)
            self._on_stop(error)
