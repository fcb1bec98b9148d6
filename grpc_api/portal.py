"""`PortalService.Stream` over gRPC: two tasks per stream, one that reads and one that writes.

The reader takes a request only when the session has taken the one before, and the session takes none
while its answers are not: a client that sends and never reads is held up, costs a bounded amount of
memory, and loses its stream to the write deadline. What it had sent and what was durable stays so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from core import guard
from core.authority import Caller
from core.errors import LedgerStopped, Violation, ViolationKind
from core.portal.desk import HelloFault, HelloRefused, PortalDesk
from core.portal.outbound import Outbound
from core.portal.received import take_apart
from core.portal.session import LARGE_BYTES, End, PortalSession, SessionEnded
from jinku.v1.portal_pb2 import Hello, StreamRequest

from . import errors
from .errors import CallRefused
from .identity import authenticate
from .limits import Context, read_first

# How often it is looked whether the service drains or a client does not read.
LOOK_SECONDS: Final = 0.1
# How often a stream looks whether its client's certificate has expired.
CERTIFICATE_SECONDS: Final = 1.0


class PortalStreams:
    """Serves the streams of all portals. A portal is whom its certificate names, never its Hello."""

    def __init__(
        self,
        desk: PortalDesk,
        write_deadline_seconds: float,
        *,
        is_open: Callable[[], bool] = lambda: True,
        on_cut: Callable[[], None] = lambda: None,
    ) -> None:
        """`is_open` turns false when the service drains: streams then settle and end. `on_cut` is
        told of every stream that is ended because its client does not read.
        """
        self._desk = desk
        self._write_seconds = write_deadline_seconds
        self._is_open = is_open
        self._on_cut = on_cut
        self._lines: set[_Line] = set()
        self._looking = False

    async def stream(self, context: Context, caller: Caller) -> None:
        """Answer one portal's requests, until either side ends the stream.

        Raises CallRefused: INVALID_ARGUMENT for what is no request or no Hello, FAILED_PRECONDITION
        for an epoch that is over, ABORTED when a newer stream took over, UNAVAILABLE when the
        service drains or has stopped; what was taken is settled before.
        """
        hello = _read_hello(await read_first(context))
        line = _Line(context)
        try:
            session = await self._desk.open(
                caller.device_id, hello, line.outbound, lambda: not line.gone
            )
        except HelloRefused as refused:
            raise _refuse_hello(refused) from None
        except LedgerStopped:
            raise errors.stopped() from None
        except asyncio.CancelledError:
            line.gone = True
            raise
        self._lines.add(line)
        self._look_on()
        reading = asyncio.create_task(line.read(session))
        try:
            await line.write()
        finally:
            self._lines.discard(line)
            reading.cancel()
            line.outbound.close(keep=False)
            # All that was taken is settled, whoever has given up this call.
            await asyncio.shield(asyncio.create_task(session.stop(End.ABANDONED)))
        self._conclude(session, line)

    def _conclude(self, session: PortalSession, line: _Line) -> None:
        """How the call ends."""
        if line.refusal is not None:
            raise line.refusal
        if session.told is End.SUPERSEDED:
            raise superseded()
        if session.told is End.FAILED:
            if session.failure is None or isinstance(session.failure, LedgerStopped):
                raise errors.stopped()
            raise session.failure
        if not self._is_open():
            raise errors.draining()

    def _look_on(self) -> None:
        """Begin to look after the streams, if nobody does."""
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = False
        if self._lines:
            # Before anything that could raise: what is not looked after waits for ever.
            self._look_on()
        now = time.monotonic()
        if not self._is_open():
            self._desk.finish()
        for line in list(self._lines):
            if line.writing_since is not None and now - line.writing_since > self._write_seconds:
                self._on_cut()
                line.cut()
            elif now >= line.look_at:
                line.look_at = now + CERTIFICATE_SECONDS
                line.check_certificate()


class _Line:
    """One stream's ends."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._task = asyncio.current_task()
        self.outbound = Outbound()
        # Nobody waits for the answer to its Hello any more.
        self.gone = False
        self.look_at = 0.0
        # Since when a message has been on its way to a client that does not take it.
        self.writing_since: float | None = None
        self.refusal: CallRefused | None = None

    async def write(self) -> None:
        """Tell the client all it is to be told."""
        while (body := await self.outbound.get()) is not None:
            self.writing_since = time.monotonic()
            await self._context.write(body)
            self.writing_since = None

    async def read(self, session: PortalSession) -> None:
        """Until the client ends its side, the call is over, or the session takes no more."""
        try:
            while (received := await self._read()) is not None:
                begun_ns = time.perf_counter_ns()
                parted = take_apart(received) if len(received) > LARGE_BYTES else None
                if parted is not None:
                    session.profile.parse_ns += time.perf_counter_ns() - begun_ns
                    await session.receive(*parted)
                    continue
                request = _parse(received)
                session.profile.parse_ns += time.perf_counter_ns() - begun_ns
                if request.WhichOneof("message") != "batch":
                    raise errors.invalid([Violation("hello", "only the first request is one")])
                await session.receive(request.batch, len(received))
        except CallRefused as refusal:
            self.refusal = refusal
            session.finish(wait_quiet=False)
        except (SessionEnded, LedgerStopped):
            return
        except (grpc.RpcError, grpc.aio.BaseError, grpc.aio.UsageError):
            session.finish(wait_quiet=False)
        except Exception as error:
            session.fail(error)
        else:
            session.finish(wait_quiet=True)

    async def _read(self) -> bytes | None:
        # The stubs do not know that there may be none.
        received: object = await self._context.read()
        return received if isinstance(received, bytes) else None

    def cut(self) -> None:
        """End the call at once: its client takes nothing, not even a status."""
        if self._task is not None:
            self._task.cancel()

    def check_certificate(self) -> None:
        """A stream does not outlive the certificate that opened it."""
        try:
            authenticate(self._context)
        except CallRefused as refusal:
            self.refusal = refusal
            self.outbound.close(keep=False)


