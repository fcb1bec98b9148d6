"""Structured logs on standard error. Only allow-listed keys are written, and never a field's value.

What a caller sent, who is registered and where things stand is OPERATIONAL or more (the option
`sensitivity` in protos/jinku/type/v1/options.proto) and stays out: a key that is not listed here is
dropped and only its name is kept; an exception appears as its type and the places it came through,
because its text may quote what it was about.
"""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

ALLOWED_KEYS = frozenset(
    {
        # about the line
        "event", "level", "timestamp", "logger", "dropped_keys", "exception",
        # about a call
        "rpc", "code", "reason", "incident", "duration_ms", "entry_index", "count",
        # about the process
        "version", "profile", "realm", "listen", "metrics_listen", "ledger_size", "kernel",
        "setting", "signal", "pid", "exit_code", "seconds", "pending", "tags", "stage", "read_log",
        "streams", "calls", "expires_at", "sequence", "reads", "verdict", "where", "health",
        "public_listen", "witness", "proven",
        "generation",
    }
)  # fmt: skip
SCALARS = (str, int, float, bool, type(None))
FRAMES_MAX = 40
CAUSES_MAX = 5

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def describe_exception(error: BaseException) -> list[str]:
    """Types and places from the outermost error inwards; never an exception's text."""
    lines: list[str] = []
    current: BaseException | None = error
    for _ in range(CAUSES_MAX):
        if current is None:
            break
        lines.append(f"{type(current).__module__}.{type(current).__qualname__}")
        lines.extend(
            f"  {frame.f_code.co_filename}:{number} {frame.f_code.co_name}"
            for frame, number in list(traceback.walk_tb(current.__traceback__))[-FRAMES_MAX:]
        )
        cause = current.__cause__ or current.__context__
        # An error of LMDB that is passed on as it is names itself.
        current = cause if cause is not current else current.__context__
    return lines


def _find_exception(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple) and len(exc_info) == 3:
        error = exc_info[1]
        return error if isinstance(error, BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def render_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    error = _find_exception(event.pop("exc_info", None))
    if error is not None:
        event["exception"] = describe_exception(error)
    return event


def keep_allowed(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Drops every key that is not listed; a listed key with a structured value is dropped too."""
    kept = {
        key: value
        for key, value in event.items()
        if key in ALLOWED_KEYS and (isinstance(value, SCALARS) or key == "exception")
    }
    dropped = sorted(set(event) - set(kept))
    if dropped:
        kept["dropped_keys"] = ",".join(dropped)
    return kept


class ForeignHandler(logging.Handler):
    """Lines of the libraries we use: their template, never their arguments, through our keys."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.stdlib.get_logger()
        template = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        # A library that formats by itself leaves values in the template: only a literal is kept.
        text = template if record.args else "line of a library"
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        log.log(level, text, logger=record.name, exc_info=record.exc_info or None)


class LineLogger:
    """Writes each finished line whole: to a stream, or to what is standard error at that moment."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        stream = sys.stderr if self._stream is None else self._stream
        stream.write(line + "\n")
        stream.flush()

    debug = info = warning = warn = error = critical = log = exception = msg


def configure_logs(
    level: Literal["debug", "info", "warning", "error"],
    style: Literal["json", "console"],
    stream: TextIO | None = None,
) -> None:
    """Sets up logging for the whole process; `stream` is standard error unless given."""
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=(stream or sys.stderr).isatty())
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render_exception,
            keep_allowed,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: LineLogger(stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, ForeignHandler):
            root.removeHandler(handler)
    root.addHandler(ForeignHandler())
    root.setLevel(max(threshold, logging.WARNING))
