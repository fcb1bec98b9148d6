"""Coverage-guided fuzzing of every C entry: libFuzzer with AddressSanitizer and UBSan, kernels against each other.

JINKU_FUZZ_SECONDS (60) is the time of each target in `make soak`.
"""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest

from repository import ROOT, read, select
from soak import how_many

FOLDER = ROOT / "tests" / "fuzz"
FLAGS = runpy.run_path(str(ROOT / "native" / "extensions.py"))
FILES = sorted({file for files in FLAGS["EXTENSIONS"].values() for file in files})
TARGETS = ("kernels", "pipeline", "index", "tracks", "marks", "merkle")
SECONDS = how_many(60, "JINKU_FUZZ_SECONDS")
CLANG = ["clang", "-std=gnu11", "-g", "-O1", "-pthread", f"-I{ROOT / 'native'}"]
SANITIZERS = "address,undefined"
# They take nothing in that could be fuzzed.
NO_INPUT = {"arena_disable_core_dumps", "cpu_kernel_name", "cpu_sha256_kernel_name"}
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
# A declaration begins its line; what is inline is reached through those that use it.
DECLARED = re.compile(r"^(?!static|typedef|extern)\w[\w *]*?\b(\w+)\(", re.MULTILINE)


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stderr


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All C of native/, once for all targets."""
    folder, built = tmp_path_factory.mktemp("native"), []
    for file in FILES:
        built.append(str(folder / f"{Path(file).stem}.o"))
        sanitize = f"-fsanitize=fuzzer-no-link,{SANITIZERS}"
        run(
            [*CLANG, sanitize, "-fno-sanitize-recover=all", "-c", str(ROOT / file), "-o", built[-1]]
        )
    return built


def fuzz(target: str, objects: list[str], folder: Path, *limits: str) -> str:
    """What the fuzzer says at the end; anything found fails the test and is shown."""
    binary, corpus = folder / target, folder / "corpus"
    corpus.mkdir()
    sanitize = [f"-fsanitize=fuzzer,{SANITIZERS}", "-fno-sanitize-recover=all"]
    run([*CLANG, *sanitize, str(FOLDER / f"{target}.c"), *objects, "-o", str(binary)])
    return run(
        [
            str(binary), *limits, "-max_len=4096", "-timeout=20", "-print_final_stats=1",
            f"-artifact_prefix={folder}/", str(corpus),
        ]
    )  # fmt: skip


def test_every_c_entry_has_a_target() -> None:
    declared = {
        name
        for path in select("native/", suffixes=("_impl.h",))
        for name in DECLARED.findall(COMMENT.sub("", read(path)))
    }
    assert {"pipeline_verify", "index_put_many", "tracks_finish", "merkle_leaves"} <= declared
    called = "".join(read(path) for path in select("tests/fuzz/", suffixes=(".c", ".h")))
    without = {name for name in declared if not re.search(rf"\b{name}\(", called)}
    assert without == NO_INPUT


@pytest.mark.timeout(300)
@pytest.mark.needs_debian("clang")
@pytest.mark.needs_debian("libclang-rt-dev")
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_runs(target: str, objects: list[str], tmp_path: Path) -> None:
    said = fuzz(target, objects, tmp_path, "-runs=400", "-seed=1")
    assert "stat::number_of_executed_units: 400" in said


@pytest.mark.soak
@pytest.mark.needs_debian("clang")
@pytest.mark.needs_debian("libclang-rt-dev")
@pytest.mark.parametrize("target", TARGETS)
def test_fuzz(target: str, objects: list[str], tmp_path: Path) -> None:
    said = fuzz(target, objects, tmp_path, f"-max_total_time={SECONDS}")
    assert len(list((tmp_path / "corpus").iterdir())) > 5
    print(target, *[line for line in said.splitlines() if line.startswith("stat::number")])
