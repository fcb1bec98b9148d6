"""Where the time of a batch goes, by stage. Costs about a microsecond a batch, so it is always on.

    parse      bytes to a message
    guard      unknown fields, unknown numbers, sizes
    columns    columns to arrays, times within bounds
    verify     challenge derived, tags looked up, keys derived, evidence verified
    tracks     tags followed
    pack_seal  block packed, digested, sealed, handed in
    commit     the read log's writer, in a commit: shared by all batches in it
    settle     what follows, of batches or of time alone: presentations, alarms, passages; made, queued,
               and told when the journal has them
    send       acknowledgements made and queued for the transport
    other      the rest of what is done for a portal in the floor's thread: challenges, summaries, whose
               turn it is; and batches that came again

Waiting is in none of them, nor what the transport does: it reads and writes on its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

T = TypeVar("T")

STAGES: Final = (
    "parse", "guard", "columns", "verify", "tracks", "pack_seal", "commit", "settle", "send",
    "other",
)  # fmt: skip
_NS_PER_SECOND: Final = 1_000_000_000


class Profile:
    """Of one portal; nanoseconds. Each number has one thread that adds to it, so there is no lock."""

    __slots__ = (
        "batches", "columns_ns", "guard_ns", "other_ns", "pack_seal_ns", "parse_ns", "reads",
        "send_ns", "settle_ns", "tracks_ns", "verify_ns",
    )  # fmt: skip

    def __init__(self) -> None:
        self.batches = self.reads = 0
        self.parse_ns = self.guard_ns = self.columns_ns = self.verify_ns = self.tracks_ns = 0
        self.pack_seal_ns = self.settle_ns = self.send_ns = self.other_ns = 0

    @contextmanager
    def the_rest(self) -> Iterator[None]:
        """What is not of `settle` or `send` meanwhile is of `other`."""
        begun_ns = time.perf_counter_ns() - self.settle_ns - self.send_ns
        try:
            yield
        finally:
            self.other_ns += time.perf_counter_ns() - self.settle_ns - self.send_ns - begun_ns


def timed(work: Callable[[], T]) -> tuple[T, int]:
    """What `work` returns, and how many nanoseconds it took."""
    begun_ns = time.perf_counter_ns()
    return work(), time.perf_counter_ns() - begun_ns


class Profiles:
    """Of every portal that streamed since the service started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_portal: dict[bytes, Profile] = {}

    def of(self, portal_id: bytes) -> Profile:
        """The portal's own, the same for every stream of it."""
        with self._lock:
            return self._by_portal.setdefault(portal_id, Profile())

    def batches(self) -> int:
        """Batches handed to the read log."""
        return sum(one.batches for one in self._all())

    def seconds(self, commit_ns: int) -> dict[str, float]:
        """Seconds by stage, all portals together."""
        all_of = self._all()
        found = {
            stage: sum(getattr(one, f"{stage}_ns") for one in all_of)
            for stage in STAGES
            if stage != "commit"
        }
        return {stage: found.get(stage, commit_ns) / _NS_PER_SECOND for stage in STAGES}

    def _all(self) -> list[Profile]:
        with self._lock:
            return list(self._by_portal.values())
