"""Time is UTC nanoseconds.

Whoever needs the time is handed a clock, so that a test can hold it still.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]

system_clock: Clock = time.time_ns


def steady_clock(clock: Clock = system_clock) -> Clock:
    """The time of day now, counted on by a clock that nobody can set: whoever steps the system's
    clock while the service runs does not step this one.
    """
    offset_ns = clock() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return lambda: offset_ns + time.clock_gettime_ns(time.CLOCK_BOOTTIME)
