"""Claim portal.alarm_p99: from sending the batch to the alarm at the client, many portals at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.portal_end_to_end import two_cores
from bench.results import Row, make_row
from bench.served import open_portals, serve
from jinku.demo.service import Service
from jinku.load import Measured, Plan
from jinku.load import measure as run_load
from jinku.softtags import SoftTag

CLAIM = "portal.alarm_p99"
TAGS, TAGS_QUICK = 20_000, 500
PORTALS, PORTALS_QUICK = 64, 4
SECONDS, SECONDS_QUICK = 20.0, 2.0
READS_PER_SECOND = 1_000
BATCH_SECONDS = 0.05
NEAR = 50
# Fewer than the service journals one by one, so that none is summed up.
ALARM_EVERY_S = 1.0


def measure(*, quick: bool = False) -> list[Row]:
    count, seconds = (PORTALS_QUICK, SECONDS_QUICK) if quick else (PORTALS, SECONDS)
    plan = Plan(
        batch_reads=round(READS_PER_SECOND * BATCH_SECONDS),
        seconds=seconds,
        rate=READS_PER_SECOND,
        near=NEAR,
        alarm_every_s=ALARM_EVERY_S,
    )
    with two_cores(), serve(TAGS_QUICK if quick else TAGS, count) as (service, tags):
        measured = run(service, tags, plan, count)
        in_step = run(service, tags, replace(plan, in_step=True, seconds=seconds / 2), count)
    note = (
        f"{len(tags)} tags, {count} portals × {measured.reads_per_second / count:.0f} reads/s, each "
        f"at its own place in the period; {len(measured.alarmed_s)} alarms; "
        f"p50 {measured.percentile_ms('alarmed_s', 50):.1f} ms; "
        f"batch to acknowledgement p99 {measured.percentile_ms('acknowledged_s', 99):.1f} ms. "
        "All portals sending, and alarming, at the same instant: "
        f"p50 {in_step.percentile_ms('alarmed_s', 50):.1f} ms, "
        f"p99 {in_step.percentile_ms('alarmed_s', 99):.1f} ms"
    )
    return [make_row(CLAIM, measured.percentile_ms("alarmed_s", 99), "ms", note=note)]


def run(service: Service, tags: Sequence[SoftTag], plan: Plan, count: int) -> Measured:
    with open_portals(service, tags, plan, count) as portals:
        measured = run_load(portals)
    if measured.alarms_missing or not measured.alarmed_s:
        raise RuntimeError(f"{measured.alarms_missing} alarms did not come")
    return measured
