"""Claim portal.end_to_end: mutual TLS, TAM1, durable; client and server share the same two cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from bench.echo import measure_echo
from bench.results import Row, make_row
from bench.served import open_portals, serve
from jinku.load import Measured, Plan
from jinku.load import measure as run_load
from jinku.type.v1.command_pb2 import DurabilityLevel
from jinku.v1.portal_pb2 import (
    Acknowledgement,
    BatchAcknowledgement,
    ChallengeState,
    StreamRequest,
    StreamResponse,
    VerdictCounts,
)

CLAIM = "portal.end_to_end"
TAGS, TAGS_QUICK = 200_000, 500
BATCH, BATCH_QUICK = 16_384, 256
SECONDS, SECONDS_QUICK = 12.0, 1.0
ECHO_SECONDS, ECHO_SECONDS_QUICK = 6.0, 0.5
PORTALS = 2
VARIETY = 8
# Boxes in front of each portal; the index holds all tags.
NEAR = 1_000


@contextmanager
def two_cores() -> Iterator[None]:
    """This process and those it starts stay on two cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:2]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def answer_size(reads: int) -> int:
    """Bytes of what a batch without exceptions is answered with."""
    batch = BatchAcknowledgement(
        sequence=10_000,
        counts=VerdictCounts(genuine=reads),
        challenge_state=ChallengeState.CHALLENGE_STATE_LIVE,
    )
    acknowledgement = Acknowledgement(
        through_sequence=10_000, batches=[batch], level=DurabilityLevel.DURABILITY_LEVEL_LOCAL
    )
    return StreamResponse(acknowledgement=acknowledgement).ByteSize()


def check(measured: Measured) -> None:
    accounts = measured.accounts
    if measured.verdicts != {"genuine": accounts.taken} or accounts.taken != accounts.acknowledged:
        raise RuntimeError(f"not every read is genuine and accounted for: {measured.verdicts}")


def measure(*, quick: bool = False) -> list[Row]:
    tags, reads = (TAGS_QUICK, BATCH_QUICK) if quick else (TAGS, BATCH)
    seconds, echo_seconds = (
        (SECONDS_QUICK, ECHO_SECONDS_QUICK) if quick else (SECONDS, ECHO_SECONDS)
    )
    plan = Plan(batch_reads=reads, seconds=seconds, variety=VARIETY, near=NEAR)
    with two_cores(), serve(tags, PORTALS) as (service, soft_tags):
        with open_portals(service, soft_tags, plan, PORTALS) as portals:
            measured = run_load(portals)
            check(measured)
            bodies = [
                StreamRequest(batch=batch).SerializeToString() for batch in portals[0].batches
            ]
        service.stop()
        own = service.connect("portal", "bench-0")
        echoed = measure_echo(own, own.ca.parent, bodies, answer_size(reads), echo_seconds)
    note = (
        f"{tags} tags registered, {PORTALS} portals with {NEAR} tags each in front, batches of "
        f"{reads} ({len(bodies[0])} bytes); batch to acknowledgement p50 "
        f"{measured.percentile_ms('acknowledged_s', 50):.1f} ms, "
        f"p99 {measured.percentile_ms('acknowledged_s', 99):.1f} ms, window full"
    )
    peer = ("grpcio_echo", echoed * reads)
    return [make_row(CLAIM, measured.reads_per_second, "reads/s", peer=peer, note=note)]
