"""The time by which challenges live and reads are of just now, the same for every portal.

It goes as the journal's does (core/journal_clock.py): never back, and at half the pace where the clock
was set back, until that has caught up. A challenge then lives at most twice its time. What has been
of it is kept in the read log every few seconds, so that a kill takes none of it back: what had
expired before stays expired.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from core.clock import Clock, system_clock
from core.journal_clock import JournalClock, Jump, boot_clock
from core.readlog.stored import KeptTime

# The longest that is not kept of it, and a share of the shortest life that a challenge may have.
KEEP_NS_MAX: Final = 3_000_000_000
KEEP_NS_MIN: Final = 500_000_000
KEEP_SHARE: Final = 8


class ServiceTime:
    """One per service. Used by all threads."""

    def __init__(
        self,
        clock: Clock = system_clock,
        steady: Clock = boot_clock,
        on_jump: Callable[[Jump], None] = lambda _: None,
    ) -> None:
        """`on_jump` is told, from `now_ns`, where `clock` jumps and `steady` does not."""
        self._system, self._steady, self._on_jump = clock, steady, on_jump
        self._lock = threading.Lock()
        self._clock = JournalClock(0, clock, steady, on_jump)
        self._keep_ns = KEEP_NS_MAX
        self._kept_ns = 0

    def resume(self, kept: KeptTime | None, used_ns: int, live_ns: int) -> None:
        """Go on after a start, later than any time that can have been used before; `used_ns` is the
        latest that batches were stored with.

        Where the clock shows less than it did when the time was kept, it was set back meanwhile: how
        long the service was away is not known, and no live challenge outlasts that.
        """
        self._keep_ns = max(min(KEEP_NS_MAX, live_ns // KEEP_SHARE), KEEP_NS_MIN)
        kept = kept or KeptTime(used_ns, used_ns)
        # Until the next was to be kept, and as long again until it was: as the clock goes, or at half
        # its pace from where it was ahead.
        unkept_ns = 2 * self._keep_ns
        begin_ns = max(kept.shown_ns + unkept_ns, kept.now_ns + unkept_ns // 2, used_ns)
        if self._system() < kept.shown_ns:
            begin_ns += live_ns
        with self._lock:
            self._clock = JournalClock(begin_ns, self._system, self._steady, self._on_jump)

    def now_ns(self) -> int:
        """The time now."""
        with self._lock:
            return self._clock.now_ns()

    def ahead_ns(self) -> int:
        """How far it was ahead of the clock when it was last asked for."""
        with self._lock:
            return self._clock.ahead_ns

    def to_keep(self) -> KeptTime | None:
        """What is to be kept now; None if enough of it was not long ago. It counts as kept."""
        with self._lock:
            now_ns = self._clock.now_ns()
            if now_ns < self._kept_ns + self._keep_ns:
                return None
            self._kept_ns = now_ns
            return KeptTime(now_ns, now_ns - self._clock.ahead_ns)
