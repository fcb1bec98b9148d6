"""`jinku witness` as a process: from nothing to a cosignature, and killed after its answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dumpable import OTHER_GROUP, core_filter, core_limits, is_dumpable
from jinku.notes import COSIGNATURE, VerifierKey
from jinku.plain_http import NoAnswer
from jinku.witness import LOGS_FILE
from jinku.witnessing import AddCheckpoint, WitnessConflict, add_checkpoint
from process import clean_environment
from signed_tree import KEY, consistency, sign, tree_hash

JINKU = Path(sys.executable).with_name("jinku")
LEAVES = [b"%d" % number for number in range(200)]


@contextmanager
def serving(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and where it answers; killed at the end of the block."""
    process = subprocess.Popen(
        [JINKU, "witness", "serve", "--directory", directory, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(PYTHONUNBUFFERED="1"),
        group=OTHER_GROUP,
    )
    try:
        assert process.stdout is not None
        with process.stdout as said:
            yield process, said.readline().rpartition(" ")[2].strip()
    finally:
        process.kill()
        process.wait()


def create(directory: Path) -> VerifierKey:
    made = subprocess.run(
        [JINKU, "witness", "create", "--directory", directory, "--name", "witness.example/w1"],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(),
    )
    (directory / LOGS_FILE).write_text(f"{KEY}\n", encoding="utf-8")
    return VerifierKey.parse(
        made.stdout.splitlines()[0].removeprefix("verifier key: "), COSIGNATURE
    )


def grow(old: int, new: int) -> AddCheckpoint:
    leaves = LEAVES[:new]
    proof = consistency(old, leaves) if old else []
    return AddCheckpoint(old, tuple(proof), sign(new, tree_hash(leaves)))


def test_killed_after_an_answer_it_forgets_nothing(tmp_path: Path) -> None:
    key = create(tmp_path / "w")
    told = 0
    for round_number in range(4):
        with serving(tmp_path / "w") as (process, url):
            for _ in range(3 + round_number):
                add_checkpoint(url, key, grow(told, told + 2), 10)
                told += 2
            process.send_signal(signal.SIGKILL)
            with pytest.raises(NoAnswer):
                add_checkpoint(url, key, grow(told, told + 1), 10)
    with serving(tmp_path / "w") as (process, url):
        with pytest.raises(WitnessConflict) as caught:
            add_checkpoint(url, key, grow(0, 1), 10)
        assert caught.value.tree_size == told
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_its_key_is_in_no_core_file(tmp_path: Path) -> None:
    """As `jinkud` does; test_dumps.py has the control."""
    create(tmp_path / "w")
    with serving(tmp_path / "w") as (process, _):
        assert core_limits(process.pid) == ("0", "0")
        assert core_filter(process.pid) == 0
        assert not is_dumpable(process.pid)
        process.send_signal(signal.SIGABRT)
        _, state = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(state)
    assert process.returncode == -signal.SIGABRT
    assert not os.WCOREDUMP(state)


def test_what_is_wrong_with_its_directory_is_told(tmp_path: Path) -> None:
    for arguments, said in (
        (["serve", "--directory", str(tmp_path)], "`jinku witness create` makes it"),
        (["create", "--directory", str(tmp_path), "--name", "a b"], "without spaces"),
    ):
        answer = subprocess.run(
            [JINKU, "witness", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(),
        )
        assert answer.returncode == 2
        assert said in answer.stderr
