"""Small files that survive a kill at any instant: written aside, synced, renamed, synced again."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the file beside `path` that guards it against other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def write_json(path: Path, value: dict[str, Any]) -> None:
    """When this returns, the file holds `value` also after a power cut."""
    written = path.with_name(path.name + ".new")
    with written.open("w", encoding="utf-8") as output:
        json.dump(value, output)
        output.flush()
        os.fsync(output.fileno())
    written.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_json(path: Path) -> dict[str, Any] | None:
    """What the file holds; None where there is none or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None
