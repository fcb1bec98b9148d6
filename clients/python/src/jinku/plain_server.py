"""HTTP/1.1 for a few small answers, the server: threads and limits around `jinku.plain_http`.

A connection has one deadline for all it does and a nearer one for its next request, so that a peer
that sends or reads a byte at a time holds a thread for seconds, not for ever. Whoever comes where
there is no room takes the place of a connection whose peer owes something: of the address that holds
most of them, the one that has owed longest. So nobody keeps others out by holding connections open.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

import h11

from jinku.plain_http import (
    HEADER_BYTES_MAX,
    Answer,
    BodyTooLarge,
    Request,
    Wire,
    read_body,
    refuse,
    remaining,
)

# Of the system's queue; whoever finds it full waits in its own.
BACKLOG = 64
# Out of descriptors: others have to close first.
ACCEPT_PAUSE_S = 0.1
# Connections cost less than requests; whoever sends none is soon cut.
CONNECTIONS_PER_REQUEST = 5
# So long nobody is cut, however many come: what was sent has to be read first.
GRACE_S = 0.1
# How often it is seen whether there is room.
ROOM_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Limits:
    """What all callers together may cost."""

    connections_max: int = 32
    connection_seconds_max: float = 10.0
    # From the connection's beginning, or the last answer, until the next request is there.
    request_seconds_max: float = 2.0
    requests_per_second_max: float = 200.0
    body_bytes_max: int = 0


@dataclass(eq=False, slots=True)
class Connection:
    """One that is open."""

    socket: socket.socket
    address: str
    # Since when the peer owes something: a request, or to take the answer.
    since: float
    # We owe the answer.
    busy: bool = False
    cut: bool = False


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
        self.connections: set[Connection] = set()
        self.slots = threading.Semaphore(limits.connections_max)
        self.ending = threading.Event()
        self.pace = Pace(limits.requests_per_second_max)
        self.accept_pace = Pace(CONNECTIONS_PER_REQUEST * limits.requests_per_second_max)
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
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in connections:
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        if self.thread.is_alive():
            self.thread.join()
        self.pool.shutdown()

    def accept(self) -> None:
        """One connection after the other. While we owe all of them an answer, who comes waits in the
        system's queue, and costs nothing.
        """
        while not self.ending.wait(self.accept_pace.reserve()):
            try:
                opened, address = self.listener.accept()
            except OSError:
                self.ending.wait(ACCEPT_PAUSE_S)
                continue
            if not self.make_room() or not self.take_in(opened, str(address[0])):
                opened.close()

    def make_room(self) -> bool:
        """Takes a slot, where there is none somebody else's; False at the end."""
        if self.slots.acquire(blocking=False):
            return True
        while not self.ending.is_set():
            self.cut_one()
            if self.slots.acquire(timeout=ROOM_PAUSE_S):
                return True
        return False

    def cut_one(self) -> None:
        """Of those whose peers owe something, of the address that holds most, the one that owes longest;
        none while that is young, or another that was cut is not gone.
        """
        with self.lock:
            held = Counter(one.address for one in self.connections)
            owing = [one for one in self.connections if not one.busy]
            if not owing or any(one.cut for one in self.connections):
                return
            chosen = max(owing, key=lambda one: (held[one.address], -one.since))
            if chosen.since > time.monotonic() - GRACE_S:
                return
            chosen.cut = True
        with suppress(OSError):
            chosen.socket.shutdown(socket.SHUT_RDWR)

    def take_in(self, opened: socket.socket, address: str) -> bool:
        """Hands the connection over with the slot that was taken; False at the end."""
        connection = Connection(opened, group_address(address), time.monotonic())
        with self.lock:
            if self.ending.is_set():
                return False
            self.connections.add(connection)
            # Where the system gives no further thread, one of those that there are will take it.
            with suppress(RuntimeError):
                self.pool.submit(self.serve, connection)
            return True

    def serve(self, connection: Connection) -> None:
        deadline = time.monotonic() + self.limits.connection_seconds_max
        try:
            # What is left to fail here: it is gone, too slow, or not HTTP in the middle of an answer.
            with Wire(connection.socket, deadline) as wire, suppress(OSError, h11.ProtocolError):
                self.converse(wire, connection)
        finally:
            with self.lock:
                self.connections.discard(connection)
            self.slots.release()

    def converse(self, wire: Wire, held: Connection) -> None:
        """One request after the other, until either side has enough."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES_MAX)
        head_only, last, deadline = False, False, wire.deadline
        while not last:
            wire.deadline = min(deadline, held.since + self.limits.request_seconds_max)
            try:
                head = wire.read_event(connection)
                if not isinstance(head, h11.Request):
                    return
                head_only = head.method == b"HEAD"
                request = self.read_request(wire, connection, head)
                wire.deadline, held.busy = deadline, True
                self.ending.wait(min(self.pace.reserve(), remaining(deadline)))
                answer = self.decide(request)
            except h11.RemoteProtocolError as error:
                if connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
                    raise
                answer = refuse(error.error_status_hint, "this is no HTTP request that is taken")
            except BodyTooLarge:
                answer = refuse(413, f"the body is larger than {self.limits.body_bytes_max} bytes")
            last = connection.their_state is not h11.DONE
            held.since, held.busy = time.monotonic(), False
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


def group_address(address: str) -> str:
    """Whom an address counts for: of v6 the network, since one peer has all of it."""
    if not is_v6(address.partition("%")[0]):
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))


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
