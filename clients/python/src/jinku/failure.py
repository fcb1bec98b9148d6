"""The root of this package's exceptions; imports nothing, so that verifying needs no transport."""

from __future__ import annotations


class JinkuError(Exception):
    """Root of everything this package raises on purpose."""
