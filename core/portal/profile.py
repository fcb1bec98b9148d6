"""Where the time of a batch goes, by stage. Costs about a microsecond a batch, so it is always on.

    parse      bytes to a message
    guard      unknown fields, unknown numbers, sizes
    columns    columns to arrays, times within bounds
    verify     challenge derived, tags looked up, keys derived, evidence verified
    tracks     tags followed
    pack_seal  block packed, digested, sealed, handed in
    commit     the read log's writer, in a commit: shared by all batches in it
    settle     presentations, alarms, passages: made and queued
    send       acknowledgements made and handed to the transport; waits for a portal that does not read

Waiting between the stages is in none of them.
"""

from __future__ import annotations

import threading
from typing import Final

STAGES: Final = (
    "parse", "guard", "columns", "verify", "tracks", "pack_seal", "commit", "settle", "send",
)  # fmt: skip
_NS_PER_SECOND: Final = 1_000_000_000


class Profile:
    """Of one portal; nanoseconds. Each number has one thread that adds to it, so there is no lock."""

    __slots__ = (
        "batches", "columns_ns", "guard_ns", "pack_seal_ns", "parse_ns", "reads", "send_ns",
        "settle_ns", "tracks_ns", "verify_ns",
    )  # fmt: skip

    def __init__(self) -> None:
        self.batches = self.reads = 0
        self.parse_ns = self.guard_ns = self.columns_ns = self.verify_ns = self.tracks_ns = 0
        self.pack_seal_ns = self.settle_ns = self.send_ns = 0


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
