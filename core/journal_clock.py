"""The journal's time: it never decreases, across restarts too, and it does not stand still.

It is the system's clock. Where that was set back, the journal's time goes on at half the pace of a
clock that nobody can set until the two meet again: what has to expire still expires. A clock that
jumps, either way, is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from core.clock import Clock, system_clock
from core.store.v1.commands_pb2 import RaiseTimeAlarm
from jinku.type.v1.command_pb2 import CommandId, SchedulerCommandId

# More than corrections of a clock that is kept right; less than what an expiry is about.
JUMP_NS_MIN: Final = 10 * 1_000_000_000
JOB: Final = "clock"


def boot_clock() -> int:
    """Nanoseconds since the machine was started, its sleep included. Nobody can set it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Jump:
    """The system's clock showed another time than it should have."""

    expected_ns: int
    shown_ns: int

    @property
    def seconds(self) -> float:
        """How far it jumped; negative if it was set back."""
        return (self.shown_ns - self.expected_ns) / 1e9


class JournalClock:
    """Belongs to the one writer."""

    def __init__(
        self,
        last_ns: int,
        clock: Clock = system_clock,
        steady: Clock = boot_clock,
        on_jump: Callable[[Jump], None] = lambda _: None,
    ) -> None:
        """`last_ns` is when the newest entry was decided. `on_jump` is told from `now_ns`."""
        self._clock = clock
        self._steady = steady
        self._on_jump = on_jump
        self._now_ns = last_ns
        self._seen_ns = steady()
        # What the clock should show now: at the start only that it is not behind the journal.
        self._shown_ns: int | None = None

    @property
    def ahead_ns(self) -> int:
        """How far the journal's time was ahead of the clock when it was last asked for."""
        return self._now_ns - self._shown_ns if self._shown_ns is not None else 0

    def now_ns(self) -> int:
        """The journal's time now."""
        steady_ns, shown_ns = self._steady(), self._clock()
        passed_ns = steady_ns - self._seen_ns
        before_ns = self._shown_ns
        expected_ns = max(shown_ns, self._now_ns) if before_ns is None else before_ns + passed_ns
        if abs(shown_ns - expected_ns) >= JUMP_NS_MIN:
            self._on_jump(Jump(expected_ns, shown_ns))
        self._shown_ns, self._seen_ns = shown_ns, steady_ns
        self._now_ns = max(shown_ns, self._now_ns + max(0, passed_ns // 2))
        return self._now_ns


class JumpBook:
    """The jumps that the journal does not know yet: at most one entry an interval, for the greatest.

    Belongs to the one writer.
    """

    def __init__(self, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._greatest: Jump | None = None
        self._count = 0
        self._not_before_ns = 0

    def add(self, jump: Jump) -> None:
        """The clock jumped."""
        self._count += 1
        if self._greatest is None or abs(jump.seconds) > abs(self._greatest.seconds):
            self._greatest = jump

    @property
    def next_ns(self) -> int | None:
        """When the journal is to be told; None while there is nothing to tell."""
        return self._not_before_ns if self._count else None

    def take_due(self, now_ns: int) -> list[tuple[RaiseTimeAlarm, CommandId]]:
        """The command to give now, with its id, if there is one."""
        jump = self._greatest
        if jump is None or now_ns < self._not_before_ns:
            return []
        request = RaiseTimeAlarm(
            expected_ns=jump.expected_ns, shown_ns=jump.shown_ns, further_count=self._count - 1
        )
        self._greatest, self._count = None, 0
        self._not_before_ns = now_ns + self._interval_ns
        command_id = CommandId(scheduler=SchedulerCommandId(job=JOB, due_ns=now_ns))
        return [(request, command_id)]
