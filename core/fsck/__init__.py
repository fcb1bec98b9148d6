"""Proves a ledger: every hash and signature, and every table byte for byte by replaying the journal.

The hashes are always verified from the first entry on. The replay, which takes most of the time, goes
on where one that was killed had come to.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.fsck.hashes import Progress, verify_hashes
from core.fsck.replay import verify_tables
from core.ledger.ledger import Ledger

__all__ = ["Progress", "Report", "fsck"]


@dataclass(frozen=True)
class Report:
    """What was verified.

    There is no report of a ledger that is not sound: LedgerCorrupt names the first difference.
    """

    entries: int
    checkpoints: int
    # 0 if only the hashes were verified.
    rows: int
    root_hash: bytes


def fsck(
    ledger: Ledger,
    progress: Progress = lambda _stage, _done, _total: None,
    *,
    hashes_only: bool = False,
) -> Report:
    """Verify everything in an opened ledger that nobody writes, or only what needs no replay.

    Raises LedgerCorrupt naming where and what first differs, SettingsError if there is no room for
    the replayed tables.
    """
    checkpoints = verify_hashes(ledger, progress)
    rows = 0 if hashes_only else verify_tables(ledger, progress)
    return Report(ledger.size, checkpoints, rows, ledger.checkpoint().root_hash)
