"""bench/claims.toml and bench/rows.toml list what is measured; the code and the results name nothing else."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import PurePosixPath
from typing import Any

from repository import ROOT, read, select

LISTED: list[dict[str, Any]] = [
    *tomllib.loads(read("bench/claims.toml"))["claim"],
    *tomllib.loads(read("bench/rows.toml"))["row"],
]
CLAIMS = {claim["id"]: claim for claim in LISTED}
AREAS = sorted({claim_id.partition(".")[0] for claim_id in CLAIMS})
CLAIM_ID = re.compile(rf"(?:{'|'.join(AREAS)})\.[a-z0-9_]+")
RESULTS = ROOT / "bench" / "results.json"
ROW_KEYS = {"id", "value", "unit", "peer", "peer_value", "ratio", "kernel", "cpu", "note"}


def is_module(name: str) -> bool:
    path = PurePosixPath(name.replace(".", "/"))
    return any((ROOT / path).with_suffix(suffix).exists() for suffix in (".py", ".pyx", ""))


def find_unknown_claims(path: str, text: str) -> list[str]:
    return [
        f"{path}:{node.lineno} {node.value}"
        for node in ast.walk(ast.parse(text, path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and CLAIM_ID.fullmatch(node.value)
        and node.value not in CLAIMS
        and not is_module(node.value)
    ]


def find_wrong_rows(rows: list[dict[str, Any]]) -> list[str]:
    wrong = []
    for row in rows:
        claim = CLAIMS.get(row.get("id", ""))
        if claim is None:
            wrong.append(f"unknown id: {row}")
        elif set(row) != ROW_KEYS:
            wrong.append(f"{row['id']}: keys {sorted(set(row) ^ ROW_KEYS)}")
        elif row["unit"] != claim["unit"]:
            wrong.append(f"{row['id']}: in {row['unit']}, the claim is in {claim['unit']}")
    return wrong


def test_every_claim_in_bench_has_an_id() -> None:
    sources = select("bench/")
    assert sources, "bench/ has no sources"
    assert [line for path in sources for line in find_unknown_claims(path, read(path))] == []


def test_results_are_of_known_claims() -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert rows, "bench/results.json is empty"
    assert find_wrong_rows(rows) == []


def test_claim_ids_are_unique() -> None:
    assert len(LISTED) == len(CLAIMS)


def test_a_goal_is_a_claim() -> None:
    rows = tomllib.loads(read("bench/rows.toml"))["row"]
    assert [row["id"] for row in rows if row.keys() != {"id", "unit"}] == []


def test_unknown_claim_is_found() -> None:
    assert find_unknown_claims("x.py", 'measure("native.no_such_claim")')
    assert find_unknown_claims("x.py", 'measure("native.tam1")') == []


def test_wrong_row_is_found() -> None:
    row = dict.fromkeys(ROW_KEYS, None) | {"id": "native.tam1", "unit": "tags/s"}
    assert find_wrong_rows([row]) == []
    assert find_wrong_rows([row | {"unit": "tags"}])
    assert find_wrong_rows([row | {"id": "native.no_such_claim"}])
    assert find_wrong_rows([{"id": "native.tam1"}])
