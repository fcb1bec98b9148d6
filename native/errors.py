"""What the kernels raise beyond ValueError, OSError and MemoryError."""

from __future__ import annotations


class KernelUnavailable(RuntimeError):
    """A kernel was demanded by name that this processor or this build cannot run; nothing was computed."""


class Closed(RuntimeError):
    """A key arena was used after its `close()`; its keys are wiped."""
