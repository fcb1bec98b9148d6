"""Puts a backup back: into an empty place, every file checked on the way, and verified whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from core.backup.copying import Progress, appearing, refuse_existing
from core.backup.manifest import BackupInvalid, Digester, Manifest
from core.backup.take import SETTINGS, Source
from core.errors import LedgerCorrupt
from core.ledger.ledger import Ledger


def restore_backup(
    backup: Path,
    target: Source,
    verify: Callable[[Ledger, Path], None],
    progress: Progress,
) -> Manifest:
    """Make a storage directory of a backup: durable and verified on return, or not there.

    `verify` is called with the opened ledger and the directory it lies in, before that has its name;
    what it raises is passed on. The ledger is left marked, so that whatever opens it next verifies the
    whole journal again. SettingsError if the target is not empty, BackupInvalid naming the file that is
    not what was written, LedgerCorrupt if what was written is not sound.
    """
    refuse_existing(target.directory)
    manifest = Manifest.read(backup, target.keys.backup_key)
    of = (manifest.realm, manifest.trust_domain)
    if of != (target.realm, target.trust_domain):
        raise BackupInvalid(
            f"{backup}: is of realm {of[0]} of {of[1]}; "
            f"the settings are of realm {target.realm} of {target.trust_domain}"
        )
    with appearing(target.directory) as partial:
        _copy_files(backup, manifest, partial, progress)
        ledger = target.open_ledger(partial / "ledger")
        try:
            tip = ledger.checkpoint()
            if (tip.tree_size, tip.root_hash.hex()) != (manifest.tree_size, manifest.root_hash):
                raise LedgerCorrupt("the restored ledger", "ends otherwise than its manifest says")
            verify(ledger, partial)
            ledger.suspect()
        finally:
            ledger.close()
    return manifest


def _copy_files(backup: Path, manifest: Manifest, target: Path, progress: Progress) -> None:
    digester = Digester("restore", sum(file.bytes for file in manifest.files), progress)
    for file in manifest.files:
        source = backup / file.path
        if not source.is_file():
            raise BackupInvalid(f"{source}: is missing")
        if source.stat().st_size != file.bytes:
            size = source.stat().st_size
            raise BackupInvalid(f"{source}: has {size} bytes, and was written with {file.bytes}")
        if file.path == SETTINGS:
            found = digester.digest(source, file.path)
        else:
            path = target / file.path
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with path.open("xb") as copy:
                path.chmod(0o600)
                found = digester.digest(source, file.path, copy)
        if found != file:
            raise BackupInvalid(f"{source}: was altered since it was written")
