"""`jinku evidence`: what the journal holds about one box, in a file that anybody can verify."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import click

from jinku import receipts
from jinku.channel import Connection
from jinku.cli.common import EXIT_CODES, LANGUAGES, connection_options, registry_of
from jinku.cli.ledger import KEY, trust_options
from jinku.durable import write_bytes
from jinku.evidence import bundle, package, verify
from jinku.evidence.collect import Collector, Wanted, open_persons
from jinku.evidence.entries import EvidenceInvalid
from jinku.evidence.scan import find_left_out
from jinku.evidence.standalone import describe_package
from jinku.ledger import LedgerClient
from jinku.registry import RegistryClient
from jinku.v1.ledger_pb2 import GetCheckpointRequest
from jinku.verdicts import Fault, open_checkpoint, parse_key

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
TOLD_EVERY = 100_000
# The service is the one that is audited: what checks it does not come from it.
OWN_KEY = click.option(
    "--verifier-key",
    required=True,
    type=KEY,
    help="The log's verifier key, or a file with it, as the auditor keeps it.",
)


@click.group(epilog=EXIT_CODES)
def evidence() -> None:
    """Evidence packages: entries, proofs and account of one box (证据包)."""


def tell_progress(count: int) -> None:
    if count % TOLD_EVERY == 0:
        click.echo(f"{count} entries read / 已读取 {count} 条", err=True)


@evidence.command("export")
@click.argument("label")
@click.option("--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--scan",
    "scanned",
    is_flag=True,
    help="Read the whole journal: refused commands too, and the service's index is not relied on.",
)
@click.option(
    "--contacts", is_flag=True, help="The contacts of its institution too, without their values."
)
@click.option(
    "--receipt",
    "held",
    multiple=True,
    type=FILE,
    help="Prove that this receipt's checkpoint begins the journal; may be repeated.",
)
@click.option("--witnessed", is_flag=True, help="Under a checkpoint with cosignatures, or not.")
@OWN_KEY
@connection_options  # fmt: skip
def export(
    connection: Connection,
    label: str,
    verifier_key: str,
    output: Path,
    scanned: bool,
    contacts: bool,
    held: tuple[Path, ...],
    witnessed: bool,
) -> None:
    """Collect all that the journal holds about the box LABEL; needs the auditor's role."""
    loaded = [receipts.load(path) for path in held]
    wanted = Wanted(label, scanned, contacts, loaded, witnessed)
    with connection.open() as channel:
        ledger = LedgerClient(channel)
        content = Collector(ledger, RegistryClient(channel), tell_progress).collect(wanted)
    packed = package.write(content)
    verified = verify.verify(packed, verifier_key, held=loaded)
    write_bytes(output, packed)
    tell_written(output, packed, verified)


def tell_written(output: Path, packed: bytes, verified: verify.Verified) -> None:
    for line in verified.verdict():
        click.echo(line)
    click.echo(f"{output}: {len(packed)} bytes, SHA-256 {hashlib.sha256(packed).hexdigest()}")


@evidence.command("verify")
@click.argument("file", metavar="PACKAGE", type=FILE)
@trust_options
@click.option(
    "--receipt",
    "held",
    multiple=True,
    type=FILE,
    help="A receipt that the package must agree with; may be repeated.",
)
@click.option(
    "--without-texts",
    is_flag=True,
    help="Leave the texts in it out of account: of a package of another version.",
)
@click.option("--language", type=LANGUAGES, default="both")  # fmt: skip
def verify_package(
    file: Path,
    verifier_key: str,
    witnesses: tuple[str, ...],
    quorum: int | None,
    held: tuple[Path, ...],
    without_texts: bool,
    language: str,
) -> None:
    """Check PACKAGE offline and tell what it says, made anew of its entries."""
    verified = verify.verify(
        verify.load(file),
        verifier_key,
        witnesses,
        len(witnesses) if quorum is None else quorum,
        [receipts.load(path) for path in held],
        without_texts=without_texts,
    )
    for line in describe_package(verified, language):
        click.echo(line)


@evidence.command("complete")
@click.argument("file", metavar="PACKAGE", type=FILE)
@OWN_KEY
@connection_options
def complete(connection: Connection, file: Path, verifier_key: str) -> None:
    """Read the whole journal and tell whether PACKAGE leaves out anything about its box.

    Needs the auditor's role. What is read must have the root that the package's checkpoint signs.
    """
    content = verify.verify(verify.load(file), verifier_key).content
    with connection.open() as channel:
        ledger = LedgerClient(channel)
        newest = ledger.get_checkpoint(GetCheckpointRequest()).checkpoint
        open_checkpoint(newest, parse_key(verifier_key), "the service's checkpoint")
        left_out = find_left_out(ledger, content, tell_progress)
    size = content.checkpoint.tree_size
    if left_out:
        click.echo(f"left out / 遗漏: entries {', '.join(map(str, left_out))}")
        raise EvidenceInvalid(Fault.ENTRY_MISSING, str(file), f"{len(left_out)} of {size} read")
    click.echo(f"完整: 账本 {size} 条记录中没有遗漏 ({content.selection})")
    click.echo(f"complete: nothing is left out of {size} entries ({content.selection})")
    click.echo("超出调用方限额的拒绝没有单独的记录, 无法查出其涉及何物")
    click.echo(
        "refusals beyond a caller's quota have no entry of their own: none shows what they were about"
    )


@evidence.command("open")
@click.argument("file", metavar="PACKAGE", type=FILE)
@click.option("--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
@OWN_KEY
@connection_options
def open_package(connection: Connection, file: Path, output: Path, verifier_key: str) -> None:
    """Add the personal values of the persons in PACKAGE, for a privacy officer.

    Each reading is journalled. Whoever is given the file has the values: no erasure reaches it.
    """
    content = verify.verify(verify.load(file), verifier_key).content
    with registry_of(connection) as registry:
        opened = open_persons(replace(content, opened=()), registry)
    packed = package.write(opened)
    write_bytes(output, packed)
    tell_written(output, packed, verify.verify(packed, verifier_key))


@evidence.command("verifier")
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
def write_verifier(output: Path) -> None:
    """Write the verifier as one file, for machines without `jinku`.

    It needs Python 3.11 and the package `cryptography`: python3 OUTPUT PACKAGE --key KEY
    """
    content = bundle.build()
    output.write_bytes(content)
    output.chmod(0o755)
    click.echo(f"{output}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
