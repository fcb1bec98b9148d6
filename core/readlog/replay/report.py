"""What was derived again, and what could not be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Report:
    """There is no report of a read log that has a difference."""

    # Batches and reads whose verdicts were derived again, all of them as stored.
    batches: int = 0
    reads: int = 0
    portals: set[bytes] = field(default_factory=set)
    # Passages and alarms of the journal that these reads make, and such that are yet to be journalled.
    passages: int = 0
    alarms: int = 0
    pending: int = 0
    # Left out: segments that were deleted, and the reads that were in them,
    segments_pruned: int = 0
    reads_pruned: int = 0
    # reads of tags under masters that are not loaded now, by (issuing realm, version),
    reads_without_master: Counter[tuple[int, int]] = field(default_factory=Counter)
    # reads with counters from before the counters that are kept: their evidence was verified, whether it
    # had been seen before was not,
    reads_before_counters: int = 0
    # and passages whose tags may have been read in batches before the first one here.
    passages_cut_off: int = 0

    def lines(self) -> list[str]:
        """For people."""
        told = [
            f"derived again: {self.batches} batches, {self.reads} reads of {len(self.portals)} "
            "portals: every verdict is as stored",
            f"derived again: {self.passages} passages and {self.alarms} alarms, as journalled; "
            f"{self.pending} to be journalled at the next start",
        ]
        if self.segments_pruned:
            told.append(
                f"not derived: {self.segments_pruned} segments with {self.reads_pruned} reads were "
                "deleted, their time being over"
            )
        for (realm, version), reads in sorted(self.reads_without_master.items()):
            told.append(
                f"not derived: {reads} reads of tags under master {realm}-{version}, which is not in "
                "keys.directory"
            )
        if self.reads_before_counters:
            told.append(
                f"derived but for replays: {self.reads_before_counters} reads from before the counters "
                "that are kept"
            )
        if self.passages_cut_off:
            told.append(
                f"not derived: {self.passages_cut_off} passages that may rest on reads before the "
                "first of these"
            )
        return told
