"""The commands that keep a realm's data: fsck, backup, restore, compact."""

from __future__ import annotations

from pathlib import Path

import click

from .cli import EPILOG, read_settings, with_config
from .progress import ProgressLine

hashes_only_option = click.option(
    "--hashes-only",
    is_flag=True,
    help="Only entries, Merkle nodes, checkpoints and signatures: many times quicker than the replay.",
)


@click.command(epilog=EPILOG)
@with_config
@hashes_only_option
def fsck(config: Path, hashes_only: bool) -> None:
    """Verify the whole ledger: hashes, proofs, checkpoints, and every table by replay.

    Then the read log: every batch that has to be there is, and those of each sealed segment are the
    ones whose digest is in the journal. And the personal values: each opens to its commitment, and
    nothing is left of anybody who was erased.

    Refuses while the service holds the ledger. Names the first difference and exits 1 on it. A replay
    that was killed goes on near where it was when the command is given again.
    """
    from core.keys import RealmKeys

    from .service import open_ledger
    from .soundness import verify

    settings = read_settings(config)
    keys = RealmKeys.load(settings.keys.directory)
    ledger = open_ledger(settings, keys, probed=True)
    try:
        found = verify(settings, keys, ledger, ProgressLine(), hashes_only=hashes_only)
    finally:
        ledger.close()
    click.echo("\n".join(found))


UPKEEP: tuple[click.Command, ...] = (fsck,)
