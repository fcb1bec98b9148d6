"""Where the time of a batch goes in a running service, by stage: bench/profile.json.

One portal over mutual TLS as fast as it goes, TAM1, durable; client and service share the same two
cores, so a stage's time includes what the scheduler and the interpreter's lock took from it. The
stages are those of core/portal/profile.py; they overlap, and their sum is no latency.
"""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench.portal_end_to_end import check, two_cores
from bench.served import open_portals, serve
from jinku.demo.service import free_port
from jinku.load import Plan
from jinku.load import measure as run_load

VARIABLE = "JINKU_SERVER__METRICS_LISTEN"
TAGS, TAGS_QUICK = 20_000, 500
SIZES, SIZES_QUICK = (50, 1_600, 13_000), (50, 200)
SECONDS, SECONDS_QUICK = 6.0, 0.5
NEAR = 1_000
SAMPLE = re.compile(
    r'^jinku_portal_(?:stage_seconds_total\{stage="(\w+)"\}|(batches)_total) (\S+)$', re.MULTILINE
)


@contextmanager
def metrics_at(listen: str) -> Iterator[None]:
    """Services started meanwhile serve their metrics there."""
    os.environ[VARIABLE] = listen
    try:
        yield
    finally:
        del os.environ[VARIABLE]


def scrape(listen: str) -> dict[str, float]:
    """Seconds by stage, and batches."""
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {stage or batches: float(value) for stage, batches, value in SAMPLE.findall(text)}


def by_stage(before: Mapping[str, float], after: Mapping[str, float], reads: int) -> dict[str, Any]:
    batches = after["batches"] - before["batches"]
    spent = {name: (after[name] - before[name]) / batches for name in after if name != "batches"}
    return {
        stage: {"us_per_batch": round(each * 1e6, 1), "ns_per_read": round(each * 1e9 / reads, 1)}
        for stage, each in spent.items()
    }


def measure(*, quick: bool = False) -> list[dict[str, Any]]:
    """One row per size of batch."""
    listen = f"127.0.0.1:{free_port()}"
    tags = TAGS_QUICK if quick else TAGS
    rows = []
    with two_cores(), metrics_at(listen), serve(tags, 1) as (service, soft_tags):
        for reads in SIZES_QUICK if quick else SIZES:
            plan = Plan(batch_reads=reads, seconds=SECONDS_QUICK if quick else SECONDS, near=NEAR)
            before = scrape(listen)
            with open_portals(service, soft_tags, plan, 1) as portals:
                measured = run_load(portals)
            check(measured)
            row = {
                "batch_reads": reads,
                "batches_per_second": round(measured.reads_per_second / reads, 1),
                "reads_per_second": round(measured.reads_per_second),
                "stages": by_stage(before, scrape(listen), reads),
            }
            rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A line per stage: µs per batch and ns per read for each size."""
    yield "stage     " + "".join(f"{row['batch_reads']:>11,} reads    " for row in rows)
    for stage in rows[0]["stages"]:
        cells = [row["stages"][stage] for row in rows]
        yield f"{stage:<10}" + "".join(
            f"{one['us_per_batch']:>9,.1f} µs {one['ns_per_read']:>6,.1f} ns" for one in cells
        )
    yield "reads/s   " + "".join(f"{row['reads_per_second']:>21,}" for row in rows)
