"""The peer of the served figures: a bare grpcio stream over the same mutual TLS, without us.

As a program (`python -m bench.echo DIRECTORY SIZE`) it is the server: it answers each message with
SIZE bytes. `measure_echo` is the client.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from jinku.channel import OPTIONS, Connection

PATH = "/bench.Echo/Stream"
START_SECONDS_MAX = 20.0


class Echo(grpc.GenericRpcHandler):
    """Bytes in, bytes out."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def service(self, handler_call_details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self.stream)

    def stream(self, requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        for _ in requests:
            yield self.answer


def serve(certificates: Path, size: int) -> None:
    """Serves on a free port, printed first, until SIGTERM."""
    credentials = grpc.ssl_server_credentials(
        [((certificates / "server.key").read_bytes(), (certificates / "server.pem").read_bytes())],
        root_certificates=(certificates / "ca.pem").read_bytes(),
        require_client_auth=True,
    )
    server = grpc.server(ThreadPoolExecutor(8), options=list(OPTIONS))
    server.add_generic_rpc_handlers((Echo(bytes(size)),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    print(port, flush=True)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    stopped.wait()
    server.stop(0).wait()


def measure_echo(
    connection: Connection, certificates: Path, messages: Sequence[bytes], size: int, seconds: float
) -> float:
    """Messages per second that a bare stream carries, each answered by `size` bytes."""
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.echo", str(certificates), str(size)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        own = Connection(f"127.0.0.1:{port}", connection.certificate, connection.key, connection.ca)
        with own.open() as channel:
            return stream(channel, messages, seconds)
    finally:
        server.terminate()
        server.wait(START_SECONDS_MAX)
        if server.stdout is not None:
            server.stdout.close()


def stream(channel: grpc.Channel, messages: Sequence[bytes], seconds: float) -> float:
    began = time.monotonic()

    def requests() -> Iterator[bytes]:
        number = 0
        while time.monotonic() < began + seconds:
            yield messages[number % len(messages)]
            number += 1

    open_stream: Any = channel.stream_stream(PATH)
    answered = sum(1 for _ in open_stream(requests()))
    return answered / (time.monotonic() - began)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
