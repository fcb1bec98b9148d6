"""Detection itself, on processors that lack something: cpu_impl.c compiled with answers that are given to it."""

from __future__ import annotations

import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from compilers import compiler
from native import cpu

ROOT = Path(__file__).resolve().parents[3]
FLAGS = runpy.run_path(str(ROOT / "native" / "extensions.py"))
# Read before everything else: what the processor is asked, and what it answers.
ANSWERS = """
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#define __builtin_cpu_supports(feature) (strcmp(feature, ABSENT) != 0 && strcmp(ABSENT, "all") != 0)
#define __get_cpuid_count(leaf, sub, a, b, c, d)                                                   \\
    (*(a) = *(c) = *(d) = 0,                                                                       \\
     *(b) = strcmp(ABSENT, "sha") == 0 || strcmp(ABSENT, "all") == 0 ? 0 : 1 << 29, 1)
#endif
"""
DRIVER = """
#include <stdio.h>
#include "cpu_impl.h"
int main(void)
{
    printf("%u %u\\n", cpu_detect(), cpu_detect_sha256());
    return 0;
}
"""
ON_X86 = pytest.mark.skipif("aesni" not in cpu.available(), reason="needs AES-NI")
# Given to a Python that finds native.cpu made so: the best kernel, and what a demand for AES-NI brings.
DEMAND = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("native.cpu", sys.argv[1])
cpu = importlib.util.module_from_spec(spec)
sys.modules["native.cpu"] = cpu
spec.loader.exec_module(cpu)
import numpy as np
from native import cmac
from native.errors import KernelUnavailable
keys = np.zeros((1, 16), np.uint8)
print(*cpu.available(), *cpu.available("sha256"), len(cmac.cmac_many(keys, keys)))
try:
    cmac.cmac_many(keys, keys, kernel="aesni")
except KernelUnavailable as refused:
    print(refused)
"""


def compile_with(folder: Path, absent: str, *command: str) -> None:
    answers = folder / "answers.h"
    answers.write_text(ANSWERS)
    subprocess.run(
        [
            compiler(), "-std=gnu11", "-O2", f"-I{ROOT / 'native'}", "-include", str(answers),
            f'-DABSENT="{absent}"', *command, str(ROOT / "native" / "cpu_impl.c"),
        ],
        check=True,
    )  # fmt: skip


@ON_X86
@pytest.mark.parametrize(
    ("absent", "aes", "sha256"),
    [
        ("nothing", 3, 3),
        ("all", 1, 1),
        ("aes", 1, 3),
        ("sha", 3, 1),
        ("sse4.1", 1, 1),
        ("ssse3", 1, 1),
    ],
)
def test_a_kernel_is_claimed_where_all_of_its_instructions_are(
    tmp_path: Path, absent: str, aes: int, sha256: int
) -> None:
    source, driver = tmp_path / "driver.c", tmp_path / "driver"
    source.write_text(DRIVER)
    compile_with(tmp_path, absent, str(source), "-o", str(driver))
    done = subprocess.run([str(driver)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(aes), str(sha256)]


@ON_X86
def test_on_a_processor_without_aes_ni_it_is_refused_and_portable_works(tmp_path: Path) -> None:
    generated, module = tmp_path / "cpu.c", tmp_path / "cpu.so"
    subprocess.run(
        [sys.executable, "-m", "cython", "-3", "native/cpu.pyx", "-o", str(generated)],
        cwd=ROOT,
        check=True,
    )
    compile_with(
        tmp_path, "all", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}",
        str(generated), "-o", str(module),
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", DEMAND, str(module)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "portable portable 1",
        "kernel 'aesni' was demanded; this processor has only portable",
    ]
