"""`PortalService.Stream` over gRPC: one reader thread, one bounded queue of answers per stream.

The reader pulls a request only when the one before was taken, and the session takes none while its
answers are not: a client that sends and never reads is held up, costs a bounded amount of memory,
and loses its stream to the write deadline. What it had sent and what was durable stays durable.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from core import guard
from core.authority import Caller
from core.errors import LedgerStopped, Violation, ViolationKind
from core.portal.desk import HelloFault, HelloRefused, PortalDesk
from core.portal.session import End, PortalSession, SessionEnded
from jinku.v1.portal_pb2 import Hello, StreamRequest, StreamResponse

from . import errors
from .errors import CallRefused
from .identity import authenticate

# Answers that wait for the client, by number and by size; whoever has more to say waits.
OUTBOUND_MESSAGES_MAX: Final = 64
OUTBOUND_BYTES_MAX: Final = 2 << 20
# How often a silent stream looks whether the service drains.
LOOK_SECONDS: Final = 0.1
# How often a stream looks whether its client's certificate has expired.
CERTIFICATE_SECONDS: Final = 1.0


class Outbound:
    """Messages on their way to one client. Bounded: `put` waits for room."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self.end: End | None = None

    def put(self, response: StreamResponse) -> None:
        """Queue a message; returns when there was room, or at once when the stream is over."""
        body = response.SerializeToString()
        with self._changed:
            self._changed.wait_for(lambda: self.end is not None or self._has_room())
            if self.end is None:
                self._messages.append(body)
                self._bytes += len(body)
                self._changed.notify_all()

    def close(self, end: End) -> None:
        """Nothing more will be put. What is queued is still taken after an end in order."""
        with self._changed:
            if self.end is None:
                self.end = end
            if self.end is not End.FINISHED:
                self._messages.clear()
            self._changed.notify_all()

    def get(self, timeout: float) -> bytes | None:
        """The next message; None after `timeout`, or when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self.end is not None, timeout)
            if not self._messages:
                return None
            body = self._messages.popleft()
            self._bytes -= len(body)
            self._changed.notify_all()
            return body

    @property
    def is_over(self) -> bool:
        """Whether the end is reached and all of it was taken."""
        with self._changed:
            return self.end is not None and not self._messages

    def _has_room(self) -> bool:
        return not self._messages or (
            len(self._messages) < OUTBOUND_MESSAGES_MAX and self._bytes < OUTBOUND_BYTES_MAX
        )


class PortalStreams:
    """Serves the streams of all portals. A portal is whom its certificate names, never its Hello."""

    def __init__(self, desk: PortalDesk, *, is_open: Callable[[], bool] = lambda: True) -> None:
        """`is_open` turns false when the service drains: streams then settle and end."""
        self._desk = desk
        self._is_open = is_open

    def stream(
        self, request_iterator: Iterator[bytes], context: grpc.ServicerContext, caller: Caller
    ) -> Iterator[bytes]:
        """The answers to one portal's requests, until either side ends the stream.

        Raises CallRefused: INVALID_ARGUMENT for what is no request or no Hello, FAILED_PRECONDITION
        for an epoch that is over, ABORTED when a newer stream took over, UNAVAILABLE when the
        service drains or has stopped; what was taken is settled before.
        """
        hello = _read_hello(next(request_iterator, None))
        outbound = Outbound()
        # The call may end while nobody waits in this generator.
        if not context.add_callback(lambda: outbound.close(End.ABANDONED)):
            outbound.close(End.ABANDONED)
        try:
            session = self._desk.open(
                caller.device_id, hello, outbound.put, outbound.close, lambda: outbound.end is None
            )
        except HelloRefused as refused:
            raise _refuse_hello(refused) from None
        except LedgerStopped:
            raise errors.stopped() from None
        reader = _Reader(request_iterator, session)
        reader.start()
        try:
            yield from self._drain(outbound, session, context)
        finally:
            outbound.close(End.ABANDONED)
            session.stop(End.ABANDONED)
        self._conclude(outbound.end, session, reader)

    def _drain(
        self, outbound: Outbound, session: PortalSession, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        look_at = time.monotonic()
        while not outbound.is_over:
            if time.monotonic() >= look_at:
                # A stream does not outlive the certificate that opened it.
                authenticate(context)
                look_at = time.monotonic() + CERTIFICATE_SECONDS
            body = outbound.get(LOOK_SECONDS)
            if body is not None:
                yield body
            if not self._is_open() and session.end is None:
                session.finish(wait_quiet=False)

    def _conclude(self, end: End | None, session: PortalSession, reader: _Reader) -> None:
        """How the call ends."""
        if reader.refusal is not None:
            raise reader.refusal
        if end is End.SUPERSEDED:
            raise superseded()
        if end is End.FAILED:
            if session.failure is None or isinstance(session.failure, LedgerStopped):
                raise errors.stopped()
            raise session.failure
        if not self._is_open():
            raise errors.draining()


class _Reader(threading.Thread):
    """Pulls requests and gives them to the session, one at a time."""

    def __init__(self, requests: Iterator[bytes], session: PortalSession) -> None:
        super().__init__(name="portal-reader", daemon=True)
        self._requests = requests
        self._session = session
        self.refusal: CallRefused | None = None

    def run(self) -> None:
        """Until the client ends its side, the call is over, or the session takes no more."""
        try:
            for received in self._requests:
                begun_ns = time.perf_counter_ns()
                request = _parse(received)
                self._session.profile.parse_ns += time.perf_counter_ns() - begun_ns
                if request.WhichOneof("message") != "batch":
                    raise errors.invalid([Violation("hello", "only the first request is one")])
                self._session.receive(request.batch, len(received))
        except CallRefused as refusal:
            self.refusal = refusal
            self._session.finish(wait_quiet=False)
        except (SessionEnded, LedgerStopped):
            return
        except grpc.RpcError:
            self._session.finish(wait_quiet=False)
        except Exception as error:
            self._session.fail(error)
        else:
            self._session.finish(wait_quiet=True)


def _read_hello(received: bytes | None) -> Hello:
    if received is None:
        raise errors.message_missing()
    request = _parse(received)
    if request.WhichOneof("message") != "hello":
        raise errors.invalid([Violation("hello", "the first request must be a Hello")])
    found = guard.violations(request.hello)
    if found:
        raise errors.invalid(
            Violation(f"hello.{one.field}", one.description, one.kind) for one in found
        )
    return request.hello


def _parse(received: bytes) -> StreamRequest:
    """The request; what a batch holds is judged by the session, which can answer it."""
    try:
        request = StreamRequest.FromString(received)
    except DecodeError:
        violation = Violation("message", "these bytes are no jinku.v1.StreamRequest")
        raise errors.invalid([violation]) from None
    unknown = UnknownFieldSet(request)
    if len(unknown):
        description = f"jinku.v1.StreamRequest has no field of number {unknown[0].field_number}"
        raise errors.invalid([Violation("message", description, ViolationKind.UNKNOWN_FIELD)])
    if request.WhichOneof("message") is None:
        violation = Violation("message", "one of hello, batch is needed", ViolationKind.MISSING)
        raise errors.invalid([violation])
    return request


def _refuse_hello(refused: HelloRefused) -> CallRefused:
    if refused.fault in {HelloFault.STOPPED, HelloFault.GONE}:
        return errors.draining()
    if refused.fault is HelloFault.NOT_REGISTERED:
        return errors.permission_denied(
            "PORTAL_NOT_REGISTERED",
            "No portal of the certificate's name is registered.",
            "证书所载名称的通道门未登记。",
            "jinku.v1.PortalService/Stream",
        )
    if refused.fault is HelloFault.EPOCH_OLDER:
        return CallRefused(
            grpc.StatusCode.FAILED_PRECONDITION,
            "PORTAL_EPOCH_OLDER",
            f"The portal's epoch is older than the one known here ({refused.item}): "
            "draw a new, greater one.",
            f"通道门的纪元早于系统已知的纪元（{refused.item}），请重新取一个更大的纪元。",
            metadata={"epoch": refused.item},
        )
    if refused.fault is HelloFault.ANTENNA_NOT_REGISTERED:
        description = f"not registered for this portal: {refused.item}"
        return errors.invalid([Violation("hello.antennas", description)])
    missing = refused.fault is HelloFault.EPOCH_MISSING
    kind = ViolationKind.MISSING if missing else ViolationKind.VALUE
    return errors.invalid([Violation("hello.portal_epoch", refused.item, kind)])


def superseded() -> CallRefused:
    """A newer stream of the same portal ended this one."""
    return CallRefused(
        grpc.StatusCode.ABORTED,
        "STREAM_SUPERSEDED",
        "A newer stream of this portal has taken over. One process per portal may stream.",
        "同一通道门已有新的数据流接替本数据流。每个通道门只允许一个进程发送。",
    )
