"""The bounded HTTP server and client, over real sockets, with peers that are slow, rude or many."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from jinku.plain_http import Answer, NoAnswer, Request, fetch
from jinku.plain_server import GRACE_S, Limits, Server, group_address

SECONDS = 0.5
LIMITS = Limits(connections_max=4, connection_seconds_max=SECONDS, body_bytes_max=100)


def echo(request: Request) -> Answer:
    if request.path == "/fault":
        raise RuntimeError("a secret")
    return Answer(200, f"{request.method} {request.path} ".encode() + request.body)


@contextmanager
def serving(limits: Limits = LIMITS) -> Iterator[tuple[Server, list[Exception]]]:
    errors: list[Exception] = []
    server = Server("127.0.0.1:0", echo, limits, errors.append)
    server.start()
    try:
        yield server, errors
    finally:
        server.close()


def connect(server: Server) -> socket.socket:
    host, _, port = server.listen.rpartition(":")
    return socket.create_connection((host, int(port)), 5)


def say(server: Server, content: bytes) -> bytes:
    """All that comes back until the server closes."""
    with connect(server) as opened:
        opened.sendall(content)
        return read_all(opened)


def read_all(opened: socket.socket) -> bytes:
    received = b""
    try:
        while part := opened.recv(1 << 16):
            received += part
    except ConnectionResetError:
        pass
    return received


def test_get_post_and_faults() -> None:
    with serving() as (server, errors):
        url = f"http://{server.listen}"
        assert fetch(f"{url}/x/y").body == b"GET /x/y "
        assert fetch(url, body=b"abc").body == b"POST / abc"
        answer = fetch(f"{url}/fault")
        assert (answer.status, b"secret" in answer.body) == (500, False)
        assert [str(error) for error in errors] == ["a secret"]
        assert fetch(f"{url}/", body=bytes(101)).status == 413


def test_one_connection_carries_many_requests() -> None:
    with serving() as (server, _):
        answers = say(
            server,
            b"HEAD /1 HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            b"GET /3 HTTP/1.1\r\nHost: x\r\n\r\n",
        )
    # To HEAD only the length is told.
    assert b"Content-Length: 8" in answers
    assert b"HEAD /1" not in answers
    assert b"GET /2" in answers
    assert b"GET /3" not in answers


def test_a_body_that_is_announced_is_asked_for() -> None:
    with serving() as (server, _), connect(server) as opened:
        opened.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"
            b"Connection: close\r\n\r\n"
        )
        assert opened.recv(1 << 16).startswith(b"HTTP/1.1 100")
        opened.sendall(b"abc")
        assert b"POST / abc" in read_all(opened)


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 2x\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9_000 + b"\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
    ],
)
def test_what_is_no_http_is_told_so_and_closed(content: bytes, state: bytes) -> None:
    with serving() as (server, errors):
        answer = say(server, content)
        assert answer.split(b" ", 2)[1:2] in ([state], [])
        assert answer.count(b"HTTP/1.1") <= 1
        assert fetch(f"http://{server.listen}/").status == 200
    assert errors == []


def test_a_connection_that_sends_nothing_or_slowly_is_cut() -> None:
    with serving() as (server, _):
        begun = time.monotonic()
        assert say(server, b"GET / HT") == b""
        assert time.monotonic() - begun < 10 * SECONDS
        with connect(server) as dripping:
            received = b"?"
            for _ in range(200):
                try:
                    dripping.sendall(b"a")
                except OSError:
                    break
                time.sleep(SECONDS / 20)
            received = read_all(dripping)
        assert received == b""


def test_a_peer_that_does_not_read_is_cut() -> None:
    big = Server("127.0.0.1:0", lambda _: Answer(200, bytes(8 << 20)), LIMITS, print)
    big.start()
    try:
        with connect(big) as opened:
            opened.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
            assert opened.recv(10).startswith(b"HTTP/1.1 2")
            deadline = time.monotonic() + 20 * SECONDS
            while big.connections:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    finally:
        big.close()


# Whose deadlines help nobody: who comes gets a place or waits for a minute.
PATIENT = Limits(connections_max=4, connection_seconds_max=60, request_seconds_max=60,
                 body_bytes_max=100)  # fmt: skip
OWED = [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]  # fmt: skip


@pytest.mark.parametrize("said", OWED, ids=["nothing", "half a head", "half a body", "all"])
def test_connections_that_are_held_open_keep_nobody_out(said: bytes) -> None:
    """Those whose peers owe a request make room, the oldest first."""
    with serving(PATIENT) as (server, _), ExitStack() as held:
        opened = [held.enter_context(connect(server)) for _ in range(PATIENT.connections_max * 3)]
        for one in opened:
            with suppress(OSError):
                one.sendall(said)
        for _ in range(3):
            begun = time.monotonic()
            assert fetch(f"http://{server.listen}/", seconds=30).status == 200
            assert time.monotonic() - begun < 10
        assert len(server.connections) <= PATIENT.connections_max
        assert server.pool._max_workers == PATIENT.connections_max
        # The oldest was cut, the newest not yet.
        opened[0].settimeout(10)
        read_all(opened[0])
        opened[-1].settimeout(0.1)
        with pytest.raises(TimeoutError):
            while opened[-1].recv(1 << 16):
                pass


def test_two_hundred_idle_connections_keep_nobody_out() -> None:
    """With a witness's limits, but for the deadlines."""
    limits = Limits(connection_seconds_max=60, request_seconds_max=60, requests_per_second_max=100)
    with serving(limits) as (server, _), ExitStack() as held:
        for _ in range(200):
            held.enter_context(connect(server))
        for _ in range(5):
            assert fetch(f"http://{server.listen}/", seconds=5).status == 200


