"""The served benchmarks, small and short: they run, and write rows of known claims."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import results
from core.portal.profile import STAGES
from repository import ROOT


@pytest.mark.timeout(180)
def test_served_benchmarks_write_rows_of_claims(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    answer = subprocess.run(
        [sys.executable, "-m", "bench", "portal", "--quick", "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    rows = json.loads(output.read_text(encoding="utf-8"))
    assert [row["id"] for row in rows] == ["portal.end_to_end", "portal.alarm_p99"]
    assert rows[0]["peer"] == "grpcio_echo"
    assert rows[0]["ratio"] == rows[0]["value"] / rows[0]["peer_value"] > 0
    results.check(rows, results.load_claims())
    machine = json.loads((tmp_path / "machine.json").read_text(encoding="utf-8"))
    assert {"cpu", "kernel", "python", "libraries", "date"} <= machine.keys()
    profile = json.loads((tmp_path / "profile.json").read_text(encoding="utf-8"))
    assert [row["batch_reads"] for row in profile] == [50, 200]
    for row in profile:
        assert tuple(row["stages"]) == STAGES
        assert all(stage["us_per_batch"] > 0 for stage in row["stages"].values())


@pytest.mark.parametrize(
    ("change", "why"),
    [({"id": "native.no_such"}, "not in"), ({"unit": "h"}, "the claim is in"), ({"x": 1}, "keys")],
)
def test_row_of_no_claim_is_refused(change: dict[str, object], why: str) -> None:
    row = results.make_row("native.tam1", 1.0, "tags/s")
    results.check([row], results.load_claims())
    with pytest.raises(results.UnknownClaim, match=why):
        results.check([row | change], results.load_claims())


def test_missed_goals_are_told() -> None:
    claims = results.load_claims()
    slow = results.make_row("native.tam1", 1.0, "tags/s", peer=("openssl_evp", 1.0))
    late = results.make_row("portal.alarm_p99", 51.0, "ms")
    met = results.make_row("portal.alarm_p99", 49.0, "ms")
    assert len(results.find_missed([slow], claims)) == 2
    assert len(results.find_missed([late], claims)) == 1
    assert results.find_missed([met], claims) == []
