"""No branch and no address in native/ depends on a secret: memcheck, with all secrets marked as undefined."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from native import cpu

ROOT = Path(__file__).resolve().parents[2]
FLAGS = runpy.run_path(str(ROOT / "native" / "extensions.py"))
KERNELS = ("native.cmac", "native.tam1", "native.tam2", "native.sun", "native.pipeline")
REPORTED = 9
pytestmark = [pytest.mark.needs_debian("valgrind"), pytest.mark.timeout(300)]


def run_driver(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """The driver under valgrind; native/ compiled with the flags that it is shipped with."""
    found = shutil.which(os.environ.get("CC", "cc").split()[0])
    if found is None:
        pytest.skip("needs a C compiler")
    files = sorted({file for name in KERNELS for file in FLAGS["EXTENSIONS"][name]})
    driver = folder / "driver"
    subprocess.run(
        [
            found, *FLAGS["C_FLAGS"], "-g", "-DCPU_CONSTANT_TIME_TEST", *flags,
            f"-I{ROOT / 'native'}", str(ROOT / "tests" / "constant_time" / "driver.c"),
            *[str(ROOT / file) for file in files], "-o", str(driver),
        ],
        check=True,
    )  # fmt: skip
    return subprocess.run(
        ["valgrind", "--quiet", f"--error-exitcode={REPORTED}", str(driver)],
        capture_output=True,
        text=True,
    )


def test_nothing_depends_on_a_secret(tmp_path: Path) -> None:
    done = run_driver(tmp_path)
    assert done.returncode == 0, done.stderr[:4000]
    assert tuple(done.stdout.split()) == cpu.available()


def test_a_look_up_by_a_key_byte_is_reported(tmp_path: Path) -> None:
    done = run_driver(tmp_path, "-DCONTROL")
    assert done.returncode == REPORTED
    assert "Use of uninitialised value" in done.stderr
    assert "look_up" in done.stderr
