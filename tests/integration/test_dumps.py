"""A process that holds keys leaves nothing behind when it crashes: on the running service."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dumpable import OTHER_GROUP, core_filter, core_limits, is_dumpable
from process import Daemon, daemon
from running import found

ASK = """
import ctypes, sys
if sys.argv[1:]:
    from core.dumps import forbid_core_dumps
    forbid_core_dumps()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
"""
# Every limit lifted first, as whoever starts it may have done.
CRASH = """
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
if sys.argv[1:]:
    from core.dumps import forbid_core_dumps
    forbid_core_dumps()
os.abort()
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    config = found(tmp_path_factory.mktemp("dumps")) / "jinku.toml"
    with daemon(config, group=OTHER_GROUP) as started:
        yield started


def test_limit_is_zero_and_nothing_would_be_written(running: Daemon) -> None:
    assert core_limits(running.process.pid) == ("0", "0")
    assert core_filter(running.process.pid) == 0


def test_process_is_not_dumpable(running: Daemon) -> None:
    """Its files in /proc are root's then, and a debugger of the same user is kept out."""
    answers = [
        subprocess.run([sys.executable, "-c", ASK, *more], capture_output=True, text=True).stdout
        for more in ([], ["forbid"])
    ]
    assert answers == ["1\n", "0\n"]
    assert not is_dumpable(running.process.pid)
    # The control: a process of the same user and group that forbids nothing.
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        group=OTHER_GROUP,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert is_dumpable(other.pid)
        other.communicate(b"\n")


def test_keys_lie_in_locked_memory_that_is_never_dumped(running: Daemon) -> None:
    """The tag masters' arena and the wrapping key's: locked, not dumped, wiped after a fork."""
    try:
        smaps = Path(f"/proc/{running.process.pid}/smaps").read_text(encoding="ascii")
        mappings = re.findall(r"^VmFlags: (.*)$", smaps, re.M)
    except PermissionError:
        # Only root may look into a process that is not dumpable.
        assert os.getuid() != 0
        return
    kept = [flags.split() for flags in mappings if {"lo", "dd"} <= set(flags.split())]
    assert len(kept) >= 2
    assert all("wf" in flags for flags in kept)


def test_crash_leaves_no_core(tmp_path: Path) -> None:
    """The control leaves one, where this machine writes them beside the process."""
    assert not leaves_core(tmp_path, "forbid")
    assert list(tmp_path.iterdir()) == []
    pattern = Path("/proc/sys/kernel/core_pattern").read_text(encoding="ascii").strip()
    if pattern == "core" and resource.getrlimit(resource.RLIMIT_CORE)[1]:
        assert leaves_core(tmp_path)


def leaves_core(directory: Path, *more: str) -> bool:
    process = subprocess.Popen(
        [sys.executable, "-c", CRASH, *more], cwd=directory, stderr=subprocess.DEVNULL
    )
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == -signal.SIGABRT
    return os.WCOREDUMP(status)


def test_crashed_service_leaves_no_core(tmp_path: Path) -> None:
    realm = found(tmp_path)
    with daemon(realm / "jinku.toml") as started:
        started.process.send_signal(signal.SIGABRT)
        _, status = os.waitpid(started.process.pid, 0)
        started.process.returncode = os.waitstatus_to_exitcode(status)
    assert os.WIFSIGNALED(status)
    assert not os.WCOREDUMP(status)
