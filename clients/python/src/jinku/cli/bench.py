"""`jinku bench`: what a service carries, measured from outside."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from jinku.channel import Connection
from jinku.cli.common import EXIT_CODES, EXIT_REFUSED, connection_options
from jinku.load import LoadPortal, Measured, Plan, measure
from jinku.softtags import load as load_tags


@click.group(epilog=EXIT_CODES)
def bench() -> None:
    """Measure a service, your own."""


@bench.command("load")
@click.option("--tags", "tags_file", required=True,
              type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Software tags (TAM1), as `jinkud personalise` writes them.")  # fmt: skip
@click.option("--portal", "portals", multiple=True, metavar="PATH",
              type=click.Path(path_type=Path),
              help="A portal's certificate and key: PATH.pem and PATH.key; may be repeated. "
              "[default: one portal, --certificate]")  # fmt: skip
@click.option("--rate", default=0.0, help="Reads per second of each portal; 0: flat out.")
@click.option("--batch", "batch_reads", default=8192, show_default=True, help="Reads per batch.",
              type=click.IntRange(1, 131_072))  # fmt: skip
@click.option("--near", default=1000, show_default=True, help="Tags in front of each portal.")
@click.option("--seconds", default=10.0, show_default=True)
@click.option("--alarm-every", default=0.0, help="Seconds between unregistered tags, per portal.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@connection_options
def load(
    connection: Connection,
    tags_file: Path,
    portals: tuple[Path, ...],
    rate: float,
    batch_reads: int,
    near: int,
    seconds: float,
    alarm_every: float,
    as_json: bool,
) -> None:
    """Send reads from one or many portals and time the answers.

    Every portal must be registered with antennas 1 and 2, and the tags issued.
    """
    tags = load_tags(tags_file)
    connections = [
        replace(connection, certificate=path.with_suffix(".pem"), key=path.with_suffix(".key"))
        for path in portals
    ] or [connection]
    plan = Plan(
        batch_reads=batch_reads,
        seconds=seconds,
        rate=rate,
        near=near,
        alarm_every_s=alarm_every,
    )
    with ExitStack() as stack:
        channels = [stack.enter_context(one.open()) for one in connections]
        running = [
            LoadPortal(channel, tags, plan, number * len(tags) // len(channels))
            for number, channel in enumerate(channels)
        ]
        try:
            measured = measure(running)
        finally:
            for portal in running:
                portal.client.abandon()
    tell(measured, len(running), as_json)
    if measured.accounts.rejected or measured.accounts.in_window:
        raise SystemExit(EXIT_REFUSED)


def tell(measured: Measured, portals: int, as_json: bool) -> None:
    figures = {
        "portals": portals,
        "seconds": round(measured.seconds, 3),
        "reads_acknowledged": measured.accounts.acknowledged,
        "reads_per_second": round(measured.reads_per_second),
        "batches_acknowledged": len(measured.acknowledged_s),
        "acknowledgement_ms_p50": round(measured.percentile_ms("acknowledged_s", 50), 2),
        "acknowledgement_ms_p99": round(measured.percentile_ms("acknowledged_s", 99), 2),
        "verdicts": measured.verdicts,
    }
    if measured.alarmed_s or measured.alarms_missing:
        figures |= {
            "alarms": len(measured.alarmed_s),
            "alarms_missing": measured.alarms_missing,
            "alarm_ms_p50": round(measured.percentile_ms("alarmed_s", 50), 2),
            "alarm_ms_p99": round(measured.percentile_ms("alarmed_s", 99), 2),
        }
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:>24}  {value}")
