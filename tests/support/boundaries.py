"""A site that is killed between two commits: its files, copied at that instant, are what is left.

The commits of ledger and read log are made one at a time, so that a copy is of a boundary of both.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from core.ledger.ledger import Ledger
from core.readlog.log import ReadLog


class Boundaries:
    """Counts commits; at the boundary that was asked for, copies the site's files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = 0
        self._copy: Callable[[], None] | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Every ledger and read log of this process commits through here."""
        with (
            mock.patch.object(Ledger, "_commit", self._bounded(Ledger._commit)),
            mock.patch.object(ReadLog, "_commit", self._bounded(ReadLog._commit)),
        ):
            yield

    def _bounded(self, commit: Callable[..., None]) -> Callable[..., None]:
        def bounded(*arguments: Any) -> None:
            with self._lock:
                self._reach()
                commit(*arguments)
                self._reach()

        return bounded

    def _reach(self) -> None:
        self._left -= 1
        if self._left < 0 and self._copy is not None:
            copy, self._copy = self._copy, None
            copy()

    def kill_at(self, count: int, directory: Path, left: Path, noticed: Callable[[], None]) -> None:
        """At the boundary after so many: note what had been heard, and leave the files in `left`."""

        def copy() -> None:
            noticed()
            copy_site(directory, left)

        with self._lock:
            self._left, self._copy = count, copy

    def kill(self) -> None:
        """Now, unless it has been."""
        with self._lock:
            self._left = 0
            self._reach()


def copy_site(directory: Path, left: Path) -> None:
    """What a killed process leaves: everything but its locks."""
    left.mkdir()
    shutil.copytree(directory / "keys", left / "keys")
    for store in ("ledger", "readlog"):
        if (directory / store).is_dir():
            ignored = shutil.ignore_patterns("lock.mdb")
            shutil.copytree(directory / store, left / store, ignore=ignored)
