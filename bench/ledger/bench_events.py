"""Claim ledger.events: what the sequencer sustains, everything included, beside bare LMDB.

Each of the submitters gives its next command when the one before is answered. One thread feeds them,
as the service's loop does; the writer has its own.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from bench.ledger.bare import commits_of, write
from bench.ledger.realm import HANDLERS, check, opened, scratch
from bench.results import Row, make_row
from core.collector import settle
from core.sequencer import Command, Committed, Sequencer

CLAIM = "ledger.events"
PEER = "bare_lmdb_same_puts"
SUBMITTERS = 64
COMMANDS, COMMANDS_QUICK = 60_000, 1_000
OTHERS = (16, 256)


@dataclass(frozen=True)
class Run:
    """One run, and the peer's beside it."""

    submitters: int
    commands: int
    events: int
    commits: int
    seconds: float
    bare_seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds

    @property
    def bare_rate(self) -> float:
        """The same of the peer."""
        return self.events / self.bare_seconds

    def __str__(self) -> str:
        return (
            f"{self.submitters} submitters: {self.rate:,.0f} events/s, "
            f"{self.commands / self.seconds:,.0f} commands/s, "
            f"{self.commands / self.commits:.0f} a commit, "
            f"{self.bare_seconds / self.seconds:.2f} of bare LMDB, "
            f"{1e6 * self.cpu_seconds / self.commands:.0f} µs of processor a command"
        )


def measure(*, quick: bool = False) -> list[Row]:
    runs = [run(SUBMITTERS, COMMANDS_QUICK if quick else COMMANDS)]
    if not quick:
        runs += [run(submitters, COMMANDS // 2) for submitters in OTHERS]
    main, *others = runs
    note = "box registered, tag issued, passage in: 4 events in 3 commands. " + "; ".join(
        map(str, [main, *others])
    )
    return [make_row(CLAIM, main.rate, "events/s", peer=(PEER, main.bare_rate), note=note)]


def run(submitters: int, commands: int) -> Run:
    """So many commands by so many submitters, then the same puts by the peer."""
    with opened() as realm:
        day = realm.day(commands)
        start = realm.ledger.size
        sequencer = Sequencer(realm.ledger, HANDLERS)
        sequencer.start()
        settle()
        began, cpu = time.perf_counter(), time.process_time()
        events = feed(sequencer, day, submitters)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        sequencer.stop()
        commits = list(commits_of(realm.ledger, start))
    with scratch() as directory:
        bare = write(commits, directory)
    return Run(submitters, commands, events, len(commits), seconds, bare, cpu)


def feed(sequencer: Sequencer, commands: Sequence[Command], submitters: int) -> int:
    """Keep one command of every submitter under way; how many events came of them."""
    answered: queue.SimpleQueue[Future[Committed]] = queue.SimpleQueue()
    for command in commands[:submitters]:
        sequencer.submit(command).add_done_callback(answered.put)
    events = 0
    for at in range(len(commands)):
        events += len(check(answered.get().result()).events.events)
        for command in commands[at + submitters : at + submitters + 1]:
            sequencer.submit(command).add_done_callback(answered.put)
    return events
