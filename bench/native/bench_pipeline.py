"""The whole read pipeline: look-up, diversification, verification, counter, verdict, in batches of 8,192 reads."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

from bench.native.peers import TAGS, TURNS, one_core, result
from bench.native.site import BATCH, COUNTER_KIND, KINDS, TAM1_KIND, Kind, Site
from native import cpu
from native.pipeline import TAM1, TAM2, evidence_size

MANY_TAGS = 5_000_000
CLAIMED = (TAM1_KIND, COUNTER_KIND)
SCHEMES = "native.pipeline_schemes"


def rate(site: Site, kind: Kind, kernel: str) -> float:
    """Reads per second, the median of as many passes as turns."""
    fixed = site.evidence(kind) if kind.scheme in {TAM1, TAM2} else None
    passes = [
        site.one_pass(kind, site.evidence(kind) if fixed is None else fixed, kernel)
        for _ in range(TURNS + 1)
    ]
    return site.reads / statistics.median(passes[1:])


def measure_site(claim: str, tags: int, kinds: tuple[Kind, ...]) -> list[dict[str, Any]]:
    site = Site(tags, kinds)
    rows = [
        result(
            claim, rate(site, kind, kernel), "reads/s", kernel, f"{kind.name}; batches of {BATCH}"
        )
        for kernel in cpu.available()
        for kind in kinds
    ]
    if claim != SCHEMES:
        note = f"after growth to {tags} tags"
        rows.append(result("native.bytes_per_tag", site.index.bytes_per_tag, "bytes", "", note))
    return rows


def measure() -> list[dict[str, Any]]:
    with one_core():
        return [
            *measure_site("native.pipeline_200k", TAGS, CLAIMED),
            *measure_site("native.pipeline_5m", MANY_TAGS, CLAIMED),
            *measure_site(SCHEMES, TAGS, KINDS),
        ]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("kernel", cpu.available())
def test_pipeline_200k(benchmark: Any, kernel: str, kind: Kind) -> None:
    site = Site(TAGS, (kind,))
    evidence = site.evidence(kind)
    assert evidence.shape[1] == evidence_size(kind.scheme, kind.blocks)
    benchmark(site.one_pass, kind, evidence, kernel)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
