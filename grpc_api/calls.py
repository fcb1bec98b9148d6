"""One call from its first byte to its answer: who, may they, is it well-formed, then `core`.

The order matters. Nothing is parsed for a caller who may not call; nothing is submitted that the
guard would refuse; nothing is answered before its entry is durable, and the answer is made from the
entry. A call that its client cancels or stops waiting for is not a command undone: once submitted
it is decided and journalled, and the same bytes sent again get its answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from core import guard
from core.authority import Caller
from core.decisions import Handler
from core.errors import DecideFailed, InvalidRequest, LedgerBusy, LedgerStopped, QueueFull
from core.ledger.ledger import Ledger
from core.procedures.table import Query
from core.reasons import refusal
from core.sequencer import Command, Committed
from jinku.type.v1.command_pb2 import CommandId, DurabilityLevel
from jinku.v1.common_pb2 import Accepted, Outcome

from . import errors
from .errors import CallRefused
from .identity import Authority, authenticate
from .limits import CallKind, Context, Gate, read_first
from .metrics import Metrics
from .table import Rpc, RpcKind

log = structlog.get_logger()


class Submitter(Protocol):
    """The part of the sequencer that a call uses."""

    def submit(self, command: Command) -> Future[Committed]: ...


class StreamDesk(Protocol):
    """Serves the messages of a stream; see `grpc_api.portal`."""

    async def stream(self, context: Context, caller: Caller) -> None: ...


@dataclass(frozen=True)
class Calls:
    """What every call needs. One per service, used in the loop's thread."""

    ledger: Ledger
    sequencer: Submitter
    handlers: Mapping[type[Message], Handler]
    queries: Mapping[type[Message], Query]
    authority: Authority
    streams: Mapping[str, StreamDesk]
    gate: Gate
    metrics: Metrics
    # Queries are answered beside the loop: some read much.
    readers: Executor

    # -- what gRPC calls --------------------------------------------------------------------------

    async def unary(self, rpc: Rpc, context: Context) -> bytes:
        """One request, one answer. Ends the call with a status if there is none."""
        ending = _Ending(self.metrics, rpc)
        try:
            with self.gate.enter(CallKind.CALL):
                return await self._answer(rpc, context)
        except asyncio.CancelledError:
            ending.cancelled()
            raise
        except Exception as error:
            refused = ending.refuse(error)
        finally:
            ending.note()
        return await errors.abort(context, refused)

    async def stream(self, rpc: Rpc, context: Context) -> None:
        """A conversation, until either side ends it or the client stops reading."""
        ending = _Ending(self.metrics, rpc)
        try:
            with self.gate.enter(CallKind.STREAM):
                caller = self.authority.authorise(authenticate(context), rpc.name)
                await self.streams[rpc.name].stream(context, caller)
            return
        except asyncio.CancelledError:
            ending.cancelled()
            raise
        except Exception as error:
            refused = ending.refuse(error)
        finally:
            ending.note()
        await errors.abort(context, refused)

    # -- inside -----------------------------------------------------------------------------------

    async def _answer(self, rpc: Rpc, context: Context) -> bytes:
        caller = self.authority.authorise(authenticate(context), rpc.name)
        received = await read_first(context)
        if received is None:
            raise errors.message_missing()
        request = parse(rpc, received)
        response: Message
        if rpc.kind is RpcKind.QUERY:
            query = self.queries[rpc.request]
            loop = asyncio.get_running_loop()
            response = await loop.run_in_executor(self.readers, query.answer, request, self.ledger)
        else:
            response = await self._command(rpc, request, received, caller, context)
        answer: bytes = response.SerializeToString()
        return answer

    async def _command(
        self, rpc: Rpc, request: Message, received: bytes, caller: Caller, context: Context
    ) -> Message:
        handler = self.handlers[rpc.request]
        if handler.answer is None:
            raise TypeError(f"{rpc.name}: its handler answers nobody")
        # Any: every command of the public services has this field, the guard sees to it.
        command_id = CommandId(client=getattr(request, "command_id"))  # noqa: B009
        command = Command(
            request=request,
            principal=str(caller.principal),
            device_id=caller.device_id,
            command_id=command_id,
            request_digest=hashlib.sha256(received).digest(),
        )
        committed = await self._commit(rpc, command, context)
        return handler.answer(committed.header, committed.events, self._outcome(committed))

    async def _commit(self, rpc: Rpc, command: Command, context: Context) -> Committed:
        started = time.monotonic()
        try:
            future = self.sequencer.submit(command)
        except QueueFull:
            raise errors.queue_full() from None
        except LedgerStopped:
            raise errors.stopped() from None
        # Added even if it is done by then: what it raised was not heard here.
        unheard = partial(_note_unheard, rpc)
        try:
            # No deadline: as long as the writer needs, which stops rather than hang.
            async with asyncio.timeout(context.time_remaining()):
                committed = await asyncio.wrap_future(future)
        except LedgerStopped:
            raise errors.stopped() from None
        except TimeoutError:
            future.add_done_callback(unheard)
            raise errors.late() from None
        except asyncio.CancelledError:
            future.add_done_callback(unheard)
            raise
        self.metrics.durable(time.monotonic() - started)
        return committed

    def _outcome(self, committed: Committed) -> Outcome:
        header = committed.header
        outcome = Outcome(level=DurabilityLevel.DURABILITY_LEVEL_LOCAL)
        if committed.recorded:
            outcome.receipt.CopyFrom(self.ledger.receipt(committed.entry_index))
            outcome.entry_index = committed.entry_index
        if committed.accepted:
            outcome.accepted.CopyFrom(Accepted(decided_at_ns=header.decided_at_ns))
        else:
            outcome.refused.CopyFrom(refusal(header.reasons))
            if not committed.repeated:
                self.metrics.refused(reason.name for reason in outcome.refused.reasons)
        return outcome


