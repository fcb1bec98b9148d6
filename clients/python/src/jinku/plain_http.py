"""HTTP/1.1 for a few small answers, both sides: everything is bounded, most of all time.

For what needs no secrecy and proves itself: checkpoints, hash tiles, cosignatures. h11 reads and
writes the protocol; here are sockets, threads and limits. A connection has one deadline for all it
does, so that a peer that sends or reads a byte at a time holds a thread for seconds, not for ever.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import urlsplit

import h11

from jinku.errors import JinkuError

HEADER_BYTES_MAX = 16 << 10
READ_BYTES = 8 << 10
TEXT = "text/plain; charset=utf-8"
# Of the system's queue; whoever finds it full waits in its own.
BACKLOG = 64
# Out of descriptors: others have to close first.
ACCEPT_PAUSE_S = 0.1


class NoAnswer(JinkuError):
    """The other side could not be reached, was too slow, or does not speak HTTP."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: method, path as it was written, body."""

    method: str
    path: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body, its type and further headers."""

    status: int
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """What all callers together may cost."""

    connections_max: int = 32
    connection_seconds_max: float = 10.0
    requests_per_second_max: float = 200.0
    body_bytes_max: int = 0


def refuse(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    """An answer that says why not; nobody may keep it."""
    return Answer(status, f"{text}\n".encode(), TEXT, (("Cache-Control", "no-store"), *headers))


class Wire:
    """A socket that does nothing after its deadline."""

    def __init__(self, opened: socket.socket, deadline: float) -> None:
        self.socket = opened
        self.deadline = deadline

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def receive(self) -> bytes:
        self.socket.settimeout(remaining(self.deadline))
        return self.socket.recv(READ_BYTES)

    def send(self, content: bytes) -> None:
        # For the whole of it: a peer that reads slowly gets no more time for each piece.
        self.socket.settimeout(remaining(self.deadline))
        self.socket.sendall(content)

    def read_event(self, connection: h11.Connection) -> object:
        """The next event; whoever goes away in the middle of one raises h11's error."""
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(self.receive())
        return event


def remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for this connection is over")
    return left


def split_listen(listen: str) -> tuple[str, int]:
    """Of host:port, [v6]:port."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


class Server:
    """Answers on one address until closed; `answer` is called from several threads."""

    def __init__(
        self,
        listen: str,
        answer: Callable[[Request], Answer],
        limits: Limits,
        on_error: Callable[[Exception], object],
    ) -> None:
        """Listens at once, answers after `start`. OSError if the address cannot be had.

        `on_error` is told what `answer` raised; the caller is told 500.
        """
        self.answer = answer
        self.limits = limits
        self.on_error = on_error
        host, port = split_listen(listen)
        family = socket.AF_INET6 if is_v6(host) else socket.AF_INET
        self.listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        name = f"[{host}]" if family == socket.AF_INET6 else host
        self.listen = f"{name}:{self.listener.getsockname()[1]}"
        self.pool = ThreadPoolExecutor(limits.connections_max, thread_name_prefix="http")
        self.lock = threading.Lock()
        self.connections: set[socket.socket] = set()
        self.slots = threading.Semaphore(limits.connections_max)
        self.ending = threading.Event()
        self.pace = Pace(limits.requests_per_second_max)
        self.thread = threading.Thread(target=self.accept, name="http", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        """Cuts every connection and frees the address. Safe to call twice."""
        with self.lock:
            if self.ending.is_set():
                return
            self.ending.set()
            connections = list(self.connections)
        self.slots.release()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if self.thread.is_alive():
            self.thread.join()
        self.pool.shutdown()

    def accept(self) -> None:
        """One connection after the other, while there is room and at the pace: who comes too many or
        too fast waits in the system's queue, and costs nothing.
        """
        while True:
            self.slots.acquire()
            self.ending.wait(self.pace.reserve())
            if self.ending.is_set():
                return
            try:
                opened, _ = self.listener.accept()
            except OSError:
                self.slots.release()
                self.ending.wait(ACCEPT_PAUSE_S)
                continue
            if not self.take_in(opened):
                opened.close()
                self.slots.release()

    def take_in(self, opened: socket.socket) -> bool:
        """Whether there is a thread for this connection."""
        with self.lock:
            if self.ending.is_set():
                return False
            try:
                self.pool.submit(self.serve, opened)
            except RuntimeError:
                return False
            self.connections.add(opened)
            return True

    def serve(self, opened: socket.socket) -> None:
        deadline = time.monotonic() + self.limits.connection_seconds_max
        try:
            # What is left to fail here: it is gone, too slow, or not HTTP in the middle of an answer.
            with Wire(opened, deadline) as wire, suppress(OSError, h11.ProtocolError):
                self.converse(wire)
        finally:
            with self.lock:
                self.connections.discard(opened)
            self.slots.release()

    def converse(self, wire: Wire) -> None:
        """One request after the other, until either side has enough."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES_MAX)
        head_only, last, further = False, False, False
        while not last:
            try:
                head = wire.read_event(connection)
                if not isinstance(head, h11.Request):
                    return
                head_only = head.method == b"HEAD"
                request = self.read_request(wire, connection, head)
                # The first one was waited for when the connection was taken in.
                if further:
                    self.ending.wait(min(self.pace.reserve(), remaining(wire.deadline)))
                further, answer = True, self.decide(request)
            except h11.RemoteProtocolError as error:
                if connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
                    raise
                answer = refuse(error.error_status_hint, "this is no HTTP request that is taken")
            except BodyTooLarge:
                answer = refuse(413, f"the body is larger than {self.limits.body_bytes_max} bytes")
            last = connection.their_state is not h11.DONE
            wire.send(write_answer(connection, answer, head_only=head_only, last=last))
            if not last and connection.our_state is h11.DONE:
                connection.start_next_cycle()
            else:
                last = True

    def read_request(self, wire: Wire, connection: h11.Connection, head: h11.Request) -> Request:
        if connection.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            wire.send(connection.send(go_on) or b"")
        body = read_body(wire, connection, self.limits.body_bytes_max)
        return Request(head.method.decode("ascii"), head.target.decode("ascii"), body)

    def decide(self, request: Request) -> Answer:
        try:
            return self.answer(request)
        except Exception as error:
            self.on_error(error)
            return refuse(500, "an error of the server, which has it in its log")


