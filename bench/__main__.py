"""Runs the benchmarks and writes the file of results.

python -m bench                 all of them
python -m bench native portal   some areas
python -m bench --quick         small and short, for the tests: the figures mean nothing
python -m bench ledger --full   the ledger is grown to ten million entries, which takes half an hour
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import portal_profile, results

HERE = Path(__file__).resolve().parent
Measure = Callable[..., list[results.Row]]


def load_folder(name: str) -> dict[str, Measure]:
    """The `measure` of every bench_*.py in a folder."""
    return {
        f"{name}/{path.stem}": importlib.import_module(f"bench.{name}.{path.stem}").measure
        for path in sorted((HERE / name).glob("bench_*.py"))
    }


def load_served() -> dict[str, Measure]:
    return {
        f"portal/{name}": importlib.import_module(f"bench.{name}").measure
        for name in ("portal_end_to_end", "portal_alarm")
    }


def load_service() -> dict[str, Measure]:
    return {"service/restart": importlib.import_module("bench.restart").measure}


def run(measure: Measure, **asked: bool) -> list[results.Row]:
    takes = inspect.signature(measure).parameters
    return measure(**{name: value for name, value in asked.items() if name in takes})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("areas", nargs="*", help="native, ledger, portal, service; none: all")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--output", type=Path, default=results.RESULTS_FILE)
    chosen = parser.parse_args()
    areas: dict[str, Callable[[], dict[str, Measure]]] = {
        "native": partial(load_folder, "native"),
        "ledger": partial(load_folder, "ledger"),
        "portal": load_served,
        "service": load_service,
    }
    unknown = set(chosen.areas) - set(areas)
    if unknown:
        parser.error(f"no such area: {', '.join(sorted(unknown))}")
    rows: list[results.Row] = []
    for area in chosen.areas or areas:
        for name, measure in areas[area]().items():
            print(f"{name} …", flush=True)
            measured = run(measure, quick=chosen.quick, full=chosen.full)
            for row in measured:
                tell(row)
            rows += measured
    if "portal" in (chosen.areas or areas):
        print("portal/portal_profile …", flush=True)
        profile = portal_profile.measure(quick=chosen.quick)
        results.write_profile(profile, chosen.output)
        print(*portal_profile.show(profile), sep="\n")
    if chosen.areas and chosen.output.exists():
        rows = merge(chosen.output, rows)
    results.write(rows, chosen.output)
    for line in results.find_missed(rows, results.load_claims()):
        print(f"missed: {line}")
    return 0


def merge(path: Path, rows: list[results.Row]) -> list[results.Row]:
    """What was measured now, and what the file has of other claims."""
    measured = {row["id"] for row in rows}
    return [row for row in results.read(path) if row["id"] not in measured] + rows


def tell(row: results.Row) -> None:
    ratio = f"  {row['ratio']:.2f} × {row['peer']}" if row["ratio"] else ""
    print(f"  {row['id']:<28} {row['value']:>14,.6g} {row['unit']}{ratio}  {row['kernel']}")


if __name__ == "__main__":
    sys.exit(main())
