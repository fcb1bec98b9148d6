"""The ledger's benchmarks run; what they measure is for `make bench`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from repository import ROOT

CLAIMS = {
    "ledger.events",
    "ledger.command_p99_over_bound",
    "ledger.proof_p99_10m",
    "ledger.growth_10k_to_10m",
}


@pytest.mark.timeout(180)
def test_every_claim_of_the_writer_gets_its_row(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    subprocess.run(
        [sys.executable, "-m", "bench", "ledger", "--quick", "--output", str(output)],
        check=True, capture_output=True, cwd=ROOT, timeout=170,
    )  # fmt: skip
    rows = {row["id"]: row for row in json.loads(output.read_text(encoding="utf-8"))}
    assert rows.keys() >= CLAIMS
    assert all(rows[claim]["value"] > 0 for claim in CLAIMS)
    assert rows["ledger.events"]["peer"] == "bare_lmdb_same_puts"