def test_whoever_holds_most_loses_first() -> None:
    """A peer with one connection, however long it says nothing, against one with many."""
    with serving(PATIENT) as (server, _), ExitStack() as held:
        host, _, port = server.listen.rpartition(":")
        alone = socket.create_connection((host, int(port)), 30, source_address=("127.0.0.2", 0))
        held.enter_context(alone)
        for _ in range(PATIENT.connections_max * 3):
            held.enter_context(connect(server))
        assert fetch(f"http://{server.listen}/", seconds=30).status == 200
        alone.sendall(b"GET /alone HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"GET /alone" in read_all(alone)
    assert group_address("2001:db8:1:2:3::4") == group_address("2001:db8:1:2::1")
    assert group_address("2001:db8:1:2::1") != group_address("2001:db8:1:3::1")
    assert group_address("fe80::1%lo") == group_address("fe80::2%lo")
    assert group_address("10.0.0.1") != group_address("10.0.0.2")


def test_whom_we_owe_an_answer_is_not_cut() -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slowly(request: Request) -> Answer:
        begun.release()
        go_on.wait(30)
        return echo(request)

    server = Server("127.0.0.1:0", slowly, PATIENT, print)
    server.start()
    try:
        with ExitStack() as held:
            asked = [held.enter_context(connect(server)) for _ in range(PATIENT.connections_max)]
            for one in asked:
                one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert begun.acquire(timeout=10)
            waiting = held.enter_context(connect(server))
            waiting.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            time.sleep(3 * GRACE_S)
            go_on.set()
            for one in [*asked, waiting]:
                one.settimeout(30)
                assert b"200 OK" in read_all(one)
    finally:
        server.close()


def test_a_request_has_less_time_than_the_connection() -> None:
    limits = Limits(connection_seconds_max=60, request_seconds_max=SECONDS)
    with serving(limits) as (server, _), connect(server) as opened:
        begun = time.monotonic()
        opened.settimeout(30)
        opened.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in read_all(opened)
        assert time.monotonic() - begun < 30


def test_more_requests_than_are_taken_in_a_second() -> None:
    """Twenty beyond the first ten, at 40 a second: over new connections and over one."""
    with serving(Limits(requests_per_second_max=40)) as (server, _):
        begun = time.monotonic()
        assert {fetch(f"http://{server.listen}/").status for _ in range(30)} == {200}
        assert time.monotonic() - begun > 0.4
        begun = time.monotonic()
        requests = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"] * 19
        last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert say(server, b"".join([*requests, last])).count(b"HTTP/1.1 200") == 20
        assert time.monotonic() - begun > 0.4


def test_closing_ends_what_is_open() -> None:
    with serving(Limits(connection_seconds_max=60)) as (server, _), connect(server) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert opened.recv(1 << 16).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        server.close()
        assert read_all(opened) == b""
        assert time.monotonic() - begun < 5
        with pytest.raises(NoAnswer):
            fetch(f"http://{server.listen}/")
        server.close()


def test_an_address_that_is_taken() -> None:
    with serving() as (server, _), pytest.raises(OSError, match="in use"):
        Server(server.listen, echo, LIMITS, print)


# -- the client


@contextmanager
def answering(content: bytes, pause_s: float = 0.0) -> Iterator[str]:
    """Somebody who says this to whoever connects, byte by byte if with pauses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            opened, _ = listener.accept()
            with opened:
                opened.recv(1 << 16)
                for start in range(0, len(content), 1 if pause_s else 1 << 20):
                    try:
                        opened.sendall(content[start : start + (1 if pause_s else 1 << 20)])
                    except OSError:
                        return
                    time.sleep(pause_s)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + bytes(9999),
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 9000,
    ],
    ids=["nothing", "no HTTP", "cut off", "too long", "endless headers"],
)
def test_answers_that_are_none(content: bytes) -> None:
    with answering(content) as url, pytest.raises(NoAnswer, match="127.0.0.1"):
        fetch(url, answer_bytes_max=1000)


def test_an_answer_that_drips_is_not_waited_for() -> None:
    begun = time.monotonic()
    with answering(b"HTTP/1.1 200 OK\r\n" + b"a" * 500, pause_s=0.01) as url:
        with pytest.raises(NoAnswer):
            fetch(url, seconds=SECONDS)
        assert time.monotonic() - begun < 4


def test_redirects_are_not_followed() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with answering(moved) as url:
        assert fetch(url).status == 302


def test_nobody_there() -> None:
    with pytest.raises(NoAnswer, match="refused"):
        fetch("http://127.0.0.1:1/")
    with pytest.raises(NoAnswer):
        fetch("http://host.invalid/")


def test_https_needs_a_certificate_that_is_believed() -> None:
    with serving() as (server, _), pytest.raises(NoAnswer):
        fetch(f"https://{server.listen}/", seconds=SECONDS)
