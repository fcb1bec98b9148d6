"""Time is UTC nanoseconds.

Whoever needs the time is handed a clock, so that a test can hold it still.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]

system_clock: Clock = time.time_ns
