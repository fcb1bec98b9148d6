"""Killed at every step of an erasure: nobody is called erased who is not, and nobody else is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"

# Forks a child for each step, so that the imports are paid once. A step is a system call on the
# directory of keys or a commit, and the child is killed just before it.
SCRIPT = """
import json, os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from persons import NAME, found, opened
from core.sequencer import Writer
from jinku.type.v1.personal_pb2 import SubjectState as State
from jinku.v1.contact_pb2 import EndContactRequest

base, work = Path(sys.argv[1]) / "base", Path(sys.argv[1]) / "work"

def prepare():
    found(base)
    with opened(base) as persons:
        ids = [persons.contact(str(number), f"P{number}") for number in range(4)]
        persons.accept(EndContactRequest(contact_id=ids[0]))
        return ids

def steps(kill_at):
    count = 0
    def counted(function, name):
        def step(*arguments, **options):
            nonlocal count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return step
    for name in ("rename", "unlink", "fsync", "pwrite", "write"):
        setattr(os, name, counted(getattr(os, name), name))
    Writer.commit = counted(Writer.commit, "commit")

def erase(gone, kill_at):
    with opened(work) as persons:
        steps(kill_at)
        persons.erase(gone)
        persons.eraser.complete()

def names():
    return sorted(path.name for path in (work / "keys" / "wrapping").iterdir())

def check(gone, others):
    with opened(work) as persons:
        state = persons.get(contact_id=gone).state
        for number, one in enumerate(others, 1):
            assert persons.texts(one)[0] == f"P{number}"
        persons.read(gone)
        assert (persons.refused == ["SUBJECT_ERASED"]) == (state != State.SUBJECT_STATE_KEPT)
        if state == State.SUBJECT_STATE_ERASURE_COMPLETE:
            assert names() == ["2.key", "2.wraps"]
        persons.verify()
        if state == State.SUBJECT_STATE_KEPT:
            # Whatever was begun: asked for again, it is done.
            pending = persons.get(contact_id=gone).erasure_id
            if pending:
                from persons import confirm
                persons.accept(confirm(pending, gone), "privacy")
            else:
                persons.erase(gone)
        persons.eraser.complete()
        assert names() == ["2.key", "2.wraps"]
        assert persons.get(contact_id=gone).state == State.SUBJECT_STATE_ERASURE_COMPLETE
        for number, one in enumerate(others, 1):
            assert persons.texts(one)[0] == f"P{number}"
        report = persons.verify()
        assert (report.subjects, report.erased, report.pending) == (3, 1, 0), report
    return state

def forked(function, *arguments):
    child = os.fork()
    if not child:
        code = 99
        try:
            code = function(*arguments) or 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def main():
    reader, writer = os.pipe()
    def first():
        os.write(writer, b"".join(prepare()))
    assert forked(first) == 0
    ids = os.read(reader, 64)
    gone, *others = [ids[at : at + 16] for at in range(0, 64, 16)]
    seen, kill_at = [], 0
    while True:
        kill_at += 1
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(base, work)
        ended = forked(erase, gone, kill_at)
        assert ended in (0, -signal.SIGKILL), ended
        state = forked(check, gone, others)
        assert 1 <= state <= 3, f"step {kill_at}"
        seen.append(state)
        if ended == 0:
            break
    print(json.dumps(seen))

main()
"""


@pytest.mark.timeout(300)
def test_killed_at_every_step(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(SUPPORT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    states = json.loads(done.stdout)
    # Two commands, a new key, two commits, the wrap set, the old key's end, the last commit.
    assert len(states) > 20, states
    # From kept over erased to complete, and never back.
    assert states == sorted(states)
    assert set(states) == {1, 2, 3}
