"""What can go wrong in a way that a caller must tell apart. Refusals are answers and not here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class JinkuError(Exception):
    """Root of the service's own errors."""


class SettingsError(JinkuError):
    """A setting is wrong; the message names file, key and what to do."""


class KeyFileError(JinkuError):
    """A key file is missing, unreadable, open to others or of the wrong size.

    The message names it.
    """


class LedgerInUse(JinkuError):
    """Another process has the ledger open."""


class LedgerCorrupt(JinkuError):
    """What was read is not what was written; names where and what."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what


class LedgerStopped(JinkuError):
    """The writer has stopped.

    Whether the last commands are durable is unknown until it is opened again.
    """


class LedgerFull(JinkuError):
    """The ledger's map has no room left: storage.ledger_map_gib must be raised."""


class LedgerBusy(JinkuError):
    """As many snapshots of the ledger are open as there is room for; repeat when some have ended."""


class HeadMoved(JinkuError):
    """The log does not end where the caller thought. Nothing was written."""


class LimitExceeded(JinkuError):
    """An entry, or a batch of them, is more than the log takes. Nothing was written."""


class WitnessesUnreachable(JinkuError):
    """Too few witnesses answered to know that none of them has seen a later checkpoint."""


class QueueFull(JinkuError):
    """The writer has as many commands waiting as it takes.

    Nothing was done, send the same command again later.
    """


class DecideFailed(JinkuError):
    """A procedure raised: nothing was changed, nothing was recorded."""


class ViolationKind(StrEnum):
    """What sort of mistake a field is, for callers that answer it with a reason of their own."""

    UNKNOWN_FIELD = "unknown field"
    UNKNOWN_NUMBER = "unknown enum number"
    VALUE = "value"
    MISSING = "missing"


@dataclass(frozen=True)
class Violation:
    """One field of a request that cannot be taken, as a path from its root: `extras[2].name`."""

    field: str
    description: str
    kind: ViolationKind = ViolationKind.VALUE


class InvalidRequest(JinkuError):
    """A request that is malformed, with the fields at fault."""

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class WrappingKeyMissing(JinkuError):
    """A subject's key is wrapped under a wrapping key that is not loaded; the message names both."""
