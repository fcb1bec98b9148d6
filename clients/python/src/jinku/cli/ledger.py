"""`jinku ledger`: checkpoints, entries, and receipts checked offline."""

from __future__ import annotations

from pathlib import Path

import click

from jinku import notes, receipts
from jinku.accounts import read_entry
from jinku.channel import Connection
from jinku.cli.common import EXIT_CODES, LANGUAGES, connection_options, ledger_of
from jinku.v1.common_pb2 import Receipt
from jinku.v1.ledger_pb2 import GetCheckpointRequest, GetEntryRequest


@click.group(epilog=EXIT_CODES)
def ledger() -> None:
    """The journal: checkpoints, entries, receipts (账本)."""


@ledger.command("checkpoint")
@click.option("--save-key", type=click.Path(path_type=Path), help="Keep the verifier key here.")
@connection_options
def checkpoint(connection: Connection, save_key: Path | None) -> None:
    """Print the newest signed checkpoint, checked, and the key that checks it."""
    with ledger_of(connection) as client:
        answer = client.get_checkpoint(GetCheckpointRequest())
    try:
        notes.open_checkpoint(answer.checkpoint, notes.VerifierKey.parse(answer.verifier_key))
    except notes.NoteInvalid as error:
        raise receipts.ReceiptInvalid(str(error)) from error
    click.echo(answer.checkpoint, nl=False)
    click.echo(f"verifier key: {answer.verifier_key}")
    if save_key is not None:
        save_key.write_text(answer.verifier_key + "\n", encoding="utf-8")


@ledger.command("entry")
@click.argument("index", type=click.IntRange(0))
@click.option("--save", type=click.Path(path_type=Path), help="Keep the receipt here.")
@click.option("--language", type=LANGUAGES, default="both")
@connection_options
def entry(connection: Connection, index: int, save: Path | None, language: str) -> None:
    """Print entry INDEX."""
    with ledger_of(connection) as client:
        receipt = client.get_entry(GetEntryRequest(entry_index=index)).receipt
    tell(receipt, language)
    if save is not None:
        receipts.save(receipt, save)
        click.echo(f"receipt: {save}")


@ledger.command("verify")
@click.argument("receipt", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--key", "verifier_key", required=True, help="The verifier key, or a file with it.")
@click.option("--language", type=LANGUAGES, default="both")
def verify(receipt: Path, verifier_key: str, language: str) -> None:
    """Check RECEIPT offline, with nothing but the realm's verifier key."""
    if "+" not in verifier_key or Path(verifier_key).is_file():
        verifier_key = Path(verifier_key).read_text(encoding="utf-8")
    loaded = receipts.load(receipt)
    verified = receipts.verify(loaded, verifier_key)
    tell(loaded, language)
    origin, size = verified.checkpoint.origin, verified.checkpoint.tree_size
    index = verified.header.index
    click.echo(f"凭证有效: 第 {index} 条记录在 {origin} 共 {size} 条的签名检查点中")
    click.echo(f"valid: entry {index} is in the checkpoint of {size} entries signed by {origin}")


def tell(receipt: Receipt, language: str) -> None:
    for line in read_entry(receipt).lines(language):
        click.echo(line)
