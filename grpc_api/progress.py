"""How long a long command still takes: one line that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Final, TextIO

_TERMINAL_SECONDS: Final = 0.1
_PLAIN_SECONDS: Final = 10.0
# Before so long, a rate says nothing about what is to come.
_RATE_SECONDS: Final = 0.5


class ProgressLine:
    """Told stage, done and total; writes stage, share, rate and time left."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._stage = ""
        self._began_at = self._shown_at = 0.0
        self._began_with = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began_at, self._began_with = stage, now, done
            # What goes on somewhere is told where.
            self._shown_at = 0.0 if done else now
        wait = _TERMINAL_SECONDS if self._terminal else _PLAIN_SECONDS
        over = done >= total
        if over or now - self._shown_at >= wait:
            self._shown_at = now
            self._show(self._line(done, total, now), over)

    def _line(self, done: int, total: int, now: float) -> str:
        seconds = now - self._began_at
        parts = [f"{self._stage} {done}/{total}"]
        if total and done < total:
            parts.append(f"{100 * done // total} %")
        if seconds >= _RATE_SECONDS and done > self._began_with:
            rate = (done - self._began_with) / seconds
            parts.append(f"{rate:,.0f}/s")
            if done < total:
                parts.append(f"{clock(round((total - done) / rate))} left")
        return ", ".join(parts)

    def _show(self, line: str, over: bool) -> None:
        if self._terminal:
            self._stream.write(f"\r{line}\x1b[K" + "\n" * over)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def clock(seconds: int) -> str:
    """Hours, minutes and seconds."""
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
