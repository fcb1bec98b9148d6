"""The portal's side of `PortalService.Stream`: every read arrives exactly once, or is still here.

A `PortalClient` keeps each batch, as the bytes that travel, until the service says it is durable.
When the line breaks it opens a new stream, is told where to resume, and sends the same bytes again
from there. Nothing is dropped in silence: taken = acknowledged + in the window + rejected.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import grpc

from jinku.errors import JinkuError, describe_reason, from_rpc_error
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.v1.portal_pb2 import (
    Acknowledgement,
    Alarm,
    BatchRejected,
    Challenge,
    ChallengePurpose,
    Hello,
    Passage,
    Presentation,
    ReadBatch,
    StreamRequest,
    StreamResponse,
    Welcome,
)

PATH = "/jinku.v1.PortalService/Stream"
# A new stream cannot help: who we are, what we sent, or another stream of this portal.
FINAL_CODES = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.ABORTED,
    }
)
# Said of what follows a rejected batch: the batch itself is not at fault.
FOLLOWING_CODES = frozenset({ReasonCode.REASON_CODE_BATCH_SEQUENCE_JUMPED})


class PortalClosed(JinkuError):
    """The client was closed."""


class ResumeImpossible(JinkuError):
    """Service and client disagree about what was sent: the epoch's counter was lost."""


class FlushTimeout(JinkuError):
    """Batches were still unacknowledged when the time was over; they stay in the window."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """What to do with what the service says; called on the stream's own thread, one at a time."""

    welcome: Callable[[Welcome], None] | None = None
    challenge: Callable[[Challenge], None] | None = None
    acknowledgement: Callable[[Acknowledgement], None] | None = None
    rejected: Callable[[BatchRejected], None] | None = None
    presentation: Callable[[Presentation], None] | None = None
    passage: Callable[[Passage], None] | None = None
    alarm: Callable[[Alarm], None] | None = None


@dataclass(frozen=True, slots=True)
class Accounts:
    """Where every read is. `taken` = `acknowledged` + `in_window` + `rejected`, always."""

    taken: int = 0
    acknowledged: int = 0
    rejected: int = 0
    in_window: int = 0
    # Of the acknowledged: known from a Welcome alone, because the line broke before the word came.
    unheard: int = 0
    batches_resent: int = 0
    streams: int = 0


class PreparedBatch:
    """A batch serialised before it is sent, but for its sequence and its time."""

    def __init__(self, batch: ReadBatch) -> None:
        self.reads = len(batch.antenna) or len(batch.rows)
        rest = ReadBatch()
        rest.CopyFrom(batch)
        rest.ClearField("sequence")
        rest.ClearField("base_time_ns")
        self._rest = rest.SerializeToString()

    def request(self, sequence: int, base_time_ns: int) -> bytes:
        """As it travels: a StreamRequest."""
        head = ReadBatch(sequence=sequence, base_time_ns=base_time_ns).SerializeToString()
        return wrap(head, self._rest)


def wrap(*batch: bytes) -> bytes:
    """A StreamRequest around a batch that is serialised already; its parts are copied once."""
    size = sum(map(len, batch))
    prefix = bytearray((StreamRequest.BATCH_FIELD_NUMBER << 3 | 2,))
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return b"".join((prefix, *batch))


@dataclass(slots=True)
class Held:
    """A batch that is not known to be durable."""

    body: bytes
    reads: int
    sends: int = 0


@dataclass
class Stream:
    """One attempt: what its two threads share. Guarded by the client's condition."""

    resume: int | None = None
    in_flight_max: int = 1
    over: bool = False
    call: Any = field(default=None)


