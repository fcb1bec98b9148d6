"""The command that judges stored reads again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click

from .cli import EPILOG, read_settings, with_config
from .progress import ProgressLine


class Instant(click.ParamType[int]):
    """A time with its zone, as UTC nanoseconds."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Fails with what is wrong."""
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time like 2026-11-24T08:00:00+08:00", param, ctx)
        if instant.tzinfo is None:
            self.fail(f"{value!r} has no zone; write it as {value}+08:00", param, ctx)
        return round(instant.timestamp() * 1_000_000) * 1_000


@click.command("replay-reads", epilog=EPILOG)
@with_config
@click.option(
    "--portal",
    "portals",
    multiple=True,
    metavar="NAME",
    help="Only of this portal; may be repeated.",
)
@click.option(
    "--from",
    "from_ns",
    type=Instant(),
    default="1970-01-01T00:00:00+00:00",
    help="Only reads received from then on, e.g. 2026-11-24T08:00:00+08:00.",
)
def replay_reads(config: Path, portals: Sequence[str], from_ns: int) -> None:
    """Judge every stored read again, and decide again what followed from it.

    With the kernels, the tags as the journal had them when a batch was judged, and the counters that it
    found: each verdict must be the stored one, each passage and alarm the journalled one. Names the
    first difference (portal, epoch, batch, row, what is stored and what was derived) and exits 1 on it;
    tells what could not be derived, and why.

    For a stopped service or a backup that was put back; writes nothing. `jinkud fsck` proves the journal
    that this rests on.
    """
    from core.errors import SettingsError
    from core.keys import RealmKeys, load_tag_masters
    from core.procedures.founding import OWN_NAME
    from core.readlog.replay import Wanted
    from core.readlog.replay import replay_reads as replay
    from core.readlog.stored import StoredReads
    from core.realm import principal_of

    from .founding import read_log_path
    from .service import open_ledger
    from .soundness import probe_read_log

    settings = read_settings(config)
    keys = RealmKeys.load(settings.keys.directory)
    masters = load_tag_masters(settings.keys.directory)
    realm, path = settings.realm, read_log_path(settings)
    if not path.is_dir():
        raise SettingsError(f"storage.directory: no read log in {path}; no portal ever streamed")
    ledger = open_ledger(settings, keys, probed=True)
    try:
        probe_read_log(settings)
        read_log = StoredReads(path, keys.readlog_key, map_gib=settings.storage.readlog_map_gib)
        try:
            principal = principal_of(realm.trust_domain, realm.number, "service", OWN_NAME)
            report = replay(
                ledger, read_log, keys, masters, principal, Wanted(portals, from_ns), ProgressLine()
            )
        finally:
            read_log.close()
    finally:
        ledger.close()
    click.echo("\n".join(report.lines()))
