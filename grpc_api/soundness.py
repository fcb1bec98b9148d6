"""All that can be proved of a realm's data, in one place: for fsck, and for what was put back."""

from __future__ import annotations

from core.errors import LedgerCorrupt
from core.fsck import Progress, fsck
from core.keys import RealmKeys
from core.ledger.environment import probe
from core.ledger.ledger import Ledger
from core.ledger.tables import SUPPRESSED
from core.personal.verify import verify_personal
from core.settings import Settings

from .founding import read_log_path
from .persons import open_wrapping_keys
from .service import verify_read_log


def verify(
    settings: Settings,
    keys: RealmKeys,
    ledger: Ledger,
    progress: Progress,
    *,
    hashes_only: bool = False,
) -> list[str]:
    """Verify an opened ledger that nobody writes, its read log and its personal values; a line about
    each. With `hashes_only` the journal alone.

    LedgerCorrupt names the first difference.
    """
    report = fsck(ledger, progress, hashes_only=hashes_only)
    root = f"root {report.root_hash.hex()}"
    if hashes_only:
        return [
            f"sound: {report.entries} entries, {report.checkpoints} checkpoints; {root}; "
            "tables and read log were not verified"
        ]
    verify_suppressed(ledger)
    probe_read_log(settings)
    wrapping_keys = open_wrapping_keys(settings, ledger, own=False)
    persons = verify_personal(ledger, wrapping_keys, progress)
    reads = verify_read_log(settings, keys, ledger, progress)
    # What nothing above misses: suppressed refusals that are gone, or the end of all of it.
    ledger.check()
    return [
        f"sound: {report.entries} entries, {report.checkpoints} checkpoints, {report.rows} rows; "
        f"{root}",
        f"sound: read log of {reads.batches} batches, {reads.reads} reads; "
        f"{reads.segments} segments sealed, {reads.pruned} of them pruned; "
        f"{reads.counters} counters",
        f"sound: {persons.values} personal values of {persons.subjects} persons; "
        f"{persons.erased} persons erased, {persons.pending} of these erasures not complete",
    ]


def verify_suppressed(ledger: Ledger) -> None:
    """Refusals that no entry counts yet lie beside the journal: no replay makes their rows."""
    with ledger.read() as state:
        for _ in state.scan(SUPPRESSED):
            pass


def probe_read_log(settings: Settings) -> None:
    """As `Ledger` probes its file: damage to the read log's is named, and ends no process of ours."""
    try:
        probe(read_log_path(settings))
    except LedgerCorrupt as error:
        raise LedgerCorrupt("the read log's file", error.what) from None
