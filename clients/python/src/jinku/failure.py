"""The root of this package's exceptions, and how others' words are told; imports nothing, so that
verifying needs no transport.
"""

from __future__ import annotations


class JinkuError(Exception):
    """Root of everything this package raises on purpose."""


def plain(line: str) -> str:
    """A line that stays one and steers no terminal: what would not be seen is shown."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in line
    )