def write_answer(
    connection: h11.Connection, answer: Answer, *, head_only: bool, last: bool
) -> bytes:
    headers = [
        ("Date", formatdate(usegmt=True)),
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("X-Content-Type-Options", "nosniff"),
        *answer.headers,
        *([("Connection", "close")] if last else []),
    ]
    reason = HTTPStatus(answer.status).phrase
    head = h11.Response(status_code=answer.status, reason=reason, headers=headers)
    parts = [connection.send(head)]
    if not head_only:
        parts.append(connection.send(h11.Data(data=answer.body)))
    parts.append(connection.send(h11.EndOfMessage()))
    return b"".join(part or b"" for part in parts)


def read_body(wire: Wire, connection: h11.Connection, bytes_max: int) -> bytes:
    body = b""
    while isinstance(part := wire.read_event(connection), h11.Data):
        body += part.data
        if len(body) > bytes_max:
            raise BodyTooLarge
    return body


class BodyTooLarge(Exception):
    """More was sent than is taken."""


class Pace:
    """So many in a second, and a tenth of that, but ten at least, at once."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self.burst = max(10.0, per_second / 10)
        self.left = self.burst
        self.counted_at = time.monotonic()
        self.lock = threading.Lock()

    def reserve(self) -> float:
        """Takes a place; for how many seconds to wait for it."""
        with self.lock:
            now = time.monotonic()
            earned = (now - self.counted_at) * self.per_second
            self.left = min(self.burst, self.left + earned) - 1
            self.counted_at = now
            return max(0.0, -self.left / self.per_second)


def is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def fetch(
    url: str, *, body: bytes | None = None, seconds: float = 5.0, answer_bytes_max: int = 1 << 17
) -> Answer:
    """GET, or POST with a body; redirects are not followed and proxies not used.

    `seconds` are for all of it, once the name is resolved. https asks the system's CAs. Raises
    NoAnswer.
    """
    parts = urlsplit(url)
    headers = [("Host", parts.netloc), ("Connection", "close")]
    if body is not None:
        headers.append(("Content-Length", str(len(body))))
    method = "GET" if body is None else "POST"
    request = h11.Request(method=method, target=parts.path or "/", headers=headers)
    try:
        with Wire(connect(url, seconds), time.monotonic() + seconds) as wire:
            return exchange(wire, request, body or b"", answer_bytes_max)
    except (OSError, h11.ProtocolError, BodyTooLarge, UnicodeError) as error:
        what = "its answer is too long" if isinstance(error, BodyTooLarge) else error
        raise NoAnswer(f"{parts.scheme}://{parts.netloc}: {what}") from error


def connect(url: str, seconds: float) -> socket.socket:
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "https"
    plain = socket.create_connection((host, parts.port or (443 if secure else 80)), seconds)
    if not secure:
        return plain
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def exchange(wire: Wire, request: h11.Request, body: bytes, answer_bytes_max: int) -> Answer:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES_MAX)
    sent = [connection.send(request)]
    if body:
        sent.append(connection.send(h11.Data(data=body)))
    sent.append(connection.send(h11.EndOfMessage()))
    wire.send(b"".join(part or b"" for part in sent))
    head = wire.read_event(connection)
    while isinstance(head, h11.InformationalResponse):
        head = wire.read_event(connection)
    if not isinstance(head, h11.Response):
        raise ConnectionResetError("it closed the connection without an answer")
    received = read_body(wire, connection, answer_bytes_max)
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers)
    kinds = [value for name, value in headers if name == "content-type"]
    return Answer(head.status_code, received, "".join(kinds), headers)
