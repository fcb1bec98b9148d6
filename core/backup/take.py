"""Takes a backup: beside the running service, of one instant, verified before it has its name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from core.backup.copying import (
    LEDGER,
    Progress,
    appearing,
    copy_environments,
    environments,
    held,
    refuse_existing,
)
from core.backup.manifest import FILE, FORMAT, Digester, Manifest
from core.errors import SettingsError
from core.files import DATA_FILE
from core.fsck import fsck
from core.keys import RealmKeys
from core.ledger.ledger import Ledger
from core.ledger.seal import Sealer
from core.ledger.stamps import renew

SETTINGS: Final = "jinku.toml"
# Files beside the environments that are no function of them. Copied first, so that none tells of more
# than the environments hold.
BESIDE: Final = ("ledger/witnessed",)
# What an opening makes anew.
_LOCKS: Final = ("lock.mdb", "owner.lock")


@dataclass(frozen=True)
class Source:
    """What is backed up: a storage directory, the settings file, and how its ledger is opened."""

    directory: Path
    settings_file: Path
    keys: RealmKeys
    realm: int
    trust_domain: str
    open_ledger: Callable[[Path], Ledger]


def take_backup(source: Source, output: Path, progress: Progress) -> Manifest:
    """Write a backup to the new directory `output`: durable and whole on return, or not there.

    The service may run and write; all that it acknowledged before the call is in the backup, and
    what it acknowledges meanwhile may be. Keys are not in it. Every entry, node and checkpoint of the
    copy is verified. Raises SettingsError if `output` is there or has no room, LedgerCorrupt if the
    ledger is not sound.
    """
    refuse_existing(output)
    if not (source.directory / LEDGER / DATA_FILE).exists():
        raise SettingsError(f"storage.directory: no ledger in {source.directory}")
    begun_at = datetime.now(UTC)
    with held(source.directory, alone=False), appearing(output) as partial:
        names = environments(source.directory)
        for name in names:
            (partial / name).mkdir(mode=0o700)
        for place in BESIDE:
            if (source.directory / place).exists():
                shutil.copyfile(source.directory / place, partial / place)
        pairs = [(source.directory / name, partial / name) for name in names]
        transactions = copy_environments(pairs, progress)
        sealer = Sealer(source.keys.row_key, source.keys.index_key, source.realm)
        renew(partial / LEDGER, sealer, transactions[names.index(LEDGER)])
        shutil.copyfile(source.settings_file, partial / SETTINGS)
        ledger = source.open_ledger(partial / LEDGER)
        try:
            fsck(ledger, progress, hashes_only=True)
            tip, decided_at_ns = ledger.checkpoint(), ledger.last_decided_at_ns
        finally:
            ledger.close()
        for path in partial.rglob("*"):
            if path.name in _LOCKS:
                path.unlink()
            elif path.is_file():
                path.chmod(0o600)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        digester = Digester("digest", sum(path.stat().st_size for path in files), progress)
        manifest = Manifest(
            format=FORMAT,
            realm=source.realm,
            trust_domain=source.trust_domain,
            begun_at=begun_at.isoformat(timespec="microseconds"),
            decided_at=datetime.fromtimestamp(decided_at_ns / 1e9, UTC).isoformat(),
            tree_size=tip.tree_size,
            root_hash=tip.root_hash.hex(),
            checkpoint=tip.note,
            files=tuple(
                digester.digest(path, path.relative_to(partial).as_posix()) for path in files
            ),
        )
        manifest.write(partial, source.keys.backup_key)
        (partial / FILE).chmod(0o600)
    return manifest
