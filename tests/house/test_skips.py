"""JINKU_NO_SKIPS=1 turns every kind of skip into a failure; without it they stay skips."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repository import ROOT

SKIPPING = {
    "test_call.py": "import pytest\ndef test_x(): pytest.skip('not here')",
    "test_mark.py": "import pytest\n@pytest.mark.skip(reason='not here')\ndef test_x(): assert 1",
    "test_module.py": "import pytest\npytest.importorskip('no_such_module')\ndef test_x(): assert 1",
    "test_package.py": (
        "import pytest\n@pytest.mark.needs_debian('no-such-package')\ndef test_x(): assert 1"
    ),
}
HARMLESS = {
    "test_expected.py": "import pytest\n@pytest.mark.xfail\ndef test_x(): assert 0",
    "test_right.py": "def test_x(): assert 1",
    "test_long.py": "import pytest\n@pytest.mark.soak\ndef test_x(): assert 0",
}


def run_pytest(folder: Path, no_skips: str) -> tuple[int, dict[str, int]]:
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "conftest.py")
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(folder)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JINKU_NO_SKIPS": no_skips},
    )
    counts = re.findall(r"(\d+) (\w+)", answer.stdout.strip().splitlines()[-1])
    return answer.returncode, {word.rstrip("s"): int(count) for count, word in counts}


@pytest.mark.parametrize("name", SKIPPING)
def test_skip_becomes_a_failure(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(SKIPPING[name])
    code, counts = run_pytest(tmp_path, "1")
    assert code != 0
    assert "skipped" not in counts
    code, counts = run_pytest(tmp_path, "0")
    assert code in {0, 5}
    assert counts["skipped"] == 1


def test_what_is_no_skip_stays(tmp_path: Path) -> None:
    for name, text in HARMLESS.items():
        (tmp_path / name).write_text(text)
    code, counts = run_pytest(tmp_path, "1")
    assert code == 0
    assert (counts["passed"], counts["xfailed"], counts["deselected"]) == (1, 1, 1)
