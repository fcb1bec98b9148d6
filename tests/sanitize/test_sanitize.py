"""All C of native/, compiled strictly under AddressSanitizer and UBSan, over vectors and pseudo-random work."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path

import pytest

from compilers import compiler
from tag_reference import vectors

ROOT = Path(__file__).resolve().parents[2]
FLAGS = runpy.run_path(str(ROOT / "native" / "extensions.py"))
KERNELS = (
    "native.cmac", "native.tam1", "native.tam2", "native.sun", "native.pipeline", "native.tracks",
    "native.markset", "native.merkle",
)  # fmt: skip
FIELDS = {
    "cmac": ("aes_cmac", "key", "message", "mac"),
    "an10922": ("an10922", "master", "input", "key"),
    "tam1": ("tam1", "key", "challenge", "response"),
    "tam2": ("tam2", "key", "challenge", "response"),
    "sun": ("sun", "key", "uid", "evidence"),
    "aes_128": ("aes_128", "key", "plaintext", "ciphertext"),
    "sha256": ("sha256", "message", "digest"),
}
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# -O1 keeps the bit-sliced kernel quick enough and the sanitizers' checks in place.
STRICT = [*SANITIZERS, "-std=gnu11", "-g", "-O1", "-pthread", *FLAGS["STRICT_C_FLAGS"]]


def run(*command: str, lines: str = "") -> str:
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.timeout(300)
def test_every_c_entry_under_the_sanitizers(tmp_path: Path) -> None:
    cc = compiler()
    # Only the files these kernels are made of: another kernel brings its own driver.
    files = sorted({file for name in KERNELS for file in FLAGS["EXTENSIONS"][name]})
    driver = tmp_path / "driver"
    sources = [str(ROOT / file) for file in files]
    run(
        cc, *STRICT, "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'native'}",
        str(ROOT / "tests" / "sanitize" / "driver.c"), *sources, "-o", str(driver),
    )  # fmt: skip
    lines = "".join(
        f"{kind} {' '.join([*(row[field].hex() or '-' for field in fields), '-'][:3])}\n"
        for kind, (file, *fields) in FIELDS.items()
        for row in vectors(file)
    )
    assert run(str(driver), lines=lines) == "ok\n"