def parse(rpc: Rpc, received: bytes) -> Message:
    """The request in these bytes.

    Raises:
        CallRefused: INVALID_ARGUMENT, with the fields that the guard refuses.
    """
    try:
        request = rpc.request.FromString(received)
    except DecodeError:
        raise errors.malformed(rpc.request.DESCRIPTOR.full_name) from None
    size = len(received)
    found = guard.unlisted(request, size) or guard.violations(request, size)
    if found:
        raise errors.invalid(found)
    return request


class _Ending:
    """Counts one call when it ends, and turns whatever went wrong into what the caller is told."""

    def __init__(self, metrics: Metrics, rpc: Rpc) -> None:
        self._metrics = metrics
        self._rpc = rpc
        self._code = grpc.StatusCode.OK
        self._started = time.monotonic()

    def refuse(self, error: Exception) -> CallRefused:
        if isinstance(error, InvalidRequest):
            error = errors.invalid(error.violations)
        if isinstance(error, LedgerBusy):
            error = errors.ledger_busy()
        if isinstance(error, LedgerStopped):
            error = errors.stopped()
        if not isinstance(error, CallRefused):
            error = self._incident(error)
        self._code = error.code
        self._metrics.call_rejected(error.reason)
        return error

    def cancelled(self) -> None:
        """The peer is gone, or was cut off."""
        self._code = grpc.StatusCode.CANCELLED

    def note(self) -> None:
        elapsed = time.monotonic() - self._started
        self._metrics.call_ended(self._rpc.name, self._code.name, elapsed)
        log.debug(
            "call", rpc=self._rpc.name, code=self._code.name, duration_ms=round(elapsed * 1e3, 2)
        )

    def _incident(self, error: Exception) -> CallRefused:
        return errors.internal(note_incident(error, self._rpc.name))


def _note_unheard(rpc: Rpc, future: Future[Committed]) -> None:
    """A procedure that raised after its caller had gone is an incident all the same."""
    error = future.exception()
    if isinstance(error, DecideFailed):
        note_incident(error, rpc.name)


def note_incident(error: BaseException, rpc: str = "") -> str:
    """Logs an error that nobody expected; returns the incident id that the caller is told."""
    incident = secrets.token_hex(8)
    cause = error.__cause__ if isinstance(error, DecideFailed) else None
    log.error("incident", rpc=rpc, incident=incident, exc_info=cause or error)
    return incident
