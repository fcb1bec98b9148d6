"""The tag index, and the pipeline over it, under threads: no torn read; and without the index's lock they are found."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path

import pytest

from compilers import compiler

ROOT = Path(__file__).resolve().parents[2]
FLAGS = runpy.run_path(str(ROOT / "native" / "extensions.py"))
INDEX = ["tests/sanitize/threads.c", "native/tagindex_impl.c"]
PIPELINE = [
    "tests/sanitize/threads_pipeline.c",
    *sorted({*FLAGS["EXTENSIONS"]["native.pipeline"], *FLAGS["EXTENSIONS"]["native.arena"]}),
]
# Read before everything else: the lock is made and unmade, and never taken.
UNLOCKED = """
#include <pthread.h>
#define pthread_rwlock_rdlock(lock) ((void)(lock))
#define pthread_rwlock_wrlock(lock) ((void)(lock))
#define pthread_rwlock_unlock(lock) ((void)(lock))
"""
SECONDS_MAX = 30


def build(folder: Path, *flags: str, locked: bool, sources: list[str] = INDEX) -> Path:
    before, driver = folder / "before.h", folder / "driver"
    before.write_text("" if locked else UNLOCKED)
    built = subprocess.run(
        [
            compiler(), "-std=gnu11", "-g", *FLAGS["C_FLAGS"], *FLAGS["STRICT_C_FLAGS"], *flags,
            f"-I{ROOT / 'native'}", "-include", str(before),
            *[str(ROOT / file) for file in sources], "-o", str(driver),
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return driver


def run(driver: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [str(driver)], capture_output=True, text=True, check=False, timeout=SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess([str(driver)], 1, "", "hangs")


@pytest.mark.parametrize("sources", [INDEX, PIPELINE], ids=["index", "pipeline"])
@pytest.mark.parametrize("flag", ["-O3", "-fsanitize=thread"])
def test_readers_see_what_was_written_in_one_call(
    tmp_path: Path, flag: str, sources: list[str]
) -> None:
    done = run(build(tmp_path, flag, locked=True, sources=sources))
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_without_the_lock_torn_tags_are_read(tmp_path: Path) -> None:
    """A wrong tag, or the table gone while it is read: not every run must, but soon one does."""
    driver = build(tmp_path, "-O3", locked=False)
    assert any(run(driver).returncode for _ in range(50))


def test_without_the_lock_the_race_is_reported(tmp_path: Path) -> None:
    """Unless what the race did ends the run before."""
    driver = build(tmp_path, "-fsanitize=thread", locked=False)
    assert any("ThreadSanitizer: data race" in run(driver).stderr for _ in range(20))
