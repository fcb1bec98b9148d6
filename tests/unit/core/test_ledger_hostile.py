"""The ledger among other processes, forks, and readers that do not end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.errors import LedgerBusy, LedgerInUse
from core.ledger.ledger import Ledger
from core.ledger.store import SNAPSHOTS_MAX
from core.ledger.tables import COMMANDS, INSTITUTIONS, State
from core.sequencer import Committed, Sequencer
from core.store.v1.rows_pb2 import CommandRow, InstitutionRow
from full_disk import nearly_full
from jinku.v1.registry_pb2 import RegisterInstitutionRequest
from ledgers import HANDLERS, command, found, reopen

SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found(tmp_path)
    opened = reopen(tmp_path)
    yield opened
    opened.close()


def run_script(script: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(directory), str(SUPPORT)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


OWNER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from ledgers import reopen
ledger = reopen(Path(sys.argv[1]))
print(ledger.size, flush=True)
sys.stdin.readline()
"""


def test_two_processes(tmp_path: Path) -> None:
    """The second is refused, and has the ledger as soon as the first is gone, however it went."""
    found(tmp_path)
    for end in ("ends", "is killed"):
        with run_script(OWNER, tmp_path) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "1\n"
            with pytest.raises(LedgerInUse, match="another process has this ledger open"):
                reopen(tmp_path)
            if end == "is killed":
                owner.kill()
        reopen(tmp_path).close()


FORK = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from full_disk import nearly_full
from ledgers import HANDLERS, command, found, reopen
from core.errors import JinkuError
from core.writer import Writer
from jinku.v1.registry_pb2 import RegisterInstitutionRequest

def try_to(what, act):
    try:
        act()
        print(what, "worked", flush=True)
    except JinkuError as error:
        print(what, type(error).__name__, "forked" in str(error), flush=True)

def commit(code):
    request = RegisterInstitutionRequest(code=code, name=code, kind=2)
    return Writer(ledger, HANDLERS).commit([command(request)])[0].entry_index

ledger = reopen(Path(sys.argv[1]))
held = ledger.entries()
with ledger.read() as state:
    if os.fork() == 0:
        try_to("read", lambda: ledger.read().__enter__())
        try_to("entry", lambda: ledger.entry(0))
        try_to("entries", lambda: list(held))
        try_to("proof", lambda: ledger.proof(0, 1))
        try_to("write", lambda: commit("child"))
        ledger.close()
        os._exit(0)
    os.wait()
    print("parent", commit("parent"), len(list(held)), flush=True)
ledger.close()
reopen(Path(sys.argv[1])).close()
print("reopened", flush=True)
"""


def test_a_forked_child_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    found(tmp_path)
    with run_script(FORK, tmp_path) as process:
        told = process.communicate()[0].splitlines()
    assert process.returncode == 0
    refused = [line.split() for line in told[:5]]
    assert [what for what, *_ in refused] == ["read", "entry", "entries", "proof", "write"]
    assert {tuple(why) for _, *why in refused} == {("LedgerInUse", "True")}
    assert told[5:] == ["parent 1 2", "reopened"]


def test_a_child_that_outlives_its_parent_does_not_keep_the_ledger(tmp_path: Path) -> None:
    """What is forked and then executed has none of the ledger's files."""
    found(tmp_path)
    script = OWNER.replace(
        "sys.stdin.readline()",
        "import subprocess; child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True)",
    )
    with run_script(script, tmp_path) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        child = int(owner.stdout.readline())
        owner.kill()
        owner.wait()
        try:
            reopen(tmp_path).close()
        finally:
            subprocess.run(["kill", str(child)], check=True)


def institution(number: int) -> RegisterInstitutionRequest:
    return RegisterInstitutionRequest(code=f"{number}", name="x" * 100, kind=2)


def key_of(state: State, committed: Committed) -> bytes:
    return state.command_key(committed.header.principal, committed.header.command_id)


