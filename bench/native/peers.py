"""What the native benchmarks share: timing, rows of results, and the peers measured in the same run."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
RUNS = 9
TAGS = 200_000
PEER_ROWS = 20_000


@contextmanager
def one_core() -> Iterator[None]:
    """Pinned to the last core this process may use."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def median_seconds(work: Callable[[], object], runs: int = RUNS) -> float:
    """Of `runs` runs, after one that warms up."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def result(  # one row of bench/results.json
    claim: str,
    value: float,
    unit: str,
    kernel: str,
    note: str,
    peer: tuple[str, float] | None = None,
) -> dict[str, Any]:
    return {
        "id": claim,
        "value": value,
        "unit": unit,
        "peer": peer[0] if peer else None,
        "peer_value": peer[1] if peer else None,
        "ratio": value / peer[1] if peer else None,
        "kernel": kernel,
        "cpu": cpu_name(),
        "note": note,
    }


def random_rows(count: int, width: int, seed: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (count, width), np.uint8)


def openssl_evp(work: str, keys: Bytes, blocks: Bytes) -> tuple[float, str]:
    """Rows per second of OpenSSL in C and its version; 0 and why where it cannot be built."""
    compiler = shutil.which(os.environ.get("CC", "cc").split()[0])
    if compiler is None:
        return 0.0, "openssl_evp skipped: no C compiler"
    with tempfile.TemporaryDirectory() as folder:
        program, data = Path(folder, "peer"), Path(folder, "data")
        source = Path(__file__).with_name("openssl_evp.c")
        built = subprocess.run(
            [compiler, "-O3", str(source), "-o", str(program), "-lcrypto"],
            capture_output=True,
            check=False,
        )
        if built.returncode:
            return 0.0, "openssl_evp skipped: needs the Debian package libssl-dev"
        data.write_bytes(keys.tobytes() + blocks.tobytes())
        printed = subprocess.run(
            [str(program), work, str(data), str(len(keys))],
            capture_output=True,
            text=True,
            check=True,
        )
    version, *seconds = printed.stdout.splitlines()
    return len(keys) / statistics.median(map(float, seconds)), version
