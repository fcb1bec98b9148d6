"""`jinku ledger`: checkpoints, entries, and receipts checked offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from jinku import following, notes, receipts, verdicts
from jinku.accounts import read_entry
from jinku.channel import Connection
from jinku.cli.common import EXIT_CODES, LANGUAGES, connection_options, ledger_of
from jinku.evidence.standalone import describe_cosigners, read_key
from jinku.type.v1.command_pb2 import DurabilityLevel
from jinku.v1.common_pb2 import Receipt
from jinku.v1.ledger_pb2 import GetCheckpointRequest, GetEntryRequest


class KeyText(click.ParamType[str]):
    """A verifier key, or a file with one."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return read_key(str(value))
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"{value}: neither a verifier key nor a file with one ({error})", param, ctx)


KEY = KeyText()


def trust_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Whom to believe: the log's key, and witnesses."""
    options = [
        click.option("--key", "verifier_key", required=True, type=KEY,
                     help="The log's verifier key, or a file with it."),
        click.option("--witness", "witnesses", multiple=True, type=KEY,
                     help="A witness's verifier key, or a file with it; may be repeated."),
        click.option("--quorum", type=click.IntRange(0), default=None,
                     help="So many witnesses must have cosigned.  [default: all that are named]"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group(epilog=EXIT_CODES)
def ledger() -> None:
    """The journal: checkpoints, entries, receipts (账本)."""


@ledger.command("checkpoint")
@click.option("--save-key", type=click.Path(path_type=Path), help="Keep the verifier key here.")
@click.option("--kept", type=click.Path(path_type=Path, dir_okay=False),
              help="Keep the checkpoint here; it must go on from the one that was kept.")  # fmt: skip
@connection_options
def checkpoint(connection: Connection, save_key: Path | None, kept: Path | None) -> None:
    """Print the newest signed checkpoint, checked, and the key that checks it.

    Before it the newest that witnesses cosigned, if there is one; their keys are not checked here.
    """
    with ledger_of(connection) as client:
        answer = client.get_checkpoint(GetCheckpointRequest())
        key = notes.VerifierKey.parse(answer.verifier_key)
        if kept is not None:
            tell_growth(following.follow(following.ServiceSource(client), kept, key))
    for note in filter(None, (answer.checkpoint, answer.witnessed_checkpoint)):
        notes.open_checkpoint(note, key)
    if answer.witnessed_checkpoint:
        click.echo(answer.witnessed_checkpoint)
    click.echo(answer.checkpoint, nl=False)
    click.echo(f"verifier key: {answer.verifier_key}")
    if save_key is not None:
        save_key.write_text(answer.verifier_key + "\n", encoding="utf-8")


@ledger.command("entry")
@click.argument("index", type=click.IntRange(0))
@click.option("--save", type=click.Path(path_type=Path), help="Keep the receipt here.")
@click.option("--witnessed", is_flag=True, help="Its receipt with witnesses' cosignatures.")
@click.option("--language", type=LANGUAGES, default="both")
@connection_options
def entry(
    connection: Connection, index: int, save: Path | None, witnessed: bool, language: str
) -> None:
    """Print entry INDEX, and how durable it is shown to be."""
    with ledger_of(connection) as client:
        answer = client.get_entry(GetEntryRequest(entry_index=index, witnessed=witnessed))
    receipt = answer.receipt
    tell(receipt, language)
    level = DurabilityLevel.Name(answer.level).removeprefix("DURABILITY_LEVEL_")
    click.echo(f"level / 级别: {level}")
    if save is not None:
        receipts.save(receipt, save)
        click.echo(f"receipt: {save}")


@ledger.command("verify")
@click.argument("receipt", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@trust_options
@click.option("--language", type=LANGUAGES, default="both")
def verify(
    receipt: Path,
    verifier_key: str,
    witnesses: tuple[str, ...],
    quorum: int | None,
    language: str,
) -> None:
    """Check RECEIPT offline, with nothing but the realm's verifier key, and witnesses'."""
    loaded = receipts.load(receipt)
    verified = receipts.verify(
        loaded, verifier_key, witnesses, len(witnesses) if quorum is None else quorum
    )
    tell(loaded, language)
    tell_cosigners(verified.cosigners)
    for line in verified.verdict():
        click.echo(line)


@ledger.command("follow")
@click.option("--kept", required=True, type=click.Path(path_type=Path, dir_okay=False),
              help="Where the checkpoint is kept from one time to the next.")  # fmt: skip
@click.option("--url", required=True, help="The log's public HTTP door.")
@trust_options
def follow(
    kept: Path, url: str, verifier_key: str, witnesses: tuple[str, ...], quorum: int | None
) -> None:
    """Fetch the newest checkpoint, prove that it goes on from the one that was kept, and keep it.

    Needs no certificate. Run it from time to time on a machine that is not the service's: a journal
    that was put back or changed ends it with 4: keep both checkpoints. One that is older than the kept
    one, and proven to be of the same journal, is told and not kept.
    """
    keys = [verdicts.parse_key(key, notes.COSIGNATURE) for key in witnesses]
    key = verdicts.parse_key(verifier_key)
    followed = following.follow(
        following.TileSource(url), kept, key, keys, len(keys) if quorum is None else quorum
    )
    tell_cosigners(notes.find_cosigners(followed.note, keys))
    tell_growth(followed)


def tell_growth(followed: following.Followed) -> None:
    origin, size = followed.newest.origin, followed.newest.tree_size
    seen = followed.before.tree_size if followed.before else 0
    if size < seen:
        click.echo(f"{origin}: {size} 条记录，早于已见的 {seen} 条且与之一致；保留已见的检查点")
        click.echo(
            f"{origin}: {size} entries, older than the {seen} seen before, which go on from them; "
            "the checkpoint seen before is kept"
        )
        return
    click.echo(f"{origin}: {size} 条记录，与已见的 {seen} 条一致")
    click.echo(f"{origin}: {size} entries go on from the {seen} seen before")


def tell_cosigners(cosigners: dict[notes.VerifierKey, int]) -> None:
    for line in describe_cosigners(cosigners):
        click.echo(line)


def tell(receipt: Receipt, language: str) -> None:
    for line in read_entry(receipt).lines(language):
        click.echo(line)
