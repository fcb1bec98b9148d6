"""Looks for values where none may be seen: in files, LMDB environments and what crossed a network."""

from __future__ import annotations

import base64
import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import lmdb


def forms(value: str | bytes) -> dict[str, bytes]:
    """A value in every dress that a tool shows or a program leaves behind."""
    raw = value.encode() if isinstance(value, str) else value
    dressed = {
        "as it is": raw,
        "reversed": raw[::-1],
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "hex reversed": raw[::-1].hex().encode(),
    }
    if isinstance(value, str):
        dressed["UTF-16 LE"] = value.encode("utf-16-le")
        dressed["UTF-16 BE"] = value.encode("utf-16-be")
    for shift in range(3):
        # What the neighbours do not touch, wherever the value begins.
        encoded = base64.b64encode(bytes(shift) + raw).rstrip(b"=")
        first, rest = -(-shift * 8 // 6), len(raw) + shift
        dressed[f"base64 at {shift}"] = encoded[first : rest * 8 // 6]
    return dressed


def find(values: Sequence[str | bytes], content: bytes) -> list[str]:
    """Which values are in these bytes, and how."""
    return [
        f"{value!r} {how}"
        for value in values
        for how, dressed in forms(value).items()
        if dressed in content
    ]


def find_in_files(values: Sequence[str | bytes], files: Sequence[Path]) -> list[str]:
    """Which values are in which of these files; as `strings` would, and more."""
    return [f"{path.name}: {found}" for path in files for found in find(values, path.read_bytes())]


def find_in_lmdb(values: Sequence[str | bytes], environment: Path) -> list[str]:
    """What a plain LMDB tool shows of an environment: its databases' names, keys and values."""
    found = []
    with lmdb.open(str(environment), readonly=True, lock=False, max_dbs=128) as env:
        with env.begin() as txn:
            names = [bytes(name) for name, _ in txn.cursor()]
        for name in names:
            found += [f"name of {name!r}: {one}" for one in find(values, name)]
            opened = env.open_db(name, create=False)
            with env.begin() as txn, txn.cursor(db=opened) as cursor:
                for key, value in cursor:
                    for what, content in (("key", bytes(key)), ("value", bytes(value))):
                        found += [f"{name!r} {what}: {one}" for one in find(values, content)]
    return found


class Wire(socketserver.ThreadingTCPServer):
    """A line between clients and a service that keeps a copy of all that crosses it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Crossing)
        host, port = target.split(":")
        self.target = host, int(port)
        self.heard = bytearray()

    @property
    def listen(self) -> str:
        return "{}:{}".format(*self.server_address)


class Crossing(socketserver.BaseRequestHandler):
    """One connection, both ways."""

    server: Wire

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as far:
            back = threading.Thread(target=self.pump, args=(far, self.request), daemon=True)
            back.start()
            self.pump(self.request, far)
            back.join()

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self.server.heard += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def tapped(target: str) -> Iterator[Wire]:
    with Wire(target) as wire:
        serving = threading.Thread(target=wire.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield wire
        finally:
            wire.shutdown()
            serving.join()
