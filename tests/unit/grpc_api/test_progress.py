"""What a long command shows of itself: on a terminal and in a file."""

from __future__ import annotations

import io

import pytest

from grpc_api.progress import ProgressLine, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets."""
    held = [100.0]
    monkeypatch.setattr("grpc_api.progress.time.monotonic", lambda: held[0])
    return held


def tell(line: ProgressLine, now: list[float], steps: list[tuple[str, int, int]]) -> None:
    """A step a second."""
    for step in steps:
        line(*step)
        now[0] += 1


def test_plain_lines(now: list[float]) -> None:
    """One at the end of a stage, one where it goes on, and one now and then."""
    written = io.StringIO()
    steps = [("hashes", done, 25_000) for done in range(0, 26_000, 1000)]
    tell(
        ProgressLine(written), now, [*steps, ("replay", 5_000, 10_000), ("replay", 10_000, 10_000)]
    )
    assert written.getvalue().splitlines() == [
        "hashes 10000/25000, 40 %, 1,000/s, 0:15 left",
        "hashes 20000/25000, 80 %, 1,000/s, 0:05 left",
        "hashes 25000/25000, 1,000/s",
        "replay 5000/10000, 50 %",
        "replay 10000/10000, 5,000/s",
    ]


def test_on_a_terminal_the_line_changes(now: list[float]) -> None:
    written = Terminal()
    tell(ProgressLine(written), now, [("hashes", 0, 2), ("hashes", 1, 2), ("hashes", 2, 2)])
    assert written.getvalue() == (
        "\rhashes 1/2, 50 %, 1/s, 0:01 left\x1b[K\rhashes 2/2, 1/s\x1b[K\n"
    )


def test_nothing_to_do_is_said_too() -> None:
    written = io.StringIO()
    ProgressLine(written)("persons", 0, 0)
    assert written.getvalue() == "persons 0/0\n"


def test_clock() -> None:
    assert [clock(5), clock(65), clock(3_725)] == ["0:05", "1:05", "1:02:05"]
