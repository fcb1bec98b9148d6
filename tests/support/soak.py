"""How much of a campaign is run."""

from __future__ import annotations

import os


def how_many(usual: int, variable: str = "") -> int:
    """What `variable` says, if it is set; else `usual` times JINKU_SOAK (1), and at least 1."""
    if variable in os.environ:
        return int(os.environ[variable])
    return max(1, round(usual * float(os.environ.get("JINKU_SOAK", "1"))))
