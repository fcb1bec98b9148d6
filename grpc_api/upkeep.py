"""The commands that keep a realm's data: fsck, backup, restore, compact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from core.settings import Settings

from .cli import EPILOG, read_settings, with_config
from .progress import ProgressLine

if TYPE_CHECKING:
    from core.backup.take import Source
    from core.ledger.ledger import Ledger

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
    that was killed goes on near where it was when the command is given again. After a finding the
    service verifies the ledger before it serves it.
    """
    from core.errors import LedgerCorrupt
    from core.keys import RealmKeys

    from .service import open_ledger
    from .soundness import verify

    settings = read_settings(config)
    keys = RealmKeys.load(settings.keys.directory)
    ledger = open_ledger(settings, keys, probed=True, as_found=True)
    try:
        found = verify(settings, keys, ledger, ProgressLine(), hashes_only=hashes_only)
        if ledger.doubt and not hashes_only:
            found.append(f"note: {ledger.doubt}")
            ledger.believe()
            found.append("note: all of it was verified, and the service goes on from here")
    except LedgerCorrupt:
        # A start then looks for it too, and does not serve what has been found.
        ledger.suspect()
        raise
    finally:
        ledger.close()
    click.echo("\n".join(found))


@click.command(epilog=EPILOG)
@with_config
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="A new directory; it has this name only when everything in it is durable and verified.",
)
def backup(config: Path, output: Path) -> None:
    """Copy ledger and read log of one instant, while the service runs or not.

    All that was acknowledged before this began is in it. No key is: `jinkud backup-keys` is for those,
    and they are kept elsewhere.
    """
    from core.backup.take import take_backup

    settings = read_settings(config)
    manifest = take_backup(source_of(settings, config), output, ProgressLine())
    click.echo(
        f"{output}: {manifest.tree_size} entries, root {manifest.root_hash}, "
        f"{sum(file.bytes for file in manifest.files)} bytes"
    )
    click.echo(
        f"In it is all that was acknowledged before {manifest.begun_at}. Keys are not in it."
    )


@click.command(epilog=EPILOG)
@with_config
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="The backup's directory.",
)
@hashes_only_option
def restore(config: Path, source: Path, hashes_only: bool) -> None:
    """Put a backup into `storage.directory`, which must be empty, and verify it.

    The settings file and the keys must be there already. What was acknowledged after the backup is
    not in it: docs/operations.md says what to do before the service is started.
    """
    from core.backup.restore import restore_backup

    from .service import check_founding
    from .soundness import verify

    settings = read_settings(config)
    target = source_of(settings, config)
    found: list[str] = []
    progress = ProgressLine()

    def verify_in(ledger: Ledger, directory: Path) -> None:
        storage = settings.storage.model_copy(update={"directory": directory})
        there = settings.model_copy(update={"storage": storage})
        check_founding(ledger, there)
        found.extend(verify(there, target.keys, ledger, progress, hashes_only=hashes_only))

    manifest = restore_backup(source, target, verify_in, progress)
    click.echo("\n".join(found))
    click.echo(
        f"{settings.storage.directory}: restored as of {manifest.begun_at}; the newest entry was "
        f"decided at {manifest.decided_at}."
    )
    click.echo(
        "LOST, if anything was acknowledged after that: commands, freezes, passages and read "
        'counters.\nBefore `jinkud serve`, read "After a restore" in docs/operations.md. The first '
        "start verifies the whole journal again."
    )


@click.command(epilog=EPILOG)
@with_config
def compact(config: Path) -> None:
    """Rewrite the files of a stopped service to what lives in them, so that they are smaller.

    Killed at any instant, each file is the old one or the new one, whole.
    """
    from core.backup.compact import compact as rewrite

    from .service import open_ledger

    settings = read_settings(config)
    # Keys, settings and the journal's end fit together, and nobody else is at it.
    ledger = open_ledger(settings, probed=True)
    ledger.close()
    for done in rewrite(settings.storage.directory, ledger.sealer, ProgressLine()):
        click.echo(f"{done.name}: {done.bytes_before} bytes before, {done.bytes_after} now")


passphrase_files_option = click.option(
    "--passphrase-file",
    "passphrase_files",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    help="A file of one line for each of the two persons, in their order; else they are asked.",
)


@click.command("backup-keys", epilog=EPILOG)
@with_config
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A new file.")
@passphrase_files_option
def backup_keys(config: Path, output: Path, passphrase_files: Sequence[Path]) -> None:
    """Seal all key files into one that opens only with two persons' passphrases together.

    Keep it apart from every backup of the data: whoever has both, and both passphrases, has all. After
    an erasure of a person's data make a new one and destroy the older ones.
    """
    from core.backup.keyfile import seal_keys

    settings = read_settings(config)
    passphrases = ask_passphrases(passphrase_files, confirm=True)
    files = seal_keys(settings.keys.directory, output, passphrases)
    click.echo(f"{output}: {', '.join(files)}")


@click.command("restore-keys", epilog=EPILOG)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="A file of `jinkud backup-keys`.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The key directory to make: keys.directory of the settings.",
)
@passphrase_files_option
def restore_keys(source: Path, directory: Path, passphrase_files: Sequence[Path]) -> None:
    """Make the key directory of a file of `jinkud backup-keys`."""
    from core.backup.keyfile import open_keys

    passphrases = ask_passphrases(passphrase_files, confirm=False)
    click.echo(f"{directory}: {', '.join(open_keys(source, directory, passphrases))}")


def ask_passphrases(files: Sequence[Path], *, confirm: bool) -> list[str]:
    """Of both persons, from files or asked for on the terminal without an echo."""
    if files:
        return [path.read_text(encoding="utf-8").rstrip("\n") for path in files]
    return [
        click.prompt(
            f"Passphrase of the {which} person", hide_input=True, confirmation_prompt=confirm
        )
        for which in ("first", "second")
    ]


def source_of(settings: Settings, config: Path) -> Source:
    """A realm's data, as backups know it."""
    from core.backup.take import Source
    from core.keys import RealmKeys
    from core.ledger.ledger import Ledger

    realm, keys = settings.realm, RealmKeys.load(settings.keys.directory)

    def open_at(path: Path) -> Ledger:
        map_gib = settings.storage.ledger_map_gib
        return Ledger(path, keys, realm.number, realm.trust_domain, map_gib=map_gib, probed=True)

    directory = settings.storage.directory
    return Source(directory, config, keys, realm.number, realm.trust_domain, open_at)


UPKEEP: tuple[click.Command, ...] = (
    fsck, backup, restore, compact, backup_keys, restore_keys,
)  # fmt: skip
