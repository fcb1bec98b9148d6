"""How much of a campaign is run, taken out of the environment: a service that is started would read
every JINKU_ variable as a setting of its own.
"""

from __future__ import annotations

import os
from typing import Final

SCALE: Final = "JINKU_SOAK"
NAMES: Final = (
    "JINKU_CUTS",
    "JINKU_FAULTS",
    "JINKU_FUZZ_SECONDS",
    "JINKU_KILLS",
    "JINKU_LIVES",
    "JINKU_SOAK_BLOCKS",
    "JINKU_SOAK_CASES",
)

_said: Final = {name: os.environ.pop(name) for name in (SCALE, *NAMES) if name in os.environ}


def how_many(usual: int, name: str = "") -> int:
    """What the variable `name` said, if it was set; else `usual` times JINKU_SOAK (1), and at least 1."""
    assert not name or name in NAMES
    if name in _said:
        return int(_said[name])
    return max(1, round(usual * float(_said.get(SCALE, "1"))))