def _read_hello(received: bytes | None) -> Hello:
    if received is None:
        raise errors.message_missing()
    request = _parse(received)
    if request.WhichOneof("message") != "hello":
        raise errors.invalid([Violation("hello", "the first request must be a Hello")])
    size = len(received)
    found = guard.unlisted(request.hello, size) or guard.violations(request.hello, size)
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
    if len(received) > guard.LISTED_BYTES_MAX and not _is_one_field(received):
        _check_envelope(request)
    unknown = UnknownFieldSet(request)
    if len(unknown):
        description = f"jinku.v1.StreamRequest has no field of number {unknown[0].field_number}"
        raise errors.invalid([Violation("message", description, ViolationKind.UNKNOWN_FIELD)])
    if request.WhichOneof("message") is None:
        violation = Violation("message", "one of hello, batch is needed", ViolationKind.MISSING)
        raise errors.invalid([violation])
    return request


def _is_one_field(received: bytes) -> bool:
    """Whether a field with a length is all there is: nothing unknown is beside it."""
    at, length = 1, 0
    for shift in range(0, 35, 7):
        length |= (received[at] & 0x7F) << shift
        at += 1
        if received[at - 1] < 0x80:
            break
    return received[0] < 0x80 and received[0] & 7 == 2 and at + length == len(received)


def _check_envelope(request: StreamRequest) -> None:
    """Refuse more unknown fields around hello and batch than are listed."""
    held = request.WhichOneof("message")
    size = request.ByteSize() - (getattr(request, held).ByteSize() if held else 0)
    if size > guard.LISTED_BYTES_MAX:
        description = f"{size} bytes of unknown fields"
        raise errors.invalid([Violation("message", description, ViolationKind.UNKNOWN_FIELD)])


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
