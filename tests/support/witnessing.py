"""Witnesses for tests: real ones over HTTP in this process, and settings that ask them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jinku.plain_http import Answer, Request
from jinku.plain_server import Limits, Server
from jinku.witness import LOGS_FILE, Witness, create
from jinku.witnessing import REQUEST_BYTES_MAX


class Neighbour:
    """A witness of this log; it can go away and come back at the same address."""

    def __init__(self, directory: Path, log_key: str, name: str = "witness.example/w1") -> None:
        self.directory = directory
        self.key = create(directory, name)
        (directory / LOGS_FILE).write_text(f"{log_key}\n", encoding="utf-8")
        self.listen = "127.0.0.1:0"
        self.errors: list[Exception] = []
        self.come_back()

    def come_back(self) -> None:
        self.witness = Witness(self.directory)
        limits = Limits(body_bytes_max=REQUEST_BYTES_MAX, requests_per_second_max=10_000)
        self.server = Server(self.listen, self.witness.answer, limits, self.errors.append)
        self.listen = self.server.listen
        self.server.start()

    def go_away(self) -> None:
        self.server.close()
        self.witness.close()

    @property
    def url(self) -> str:
        return f"http://{self.listen}/"

    @property
    def tree_size(self) -> int:
        """What it cosigned last of its one log."""
        (origin,) = self.witness.logs
        return self.witness.latest(origin).tree_size


@contextmanager
def neighbours(directory: Path, log_key: str, count: int = 1) -> Iterator[list[Neighbour]]:
    made = [
        Neighbour(directory / f"witness-{number}", log_key, f"witness.example/w{number}")
        for number in range(count)
    ]
    try:
        yield made
    finally:
        for one in made:
            one.go_away()
            assert one.errors == []


def asking(*witnesses: Neighbour, quorum: int = 1, **more: str) -> dict[str, str]:
    """Settings, as `serving` takes them, that ask these often."""
    asked = ", ".join(f'{{url = "{one.url}", key = "{one.key}"}}' for one in witnesses)
    return {
        "WITNESSES__ASKED": f"[{asked}]",
        "WITNESSES__QUORUM": str(quorum),
        "WITNESSES__INTERVAL_SECONDS": "0.05",
        "WITNESSES__TIMEOUT_SECONDS": "2",
        **more,
    }


@contextmanager
def liar(*answers: Answer) -> Iterator[str]:
    """Somebody who gives these answers, the last one for ever, whatever is asked; the URL."""
    left = list(answers)

    def say(_: Request) -> Answer:
        return left.pop(0) if len(left) > 1 else left[0]

    server = Server("127.0.0.1:0", say, Limits(body_bytes_max=REQUEST_BYTES_MAX), print)
    server.start()
    try:
        yield f"http://{server.listen}/"
    finally:
        server.close()