class PortalClient:
    """Sends batches of one portal and hears what the service says. `send` may be called from any
    one thread; use as a context manager or call `close`."""

    def __init__(
        self,
        channel: grpc.Channel,
        hello: Hello,
        handlers: Handlers | None = None,
        *,
        window_max: int = 64,
        backoff_s: float = 0.1,
        backoff_max_s: float = 5.0,
    ) -> None:
        self._channel = channel
        self._hello = StreamRequest(hello=hello).SerializeToString()
        self._handlers = handlers or Handlers()
        self._window_max = window_max
        self._backoff = (backoff_s, backoff_max_s)
        self._changed = threading.Condition()
        self._window: dict[int, Held] = {}
        self._next: int | None = None
        self._accounts = Accounts()
        self._challenges: dict[int, Challenge] = {}
        self._failure: BaseException | None = None
        self._interruption = ""
        self._closing = self._stopping = False
        self._stream = Stream(over=True)
        self._thread = threading.Thread(target=self._run, name="jinku-portal", daemon=True)
        self.limits: Welcome | None = None
        self._thread.start()

    # ── the caller's side ───────────────────────────────────────────────────────────────────────

    def __enter__(self) -> PortalClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    @property
    def accounts(self) -> Accounts:
        with self._changed:
            in_window = sum(held.reads for held in self._window.values())
            return replace(self._accounts, in_window=in_window)

    def send(self, batch: ReadBatch, timeout_s: float | None = None) -> int:
        """Takes the batch and answers its sequence; waits while the window is full.

        The batch is given its sequence and serialised here, once. When this returns it is in the
        window, on its way or about to be; it is durable only when acknowledged.
        """
        reads = len(batch.antenna) or len(batch.rows)

        def request(sequence: int) -> bytes:
            batch.sequence = sequence
            return wrap(batch.SerializeToString())

        return self._send(request, reads, timeout_s)

    def send_prepared(
        self, batch: PreparedBatch, base_time_ns: int, timeout_s: float | None = None
    ) -> int:
        """The same for a batch that was serialised before, with its time."""
        return self._send(
            lambda sequence: batch.request(sequence, base_time_ns), batch.reads, timeout_s
        )

    def _send(self, request: Callable[[int], bytes], reads: int, timeout_s: float | None) -> int:
        with self._changed:
            self._wait(self._has_room, timeout_s, "the window stayed full")
            limit = self.limits.batch_reads_max if self.limits else 0
            if limit and reads > limit:
                raise ValueError(f"a batch of {reads} reads; the service takes {limit}")
            assert self._next is not None
            sequence = self._next
            self._window[sequence] = Held(request(sequence), reads)
            self._next = sequence + 1
            self._count(taken=reads)
            self._changed.notify_all()
            return sequence

    def wait_challenge(
        self,
        purpose: ChallengePurpose = ChallengePurpose.CHALLENGE_PURPOSE_LIVE,
        timeout_s: float = 10.0,
    ) -> Challenge:
        """The newest challenge of that purpose."""
        with self._changed:
            self._wait(lambda: purpose in self._challenges, timeout_s, "no challenge came")
            return self._challenges[purpose]

    def flush(self, timeout_s: float | None = 30.0) -> None:
        """Waits until every batch taken is durable (or rejected)."""
        with self._changed:
            self._wait(lambda: not self._window, timeout_s, "unacknowledged batches remain")

    def close(self, timeout_s: float = 30.0) -> None:
        """Flushes, ends the stream in order and waits for what the service still says."""
        try:
            self.flush(timeout_s)
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._thread.join(timeout_s)
        finally:
            self.abandon()
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """Ends at once. What is in the window stays counted there."""
        with self._changed:
            self._closing = self._stopping = True
            call = self._stream.call
            self._changed.notify_all()
        if call is not None:
            call.cancel()
        self._thread.join(10)

    def break_line(self) -> None:
        """Drops the present stream as a broken line would; the client opens another."""
        with self._changed:
            call = self._stream.call
        if call is not None:
            call.cancel()

    def _has_room(self) -> bool:
        return self._next is not None and len(self._window) < self._window_max

    def _wait(self, ready: Callable[[], bool], timeout_s: float | None, what: str) -> None:
        def settled() -> bool:
            return self._failure is not None or self._stopping or ready()

        in_time = self._changed.wait_for(settled, timeout_s)
        if self._failure is not None:
            raise self._failure
        if not in_time:
            raise FlushTimeout(f"{what} for {timeout_s:g} s. {self._interruption}".rstrip())
        if not ready():
            raise PortalClosed("the portal client was closed")

    def _count(self, **more: int) -> None:
        present = {name: getattr(self._accounts, name) + count for name, count in more.items()}
        self._accounts = replace(self._accounts, **present)

    # ── the stream's side ───────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        attempt = 0
        while not self._stopping:
            stream = Stream()
            try:
                finished = self._converse(stream)
            except grpc.RpcError as error:
                finished = self._closing and not self._window
                failure = from_rpc_error(error)
                self._interruption = f"The last stream ended: {failure}"
                if failure.code in FINAL_CODES and not self._stopping:
                    return self._fail(failure)
            except Exception as error:
                return self._fail(error)
            finally:
                with self._changed:
                    stream.over = True
                    self._changed.notify_all()
                if stream.call is not None:
                    stream.call.cancel()
            if finished:
                return None
            attempt = 0 if stream.resume is not None else attempt + 1
            self._pause(attempt)
        return None

    def _pause(self, attempt: int) -> None:
        first, most = self._backoff
        delay = min(first * 2**attempt, most) * random.uniform(0.5, 1.0)
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, delay)

    def _fail(self, failure: BaseException) -> None:
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def _converse(self, stream: Stream) -> bool:
        """One stream to its end; True if it ended because we are done."""
        open_stream: Any = self._channel.stream_stream(PATH, None, StreamResponse.FromString)
        call = open_stream(self._requests(stream))
        with self._changed:
            self._stream = stream
            stream.call = call
            self._count(streams=1)
            if self._stopping:
                call.cancel()
        for response in call:
            self._hear(stream, response)
        with self._changed:
            return self._closing and not self._window

    def _requests(self, stream: Stream) -> Iterator[bytes]:
        """What goes out: the Hello, then the window from where the service wants it."""
        yield self._hello
        with self._changed:
            self._changed.wait_for(lambda: stream.over or stream.resume is not None)
            cursor = stream.resume or 0
        while True:
            with self._changed:
                while not self._may_go(stream, cursor):
                    self._changed.wait()
                held = self._window.get(cursor)
                if stream.over or held is None:
                    return
                held.sends += 1
                if held.sends > 1:
                    self._count(batches_resent=1)
                body = held.body
            yield body
            cursor += 1

    def _may_go(self, stream: Stream, cursor: int) -> bool:
        """Whether the sender has something to do: a batch to send, or to leave."""
        if stream.over or (self._closing and cursor == self._next):
            return True
        first = next(iter(self._window), cursor)
        return cursor in self._window and cursor < first + stream.in_flight_max

    def _hear(self, stream: Stream, response: StreamResponse) -> None:
        kind = response.WhichOneof("message")
        if kind is None:
            return
        message = getattr(response, kind)
        if kind == "welcome":
            self._welcome(stream, message)
        elif kind == "challenge":
            with self._changed:
                self._challenges[message.purpose] = message
                self._changed.notify_all()
        elif kind == "acknowledgement":
            self._settle(message.through_sequence)
        elif kind == "rejected":
            self._reject(stream, message)
        handler = getattr(self._handlers, kind)
        if handler is not None:
            handler(message)

    def _welcome(self, stream: Stream, welcome: Welcome) -> None:
        with self._changed:
            first = next(iter(self._window), self._next)
            if self._next is None:
                self._next = welcome.resume_sequence
            elif first is not None and not first <= welcome.resume_sequence <= self._next:
                raise ResumeImpossible(
                    f"the service wants batch {welcome.resume_sequence}, here are {first} to "
                    f"{self._next - 1}: start this portal with a new epoch"
                )
            self.limits = welcome
        # What the service does not want again was durable before the line broke.
        self._settle(welcome.resume_sequence - 1, heard=False)
        with self._changed:
            # Challenges of the stream before may be over.
            self._challenges.clear()
            stream.in_flight_max = max(welcome.batches_in_flight_max, 1)
            stream.resume = welcome.resume_sequence
            self._changed.notify_all()

    def _settle(self, through: int, *, heard: bool = True) -> None:
        with self._changed:
            for sequence in [number for number in self._window if number <= through]:
                reads = self._window.pop(sequence).reads
                self._count(acknowledged=reads, unheard=0 if heard else reads)
            self._changed.notify_all()

    def _reject(self, stream: Stream, rejected: BatchRejected) -> None:
        """Takes a faulty batch out; those behind it move up and go over a new stream."""
        codes = {reason.code for reason in rejected.refused.reasons}
        if ReasonCode.REASON_CODE_BATCH_NO_LONGER_KEPT in codes:
            # It was taken, long ago.
            self._settle(rejected.sequence, heard=False)
            return
        with self._changed:
            if codes & FOLLOWING_CODES or rejected.sequence not in self._window:
                return
            self._count(rejected=self._window.pop(rejected.sequence).reads)
            behind = [number for number in self._window if number > rejected.sequence]
            for number in behind:
                held = self._window.pop(number)
                self._window[number - 1] = Held(renumber(held.body, number - 1), held.reads)
            if self._next is not None:
                self._next -= 1
            stream.over = True
            self._changed.notify_all()
        stream.call.cancel()


def renumber(body: bytes, sequence: int) -> bytes:
    """The same batch under another sequence; only ever for batches that the service never took."""
    request = StreamRequest.FromString(body)
    request.batch.sequence = sequence
    return request.SerializeToString()


def describe_rejection(rejected: BatchRejected) -> Sequence[str]:
    """Why a batch was not taken, a line per reason."""
    return [describe_reason(reason) for reason in rejected.refused.reasons]
