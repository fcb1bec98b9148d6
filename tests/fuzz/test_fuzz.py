"""Coverage-guided fuzzing of every C entry: libFuzzer with AddressSanitizer and UBSan, kernels against each other.

JINKU_FUZZ_SECONDS (60) is the time of each target.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "fuzz"
FLAGS = runpy.run_path(str(ROOT / "native" / "extensions.py"))
TARGETS = {
    "kernels": ("native.cmac", "native.an10922", "native.tam1", "native.tam2", "native.sun"),
    "pipeline": ("native.pipeline", "native.cmac"),
    "index": ("native.pipeline",),
    "tracks": ("native.cpu", "native.tracks"),
    "merkle": ("native.cpu", "native.merkle"),
}
SECONDS = int(os.environ.get("JINKU_FUZZ_SECONDS", "60"))
pytestmark = pytest.mark.soak


def build(target: str, folder: Path) -> Path:
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("needs clang (Debian: clang and libclang-rt-dev of the same version)")
    files = sorted({file for name in TARGETS[target] for file in FLAGS["EXTENSIONS"][name]})
    binary = folder / target
    done = subprocess.run(
        [
            clang, "-std=gnu11", "-g", "-O1", "-pthread", "-fsanitize=fuzzer,address,undefined",
            "-fno-sanitize-recover=all", f"-I{ROOT / 'native'}", str(FOLDER / f"{target}.c"),
            *[str(ROOT / file) for file in files], "-o", str(binary),
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if "libclang_rt.fuzzer" in done.stderr:
        pytest.skip("needs clang's run-time libraries (Debian: libclang-rt-dev)")
    assert done.returncode == 0, done.stderr
    return binary


@pytest.mark.parametrize("target", TARGETS)
def test_fuzz(target: str, tmp_path: Path) -> None:
    binary = build(target, tmp_path)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    done = subprocess.run(
        [
            str(binary), f"-max_total_time={SECONDS}", "-max_len=4096", "-timeout=20",
            "-print_final_stats=1", f"-artifact_prefix={tmp_path}/", str(corpus),
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    print(target, *[line for line in done.stderr.splitlines() if line.startswith("stat::number")])
    assert len(list(corpus.iterdir())) > 5
