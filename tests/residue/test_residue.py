"""No key outlives a call: nothing of one is on the dead stack or in a vector register after any public C entry."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path

from compilers import compiler
from native import cpu

ROOT = Path(__file__).resolve().parents[2]
FLAGS = runpy.run_path(str(ROOT / "native" / "extensions.py"))
KERNELS = ("native.cmac", "native.an10922", "native.tam2", "native.sun", "native.pipeline")
# What each entry calls last, replaced by nothing when it is linked.
FORGETFUL = """
#include <stddef.h>
void __wrap_cpu_forget(size_t size);
void __wrap_cpu_forget(size_t size)
{
    (void)size;
}
"""
ENTRIES = {
    "aes_master_init", "an10922_derive_many", "arena_add", "cmac_many", "cmac_verify_many",
    "pipeline_verify", "sun_verify_many", "tam1_verify_many", "tam2_verify_many",
}  # fmt: skip


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """native/ compiled with the flags that it is shipped with."""
    driver = folder / "driver"
    files = sorted({file for name in KERNELS for file in FLAGS["EXTENSIONS"][name]})
    # Bound at once: a function that is looked up at its first call leaves the registers as they
    # were then on the stack.
    subprocess.run(
        [
            compiler(), *FLAGS["C_FLAGS"], "-Wl,-z,now", f"-I{ROOT / 'native'}",
            str(ROOT / "tests" / "residue" / "driver.c"), *[str(ROOT / file) for file in files],
            *more, "-o", str(driver),
        ],
        check=True,
    )  # fmt: skip
    return subprocess.run([str(driver)], capture_output=True, text=True, check=False)


def test_nothing_is_left_of_any_key(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.stdout.splitlines() == [f"ran {kernel}" for kernel in cpu.available()]
    assert done.returncode == 0


def test_without_the_wiping_keys_are_found_after_every_entry(tmp_path: Path) -> None:
    forgetful = tmp_path / "forgetful.c"
    forgetful.write_text(FORGETFUL)
    lines = run(tmp_path, str(forgetful), "-Wl,--wrap=cpu_forget").stdout.splitlines()
    assert {line.split()[0] for line in lines} >= ENTRIES
    for kernel in cpu.available():
        found = [line for line in lines if kernel in line.split() and " 0 secrets" not in line]
        assert found, f"the search finds nothing that {kernel} leaves"
