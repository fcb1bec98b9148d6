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

from process import Daemon, daemon
from running import found

ASK = """
import ctypes, sys
if sys.argv[1:]:
    from core.dumps import forbid_core_dumps
    forbid_core_dumps()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
"""
CRASH = """
import os, sys
if sys.argv[1:]:
    from core.dumps import forbid_core_dumps
    forbid_core_dumps()
os.abort()
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(found(tmp_path_factory.mktemp("dumps")) / "jinku.toml") as started:
        yield started


def proc(running: Daemon, name: str) -> str:
    return Path(f"/proc/{running.process.pid}/{name}").read_text(encoding="ascii")


def test_limit_is_zero_and_nothing_would_be_written(running: Daemon) -> None:
    (line,) = re.findall(r"^Max core file size +(\S+) +(\S+)", proc(running, "limits"), re.M)
    assert line == ("0", "0")
    assert int(proc(running, "coredump_filter"), 16) == 0


def test_process_is_not_dumpable(running: Daemon) -> None:
    """Its files in /proc are root's then, and a debugger of the same user is kept out."""
    answers = [
        subprocess.run([sys.executable, "-c", ASK, *more], capture_output=True, text=True).stdout
        for more in ([], ["forbid"])
    ]
    assert answers == ["1\n", "0\n"]
    assert Path(f"/proc/{running.process.pid}/mem").stat().st_uid == 0


def test_keys_lie_in_locked_memory_that_is_never_dumped(running: Daemon) -> None:
    """The tag masters' arena and the wrapping key's: locked, not dumped, wiped after a fork."""
    try:
        mappings = re.findall(r"^VmFlags: (.*)$", proc(running, "smaps"), re.M)
    except PermissionError:
        assert os.getuid() != 0
        pytest.skip("only root may look into a process that is not dumpable")
    kept = [flags.split() for flags in mappings if {"lo", "dd"} <= set(flags.split())]
    assert len(kept) >= 2
    assert all("wf" in flags for flags in kept)


@pytest.mark.parametrize("forbidden", [False, True], ids=["control", "forbidden"])
def test_crash_leaves_no_core(tmp_path: Path, forbidden: bool) -> None:
    """With every limit lifted by whoever starts it. The control leaves one, where this machine can."""
    more = ["forbid"] if forbidden else []
    process = subprocess.Popen(
        [sys.executable, "-c", CRASH, *more],
        cwd=tmp_path,
        preexec_fn=lift,
        stderr=subprocess.DEVNULL,
    )
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == -signal.SIGABRT
    cores = list(tmp_path.iterdir())
    for core in cores:
        core.unlink()
    if not forbidden and not os.WCOREDUMP(status):
        pytest.skip("this machine takes no core dumps")
    assert os.WCOREDUMP(status) == (not forbidden)
    assert not (forbidden and cores)


def lift() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def test_crashed_service_leaves_no_core(tmp_path: Path) -> None:
    realm = found(tmp_path)
    with daemon(realm / "jinku.toml") as started:
        started.process.send_signal(signal.SIGABRT)
        _, status = os.waitpid(started.process.pid, 0)
        started.process.returncode = os.waitstatus_to_exitcode(status)
    assert os.WIFSIGNALED(status)
    assert not os.WCOREDUMP(status)
