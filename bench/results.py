"""The file of results: rows of known claims, and beside it the machine they were measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CLAIMS_FILE = HERE / "claims.toml"
ROWS_FILE = HERE / "rows.toml"
RESULTS_FILE = HERE / "results.json"
PROFILE_FILE = HERE / "profile.json"
MACHINE_FILE = HERE / "machine.json"
KEYS = ("id", "value", "unit", "peer", "peer_value", "ratio", "kernel", "cpu", "note")
LIBRARIES = ("cryptography", "grpcio", "lmdb", "numpy", "protobuf", "pycryptodome")

Row = dict[str, Any]


class UnknownClaim(ValueError):
    """A row of no claim, or in another unit than the claim's."""


def load_claims() -> dict[str, dict[str, Any]]:
    """What may be measured, by id: the claims, and the rows without a goal."""
    claims = tomllib.loads(CLAIMS_FILE.read_text(encoding="utf-8"))["claim"]
    rows = tomllib.loads(ROWS_FILE.read_text(encoding="utf-8"))["row"]
    return {listed["id"]: listed for listed in [*claims, *rows]}


def check(rows: Sequence[Row], claims: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises `UnknownClaim` for a row that no claim asks for."""
    for row in rows:
        claim = claims.get(row.get("id", ""))
        if claim is None:
            raise UnknownClaim(f"{row.get('id')!r} is not in {CLAIMS_FILE.name}, {ROWS_FILE.name}")
        if set(row) != set(KEYS):
            raise UnknownClaim(f"{row['id']}: keys {sorted(set(row) ^ set(KEYS))}")
        if row["unit"] != claim["unit"]:
            raise UnknownClaim(f"{row['id']}: in {row['unit']}, the claim is in {claim['unit']}")


def make_row(
    claim: str,
    value: float,
    unit: str,
    *,
    peer: tuple[str, float] | None = None,
    note: str = "",
    kernel: str = "",
) -> Row:
    """One row; the peer is what was measured beside it in the same run."""
    name, peer_value = peer or ("", 0.0)
    return {
        "id": claim,
        "value": value,
        "unit": unit,
        "peer": name,
        "peer_value": peer_value or None,
        "ratio": value / peer_value if peer_value else None,
        "kernel": kernel,
        "cpu": cpu_model(),
        "note": note,
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def describe_machine() -> dict[str, Any]:
    """Enough to know what the figures are comparable with."""
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "compiler": compiler.stdout.splitlines()[0] if compiler.stdout else "",
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
    }


def write(rows: Sequence[Row], path: Path = RESULTS_FILE) -> None:
    """Checks and writes the rows, and the machine beside them."""
    check(rows, load_claims())
    path.write_text(json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    machine = json.dumps(describe_machine(), indent=1, ensure_ascii=False)
    path.with_name(MACHINE_FILE.name).write_text(machine + "\n", encoding="utf-8")


def write_profile(rows: Sequence[Row], path: Path = RESULTS_FILE) -> None:
    """Writes where the time of batches went, beside the results."""
    text = json.dumps(list(rows), indent=1, ensure_ascii=False)
    path.with_name(PROFILE_FILE.name).write_text(text + "\n", encoding="utf-8")


def read(path: Path = RESULTS_FILE) -> list[Row]:
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def find_missed(rows: Sequence[Row], claims: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The rows whose value or ratio is beyond what the claim says; a line each."""
    missed = []
    for row in rows:
        claim = claims[row["id"]]
        sign = -1 if claim.get("max") else 1
        if "goal" in claim and sign * row["value"] < sign * claim["goal"]:
            missed.append(f"{row['id']}: {row['value']:g} {row['unit']}, goal {claim['goal']:g}")
        wanted = claim.get("ratio", {}).get(row["peer"])
        if wanted is not None and row["ratio"] is not None and row["ratio"] < wanted:
            missed.append(f"{row['id']}: {row['ratio']:.2f} of {row['peer']}, goal {wanted:g}")
    return missed
