"""What the native benchmarks share: timing, rows of results, and the peers measured in the same run.

Every figure is of the processor's time of one thread on one core. The wall's clock would count what
neighbours on the core take, and a pass takes but milliseconds. Ours and its peers run in turn, and a
ratio is the median of those of each turn: what slows a turn down slows both.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
TURNS = 15
TAGS = 200_000
PEER_ROWS = 20_000

# One pass; the processor's seconds that it took.
Pass = Callable[[], float]


@contextmanager
def one_core() -> Iterator[None]:
    """Pinned to the last core this process may use, and what it starts with it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def timed(work: Callable[[], object]) -> Pass:
    """The work as a pass."""

    def run() -> float:
        begun = time.thread_time()
        work()
        return time.thread_time() - begun

    return run


@dataclass(frozen=True)
class Runner:
    """Something that is measured: `count` things are done in a pass."""

    name: str
    run: Pass
    count: int
    note: str = ""


def take_turns(runners: Sequence[Runner], turns: int = TURNS) -> dict[str, list[float]]:
    """Things per second of every turn, by the runner's name; a turn that warms up is left out."""
    rates: dict[str, list[float]] = {runner.name: [] for runner in runners}
    for turn in range(turns + 1):
        for runner in runners:
            seconds = runner.run()
            if turn:
                rates[runner.name].append(runner.count / seconds)
    return rates


def compare(
    claim: str,
    unit: str,
    ours: Sequence[Runner],
    peers: Sequence[Runner] = (),
    note: str = "",
    turns: int = TURNS,
) -> list[dict[str, Any]]:
    """A row for each kernel (ours, by name) and each of its peers; one without where there is none."""
    rates = take_turns([*ours, *peers], turns)
    rows = []
    for kernel in ours:
        mine = rates[kernel.name]
        for peer in peers or (None,):
            notes = "; ".join(filter(None, (note, peer.note if peer else "")))
            row = result(claim, statistics.median(mine), unit, kernel.name, notes)
            if peer is not None:
                theirs = rates[peer.name]
                row |= {
                    "peer": peer.name,
                    "peer_value": statistics.median(theirs),
                    "ratio": statistics.median(a / b for a, b in zip(mine, theirs, strict=True)),
                }
            rows.append(row)
    return rows


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def result(claim: str, value: float, unit: str, kernel: str, note: str) -> dict[str, Any]:
    """One row of bench/results.json, without a peer."""
    return {
        "id": claim,
        "value": value,
        "unit": unit,
        "peer": None,
        "peer_value": None,
        "ratio": None,
        "kernel": kernel,
        "cpu": cpu_name(),
        "note": note,
    }


def random_rows(count: int, width: int, seed: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (count, width), np.uint8)


@contextmanager
def openssl_evp(work: str, keys: Bytes, rows: Bytes) -> Iterator[list[Runner]]:
    """OpenSSL in C, as a process that does a pass whenever it is asked; none where it cannot be built."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        program, data = folder / "peer", folder / "data"
        if not build(program):
            yield []
            return
        data.write_bytes(keys.tobytes() + rows.tobytes())
        sizes = (str(len(keys)), str(keys.shape[1]), str(rows.shape[1]))
        process = stack.enter_context(
            subprocess.Popen(
                [str(program), work, str(data), *sizes],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        sender, receiver = process.stdin, process.stdout
        assert sender is not None
        assert receiver is not None

        def run() -> float:
            print(file=sender, flush=True)
            return float(receiver.readline())

        version = receiver.readline().strip()
        yield [Runner("openssl_evp", run, len(keys), version)]
        sender.close()


def build(program: Path) -> bool:
    """Whether the peer could be built: it needs a C compiler and the Debian package libssl-dev."""
    compiler = shutil.which(os.environ.get("CC", "cc").split()[0])
    if compiler is None:
        print("openssl_evp skipped: no C compiler")
        return False
    source = Path(__file__).with_name("openssl_evp.c")
    built = subprocess.run(
        [compiler, "-O3", str(source), "-o", str(program), "-lcrypto"],
        capture_output=True,
        check=False,
    )
    if built.returncode:
        print("openssl_evp skipped: needs the Debian package libssl-dev")
    return not built.returncode
