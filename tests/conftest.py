"""What every test runs under: the marks, and the switch that turns skips into failures."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

# A deadline measures the machine, not the code; pytest-timeout catches what hangs.
hypothesis.settings.register_profile("jinku", deadline=None, print_blob=True)
hypothesis.settings.load_profile("jinku")

NO_SKIPS = os.environ.get("JINKU_NO_SKIPS") == "1"


@functools.cache
def is_installed(package: str) -> bool:
    try:
        answer = subprocess.run(
            ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return False
    return answer.stdout == "installed"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs_debian"):
        for package in mark.args:
            if not is_installed(package):
                pytest.skip(f"needs the Debian package {package}")


def refuse_skip(report: Any) -> None:
    """A skipped report becomes a failed one, with the skip's reason."""
    if NO_SKIPS and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"JINKU_NO_SKIPS=1: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[Any]:
    report = yield
    refuse_skip(report)
    return report
