"""`jinku witness`: cosigning another log's checkpoints, as its auditor or a neighbouring bank."""

from __future__ import annotations

import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from jinku.cli.common import EXIT_CODES
from jinku.dumps import forbid_core_dumps
from jinku.plain_server import Limits, Server
from jinku.witness import LOGS_FILE, Witness, WitnessFault, create
from jinku.witnessing import REQUEST_BYTES_MAX


@click.group(epilog=EXIT_CODES)
def witness() -> None:
    """Witness other logs: cosign what only ever grows (见证)."""
    # Making the key, and serving with it.
    forbid_core_dumps()


@witness.command("create")
@click.option("--directory", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", required=True, help="Who signs, e.g. witness.bank.example/w1.")
def create_witness(directory: Path, name: str) -> None:
    """Make a witness: its key, and an empty list of logs. Prints the key that checks it."""
    with telling_faults():
        key = create(directory, name)
    click.echo(f"verifier key: {key}")
    click.echo(f"Put the verifier keys of the logs into {directory / LOGS_FILE}, then")
    click.echo(f"  jinku witness serve --directory {directory}")


@witness.command("serve")
@click.option(
    "--directory", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option("--listen", default="127.0.0.1:7480", show_default=True, help="host:port")
@click.option("--connections-max", default=32, show_default=True, type=click.IntRange(1, 1024))
@click.option("--requests-per-second-max", default=100.0, show_default=True,
              type=click.FloatRange(1))  # fmt: skip
def serve(
    directory: Path, listen: str, connections_max: int, requests_per_second_max: float
) -> None:
    """Answer logs until SIGTERM or SIGINT (plain HTTP: TLS is a proxy's in front of it).

    What was seen of each log lies in the directory and is on disk before it is answered. Never put
    that directory back from a copy: a witness that forgot cosigns what it must not.
    """
    with telling_faults():
        opened = Witness(directory)
    limits = Limits(
        connections_max=connections_max,
        requests_per_second_max=requests_per_second_max,
        body_bytes_max=REQUEST_BYTES_MAX,
    )
    try:
        server = Server(listen, opened.answer, limits, tell)
    except OSError as error:
        raise click.UsageError(f"--listen: cannot listen there ({error.strerror})") from error
    # What a signal's handler may use while this thread is about to wait; an Event's lock is not.
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.put(None))
    server.start()
    click.echo(f"witness {opened.cosigner.verifier_key} at http://{server.listen}")
    ended.get()
    server.close()
    opened.close()


@contextmanager
def telling_faults() -> Iterator[None]:
    try:
        yield
    except WitnessFault as error:
        raise click.UsageError(str(error)) from error


def tell(error: Exception) -> None:
    click.echo(f"jinku: witness: {error!r}", err=True)