def test_no_more_snapshots_than_there_is_room_for(ledger: Ledger) -> None:
    def follow(committed: Sequence[Committed]) -> None:
        """As the tag directory does."""
        with ledger.read() as state:
            followed.extend(state.get(COMMANDS, key_of(state, one)) for one in committed)

    followed: list[CommandRow | None] = []
    sequencer = Sequencer(ledger, HANDLERS, on_committed=follow)
    sequencer.start()
    first = command(institution(0))
    assert sequencer.submit(first).result(10).accepted
    for number in range(1, 70):
        sequencer.submit(command(institution(number))).result(10)
    with ExitStack() as held:
        with pytest.raises(LedgerBusy, match=f"{SNAPSHOTS_MAX} snapshots"):
            while True:
                held.enter_context(ledger.read())
        assert ledger.usage().snapshots == SNAPSHOTS_MAX
        # Writing goes on; what the writer reads, also of entries long ago, is read all the same.
        for number in range(70, 73):
            assert sequencer.submit(command(institution(number))).result(10).accepted
        assert sequencer.submit(first).result(10).repeated
        with pytest.raises(LedgerBusy):
            ledger.proof(0, 1)
    assert ledger.proof(0, 1) == []
    assert ledger.usage().snapshots == 0
    sequencer.stop()
    assert len(followed) == 73
    assert None not in followed


def test_whoever_opens_the_file_first_does_not_say_how_many_may_read(tmp_path: Path) -> None:
    """LMDB takes the number of readers from the length of a file, which the first to open makes."""
    found(tmp_path)
    lock = tmp_path / "ledger" / "lock.mdb"
    lock.unlink()
    opened = "import lmdb, sys; env = lmdb.open(sys.argv[1], readonly=True); env.begin(); print(); input()"
    first = subprocess.Popen(
        [sys.executable, "-c", opened, str(lock.parent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert first.stdout is not None
    first.stdout.readline()
    ledger = reopen(tmp_path)
    try:
        with ExitStack() as held:
            for _ in range(SNAPSHOTS_MAX):
                held.enter_context(ledger.read())
    finally:
        ledger.close()
        first.communicate("\n")
    # What LMDB writes to through a mapping has its place on the disk.
    assert lock.stat().st_blocks * 512 >= lock.stat().st_size


def test_no_room_for_the_table_of_readers_is_told(tmp_path: Path) -> None:
    found(tmp_path)
    lock = tmp_path / "ledger" / "lock.mdb"
    lock.unlink()
    with nearly_full(4096), pytest.raises(OSError, match=r"lock\.mdb"):
        reopen(tmp_path)
    reopen(tmp_path).close()


def rewrite(ledger: Ledger, commits: int) -> int:
    """Write the same rows again and again; how much the file has grown."""
    before = ledger.usage().bytes_used
    row = InstitutionRow(name="x" * 1000)
    for _ in range(commits):
        with ledger.writing() as writing:
            for number in range(64):
                writing.tables.put(INSTITUTIONS, number.to_bytes(16), row)
    return ledger.usage().bytes_used - before


def test_a_snapshot_that_stays_open_is_told_and_costs_room(ledger: Ledger) -> None:
    rewrite(ledger, 20)
    assert rewrite(ledger, 50) < 1 << 20
    with ledger.read() as state:
        assert state.get(INSTITUTIONS, bytes(16)) is not None
        grown = rewrite(ledger, 50)
        usage = ledger.usage()
        assert usage.snapshots == 1
        assert usage.oldest_snapshot_seconds > 0
    assert grown > 2 << 20
    usage = ledger.usage()
    assert (usage.snapshots, usage.oldest_snapshot_seconds) == (0, 0)
    # What was kept from being used again is used again.
    assert rewrite(ledger, 50) < 1 << 20


@pytest.mark.parametrize("reader", ["entries", "read_from", "commits", "checkpoints"])
def test_who_reads_the_journal_at_leisure_costs_no_room(ledger: Ledger, reader: str) -> None:
    rewrite(ledger, 20)
    # A pause of any length between two values.
    paused = getattr(ledger, reader)(*([0] if reader == "read_from" else []))
    next(paused)
    assert ledger.usage().snapshots == 0
    assert rewrite(ledger, 50) < 1 << 20
    assert list(paused) == []
