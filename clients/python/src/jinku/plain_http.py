"""HTTP/1.1 for a few small answers: what both sides share, and asking; everything is bounded, most of
all time.

For what needs no secrecy and proves itself: checkpoints, hash tiles, cosignatures. h11 reads and
writes the protocol; here are sockets and limits. A connection has one deadline for all it does.
Answering is in `jinku.plain_server`.
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from jinku.errors import JinkuError

HEADER_BYTES_MAX = 16 << 10
READ_BYTES = 8 << 10
TEXT = "text/plain; charset=utf-8"


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


def read_body(wire: Wire, connection: h11.Connection, bytes_max: int) -> bytes:
    body = b""
    while isinstance(part := wire.read_event(connection), h11.Data):
        body += part.data
        if len(body) > bytes_max:
            raise BodyTooLarge
    return body


class BodyTooLarge(Exception):
    """More was sent than is taken."""


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
