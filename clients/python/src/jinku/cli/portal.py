"""`jinku portal replay`: recorded reads through the real stream."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from jinku import recording
from jinku.accounts import DIRECTIONS
from jinku.channel import Connection
from jinku.cli.common import EXIT_CODES, EXIT_REFUSED, connection_options, console, state_file
from jinku.columns import Tam2Read
from jinku.commands import load_portal_epoch
from jinku.errors import describe_reason
from jinku.portal import Handlers, PortalClient, describe_rejection
from jinku.replay import Replayer
from jinku.softtags import TagCounters, load
from jinku.type.v1.tag_pb2 import GateDecision
from jinku.v1.portal_pb2 import (
    Acknowledgement,
    Alarm,
    BatchRejected,
    Hello,
    Passage,
    Presentation,
    Tam2Profile,
)

QUIET_SECONDS = 3.0
PROFILES = {
    "epc": Tam2Profile.TAM2_PROFILE_EPC,
    "tid": Tam2Profile.TAM2_PROFILE_TID,
    "user": Tam2Profile.TAM2_PROFILE_USER,
}


class Tam2ReadType(click.ParamType[Tam2Read]):
    """What TAM2 is told to read, as `profile:offset:blocks`."""

    name = "profile:offset:blocks"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Tam2Read:
        if isinstance(value, Tam2Read):
            return value
        try:
            profile, offset, blocks = value.split(":")
            return Tam2Read(PROFILES[profile], int(offset), int(blocks))
        except (KeyError, ValueError):
            self.fail(f"{value!r} is no profile:offset:blocks, as `tid:0:1`", param, ctx)


TAM2_READ = Tam2ReadType()


@click.group(epilog=EXIT_CODES)
def portal() -> None:
    """Be a portal (通道)."""


@portal.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                required=False)  # fmt: skip
@click.option("--tags", "tags_file", required=True, help="Software tags, as `jinkud personalise` writes them.",
              type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@click.option("--room", help="Only this room's trials.  [default: the first room]")
@click.option("--speed", default=1.0, show_default=True, help="Times as fast as recorded.",
              type=click.FloatRange(0.01, 1000))  # fmt: skip
@click.option("--tam2", "tam2", default="tid:0:1", show_default=True, type=TAM2_READ,
              help="What TAM2 tags read: profile (epc, tid, user), offset in blocks of 8 bytes, "
              "count of blocks of 16 bytes.")  # fmt: skip
@click.option("--counters-file", type=click.Path(dir_okay=False, path_type=Path),
              help="Where the counters of these tags are kept.")  # fmt: skip
@click.option("--epoch-file", type=click.Path(dir_okay=False, path_type=Path),
              help="Where this portal's epoch is kept.")  # fmt: skip
@connection_options
def replay(
    connection: Connection,
    file: Path | None,
    tags_file: Path,
    room: str | None,
    speed: float,
    tam2: Tam2Read,
    counters_file: Path | None,
    epoch_file: Path | None,
) -> None:
    """Play the reads of FILE (by default the demonstration's recording) at their own times.

    The first trial moves as the first tag of --tags, and so on, each by its own scheme: TAM1 and TAM2
    tags answer live challenges, SUN tags and those that send frames count on. --certificate is the
    portal's own.
    """
    recorded = recording.load_demonstration() if file is None else recording.load(file)
    room = room or recorded.rooms()[0]
    trials = recorded.of_room(room)
    tags = load(tags_file)
    if not trials or len(tags) < len(trials):
        raise click.UsageError(
            f"room {room!r} has {len(trials)} trials, {tags_file} {len(tags)} tags"
        )
    tags = tags[: len(trials)]
    antennas = sorted({int(port) for trial in trials for port in trial.antenna.tolist()})
    kept = epoch_file or state_file(f"portal-{connection.certificate.stem}.json")
    hello = Hello(
        portal_epoch=load_portal_epoch(kept),
        antennas=antennas,
        frequencies_khz=recorded.frequencies_khz,
    )
    screen = console()
    heard = Heard(screen)
    with (
        connection.open() as channel,
        PortalClient(channel, hello, heard.handlers()) as client,
    ):
        client.wait_challenge()
        identities = [tag.identity for tag in tags]
        tracks = recording.lay_out(trials, identities, time.time_ns(), speed)
        counters = TagCounters(counters_file or state_file("tag-counters.json"))
        Replayer(client, tags, counters, tam2).play(tracks)
        client.flush()
        # The last tags are judged when they have been quiet for a while.
        time.sleep(QUIET_SECONDS)
    accounts = client.accounts
    screen.print(
        f"{accounts.taken} reads sent, {accounts.acknowledged} durable, {accounts.rejected} "
        f"rejected; {heard.alarms} alarms, {heard.passages} passages"
    )
    for verdict, count in sorted(heard.verdicts.items()):
        screen.print(f"{count} {verdict}")
    if accounts.rejected:
        raise SystemExit(EXIT_REFUSED)


class Heard:
    """Prints what the service says, a line each."""

    def __init__(self, screen: Console) -> None:
        self.screen = screen
        self.alarms = self.passages = 0
        self.verdicts: Counter[str] = Counter()

    def handlers(self) -> Handlers:
        return Handlers(
            acknowledgement=self.acknowledgement,
            presentation=self.presentation,
            passage=self.passage,
            alarm=self.alarm,
            rejected=self.rejected,
        )

    def acknowledgement(self, acknowledgement: Acknowledgement) -> None:
        for batch in acknowledgement.batches:
            for verdict, count in batch.counts.ListFields():
                self.verdicts[verdict.name] += count

    def presentation(self, presentation: Presentation) -> None:
        for tag in presentation.tags:
            release = tag.decision == GateDecision.GATE_DECISION_RELEASE
            word = "[green]RELEASE 放行[/]" if release else "[red]HOLD 拦截[/]"
            self.screen.print(f"{word} {tag.container_label or tag.identity.hex()}")

    def passage(self, passage: Passage) -> None:
        self.passages += 1
        zh, en = DIRECTIONS.get(passage.direction, ("?", "?"))
        share = passage.confidence_permille / 10
        self.screen.print(f"[cyan]{en} {zh}[/] {passage.container_label} {share:g} %")

    def alarm(self, alarm: Alarm) -> None:
        self.alarms += 1
        self.screen.print(
            f"[bold red]ALARM 报警[/] {alarm.container_label or alarm.identity.hex()}"
        )
        for reason in alarm.reasons:
            self.screen.print(f"    {describe_reason(reason)}", markup=False)

    def rejected(self, rejected: BatchRejected) -> None:
        for line in describe_rejection(rejected):
            self.screen.print(f"[red]rejected {rejected.sequence}[/]: {line}")
