"""Deciding and recording batches of commands: what the sequencer's thread does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from google.protobuf.message import Message

from core.authority import Kind, Principal
from core.clock import Clock, system_clock
from core.decisions import Context, Decision, Handler, reason
from core.errors import DecideFailed, LedgerCorrupt, LimitExceeded
from core.journal_clock import JournalClock, Jump, JumpBook, boot_clock
from core.ledger.port import Batch, Entry, LogPort
from core.ledger.tables import COMMANDS, SUPPRESSED, WritableState
from core.mechanisms.apply import Where, apply
from core.procedures.founding import OWN_NAME
from core.procedures.repeats import decide_reused
from core.refusals import Pending, Quota, count_recorded, suppress
from core.settings import SequencerSettings
from core.store.v1.rows_pb2 import CommandRow
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.entry_pb2 import Outcome as EntryOutcome
from jinku.event.v1.event_pb2 import Events
from jinku.type.v1.command_pb2 import CommandId
from jinku.type.v1.reason_pb2 import ReasonCode

# The rules in force before policy packs exist (piece 5).
POLICY_VERSION: Final = "founding-1"
SALT_SIZE: Final = 16

_ACCEPTED: Final = EntryOutcome.OUTCOME_ACCEPTED
_REFUSED: Final = EntryOutcome.OUTCOME_REFUSED
_NOT_RECORDED: Final = ReasonCode.REASON_CODE_REFUSAL_NOT_RECORDED


@dataclass(frozen=True, slots=True)
class Command:
    """One request to decide.

    `request_digest` is SHA-256 of the bytes received, empty where nothing was received.
    """

    request: Message
    principal: str
    device_id: bytes
    command_id: CommandId
    request_digest: bytes = b""


class Committed(NamedTuple):
    """What was decided, durably. `repeated`: it had been before; nothing was done again.

    `recorded` is False for a refusal beyond its caller's quota: it is counted and digested, but has
    no entry. `entry_index` is then 0 and names none, and the same command sent again is decided
    anew.
    """

    entry_index: int
    header: EntryHeader
    events: Events
    repeated: bool
    recorded: bool = True

    @property
    def accepted(self) -> bool:
        """Whether the command was accepted."""
        return bool(self.header.outcome == _ACCEPTED)


Handlers = Mapping[type[Message], Handler]


def record(
    header: EntryHeader, events: Events, tables: WritableState, key: bytes | None = None
) -> None:
    """Everything that an entry does to the tables. Replay calls this and nothing else.

    `key` is where the command is to be remembered, for who knows it already.
    """
    if key is None:
        key = tables.command_key(header.principal, header.command_id)
        # A command id that came back with another body: the first entry stays its answer, and this
        # one is what that body is answered with from now on.
        if tables.get(COMMANDS, key) is not None:
            key = tables.altered_key(key, header.command, header.request_digest)
    row = CommandRow(entry_index=header.index, request_digest=header.request_digest)
    tables.put(COMMANDS, key, row)
    if header.refusal_number:
        refusal_key = tables.refusal_key(header.principal, bool(events.events))
        count_recorded(header, refusal_key, tables)
    for ordinal, event in enumerate(events.events):
        apply(event, tables, Where(header.realm, header.index, ordinal))


class Writer:
    """Commits batches of commands. Not thread-safe: it belongs to one sequencer."""

    def __init__(
        self,
        log: LogPort,
        handlers: Handlers,
        clock: Clock = system_clock,
        *,
        steady: Clock = boot_clock,
        quota: Quota | None = None,
        on_jump: Callable[[Jump], None] = lambda _: None,
    ) -> None:
        """`on_jump` is told, in the thread that commits, where `clock` jumps and `steady` does not."""
        self._log = log
        self._handlers = handlers
        self._quota = quota or Quota.of(SequencerSettings())
        self._on_jump = on_jump
        self._jumps = JumpBook(self._quota.interval_ns)
        self.clock = JournalClock(log.last_decided_at_ns, clock, steady, self._jumped)
        self._now_ns = log.last_decided_at_ns
        # Also what was suppressed before the last start.
        rows = log.append_if(log.head, lambda batch: list(batch.state.scan(SUPPRESSED)))
        self._pending = Pending(self._quota, rows)

    def commit(self, commands: Sequence[Command]) -> list[Committed | DecideFailed]:
        """Decide and record the commands in order.

        Durable on return. Any exception means: outcome unknown.
        """
        self._now_ns = self.clock.now_ns()
        return self._log.append_if(self._log.head, lambda batch: self._decide_all(commands, batch))

    def tend(self) -> list[Committed]:
        """Record what time alone has caused: refusals counted in an interval that is over, a clock
        that jumped.

        Durable on return; as `commit`.
        """
        now_ns = self.clock.now_ns()
        due = [*self._pending.take_due(now_ns), *self._jumps.take_due(now_ns)]
        own = str(Principal(self._log.trust_domain, self._log.realm, Kind.SERVICE, OWN_NAME))
        commands = [Command(request, own, b"", id_) for request, id_ in due]
        tended: list[Committed] = []
        most = self._log.limits.entries_max
        for at in range(0, len(commands), most):
            for result in self.commit(commands[at : at + most]):
                if isinstance(result, DecideFailed):
                    raise result
                tended.append(result)
        return tended

    def idle_ns(self) -> int | None:
        """How long there is nothing to tend to; None: until something is committed."""
        times = (self._pending.next_ns, self._jumps.next_ns)
        next_ns = min((at_ns for at_ns in times if at_ns is not None), default=None)
        return None if next_ns is None else max(0, next_ns - self.clock.now_ns())

    def _jumped(self, jump: Jump) -> None:
        self._jumps.add(jump)
        self._on_jump(jump)

    def _decide_all(
        self, commands: Sequence[Command], batch: Batch
    ) -> list[Committed | DecideFailed]:
        return [self._one(command, batch) for command in commands]

    def _one(self, command: Command, batch: Batch) -> Committed | DecideFailed:
        state = batch.state
        key = state.command_key(command.principal, command.command_id)
        first = _recall(command, key, batch)
        if first is not None:
            if _is_same(command, first.header):
                return first
            name = command.request.DESCRIPTOR.full_name
            key = state.altered_key(key, name, command.request_digest)
            altered = _recall(command, key, batch)
            if altered is not None:
                return altered
        context = Context(
            self._log.realm, batch.next_index, self._now_ns, command.principal, command.device_id,
            command.command_id, command.request_digest,
        )  # fmt: skip
        try:
            if first is not None:
                decision = decide_reused(first.events, state, context)
            else:
                handler = self._handlers[type(command.request)]
                decision = handler.decide(command.request, state, context)
        except Exception as error:
            failure = DecideFailed(f"{command.request.DESCRIPTOR.full_name}: {error!r}")
            failure.__cause__ = error
            return failure
        return self._record(command, context, decision, key, batch)

    def _record(
        self, command: Command, context: Context, decision: Decision, key: bytes, batch: Batch
    ) -> Committed | DecideFailed:
        header = _header(command, context, decision)
        if decision.reasons and command.command_id.HasField("client"):
            refusal_key = batch.state.refusal_key(command.principal, bool(decision.events))
            if not self._quota.number(header, batch.state, refusal_key):
                return self._suppress(header, refusal_key, batch)
        header.index = context.entry_index
        header.salt = os.urandom(SALT_SIZE)
        events = Events(events=decision.events, extras=decision.extras)
        entry = Entry(header.SerializeToString(deterministic=True),
                      events.SerializeToString(deterministic=True))  # fmt: skip
        try:
            batch.append(entry)
        except LimitExceeded as error:
            return DecideFailed(f"{header.command}: {error}")
        tables = batch.tables
        record(header, events, tables, key)
        for beside in decision.beside:
            tables.put_beside(beside.table, beside.key, beside.row)
        return Committed(header.index, header, events, repeated=False)

    def _suppress(self, header: EntryHeader, refusal_key: bytes, batch: Batch) -> Committed:
        """Beyond the quota: the answer says so, and nothing else of it is kept."""
        header.ClearField("made_ids")
        row = suppress(header, refusal_key, batch.tables)
        self._pending.add(refusal_key, row)
        header.reasons.append(reason(_NOT_RECORDED, str(row.count)))
        return Committed(0, header, Events(), repeated=False, recorded=False)


def _recall(command: Command, key: bytes, batch: Batch) -> Committed | None:
    """The entry that a command is remembered by. LedgerCorrupt if that is another command's."""
    row = batch.state.get(COMMANDS, key)
    if row is None:
        return None
    entry = batch.entry(row.entry_index)
    header, events = EntryHeader.FromString(entry.header), Events.FromString(entry.events)
    if (header.principal, header.command_id) != (command.principal, command.command_id):
        raise LedgerCorrupt(
            f"command {key.hex()}", f"is remembered by entry {row.entry_index}, another"
        )
    return Committed(header.index, header, events, repeated=True)


def _is_same(command: Command, header: EntryHeader) -> bool:
    """Whether it is the command of this entry: the same bytes mean another thing to another RPC."""
    return (command.request.DESCRIPTOR.full_name, command.request_digest) == (
        header.command,
        header.request_digest,
    )


def _header(command: Command, context: Context, decision: Decision) -> EntryHeader:
    """Without index and salt, which only what is recorded has."""
    return EntryHeader(
        realm=context.realm,
        principal=command.principal,
        device_id=command.device_id,
        command_id=command.command_id,
        command=command.request.DESCRIPTOR.full_name,
        request_digest=command.request_digest,
        decided_at_ns=context.decided_at_ns,
        policy_version=POLICY_VERSION,
        outcome=_REFUSED if decision.reasons else _ACCEPTED,
        reasons=decision.reasons,
        made_ids=context.made_ids,
    )
