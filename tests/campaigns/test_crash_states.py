"""Power cut at any instant of real commits: every state of the files that their syncs allow is opened."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import state_reader
import traced_commits
from core.files import DATA_FILE
from core.fsck import fsck
from core.ledger.heads import NEWEST_FILE
from crash_states import Disk, State, enumerate_states, torn_within
from ledgers import found, reopen
from repository import ROOT
from soak import how_many
from syscalls import Created, Event, Said, Sync, Write, trace
from traffic import Found

pytestmark = pytest.mark.needs_debian("strace")

SUPPORT = ROOT / "tests" / "support"
STORES = {"ledger": "ledger", "reads": "readlog"}
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(
    [str(SUPPORT), os.environ.get("PYTHONPATH", "")])}  # fmt: skip


@dataclass
class Traced:
    """A realm before some commits, and what the process did that made them."""

    directory: Path
    before: dict[str, bytes]
    events: Sequence[Event]

    def path(self, said: str) -> Path:
        return self.directory / STORES[said] / "data.mdb"

    def acknowledged(self, said: str) -> list[Said]:
        return [one for one in self.events if isinstance(one, Said) and one.line.startswith(said)]


def trace_commits(directory: Path, commits: int, wrong: str = "", earlier: int = 20) -> Traced:
    """Commits on a realm that has had some before, so that pages are used again."""
    directory.mkdir()
    found(directory)
    program = [sys.executable, traced_commits.__file__, str(directory)]
    if earlier:
        subprocess.run(
            [*program, str(earlier)], stdout=subprocess.PIPE, check=True, env=ENVIRONMENT
        )
    before = {said: content_of(directory / store) for said, store in STORES.items()}
    wrongs = [wrong] if wrong else []
    events = trace([*program, str(commits), *wrongs], directory / "trace", **ENVIRONMENT)
    return Traced(directory, before, events)


def content_of(store: Path) -> bytes:
    data = store / "data.mdb"
    return data.read_bytes() if data.exists() else b""


@dataclass
class Reader:
    """Opens states in another process, and knows what may be found there."""

    directory: Path
    process: subprocess.Popen[str]
    outcomes: Counter[str] = field(default_factory=Counter)

    def open(self, said: str, state: State) -> str:
        """`opened ENTRIES DIGEST`, `corrupt …`, or `died`."""
        store = self.directory / STORES[said]
        store.mkdir(exist_ok=True)
        (store / DATA_FILE).write_bytes(state.content)
        (store / NEWEST_FILE).write_bytes(state.newest)
        (store / "lock.mdb").unlink(missing_ok=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{said}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip() or f"died {self.process.wait()}"


@contextmanager
def reader(traced: Traced) -> Iterator[Reader]:
    """A copy of the realm in memory, and the process that opens it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        directory = Path(name) / "realm"
        shutil.copytree(traced.directory, directory)
        process = subprocess.Popen(
            [sys.executable, state_reader.__file__, str(directory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        try:
            yield Reader(directory, process)
        finally:
            process.kill()
            process.communicate()


def committed(traced: Traced, said: str, opened: Reader) -> tuple[int, set[tuple[int, str]]]:
    """Entries before the trace, and entries and digest of every state that a commit left: what was
    written before each acknowledgement, all of it.
    """
    path = traced.path(said)
    found: set[tuple[int, str]] = set()
    first: int | None = None
    # Whole commits alone: nothing pending, nothing at random.
    for at, event in enumerate([None, *traced.events]):
        if event is not None and not (isinstance(event, Said) and event.line.startswith(said)):
            continue
        *_, state = enumerate_states(
            path, traced.before[said], traced.events[:at], said, random.Random(0), 0
        )
        word, entries, digest = opened.open(said, replace(state, newest=b"")).split()
        assert word == "opened"
        found.add((int(entries), digest))
        first = int(entries) if first is None else first
        if said == "ledger":
            ledger = reopen(opened.directory)
            assert fsck(ledger).entries == int(entries)
            ledger.close()
    assert first is not None
    return first, found


def check(state: State, said: str, opened: Reader, first: int, whole: set[tuple[int, str]]) -> None:
    """Found if an acknowledged entry is missing, half of one is there, or it does not open."""
    answer = opened.open(said, state)
    word, *rest = answer.split()
    where = f"after {state.acknowledged} acknowledgements, {state.how}"
    if word != "opened":
        raise Found(f"does not open: {where}: {answer}")
    entries, digest = int(rest[0]), rest[1]
    if entries < first + state.acknowledged:
        raise Found(f"lost: {where}: {entries} of {first + state.acknowledged}")
    if (entries, digest) not in whole:
        raise Found(f"half there: {where}: {entries}")


def explore(traced: Traced, said: str, count: int, most: int | None = None) -> int:
    """Open states, all or so many of them; how many there were."""
    path = traced.path(said)
    chance = random.Random(1)
    with reader(traced) as opened:
        first, whole = committed(traced, said, opened)
        states = list(
            enumerate_states(path, traced.before[said], traced.events, said, chance, count)
        )
        if most is not None:
            states = chance.sample(states, min(most, len(states)))
        for state in states:
            check(state, said, opened, first, whole)
    return len(states)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    return trace_commits(tmp_path_factory.mktemp("traced") / "realm", 4)


@pytest.mark.parametrize("said", STORES)
def test_every_state_opens_with_all_that_was_acknowledged(traced: Traced, said: str) -> None:
    assert traced.acknowledged(said)
    assert explore(traced, said, 4, 150) > 50


@pytest.mark.soak
@pytest.mark.parametrize("said", STORES)
def test_every_state_of_many_commits(tmp_path: Path, said: str) -> None:
    commits = trace_commits(tmp_path / "realm", how_many(40))
    print(explore(commits, said, 100), "states of", said)


@pytest.mark.parametrize("said", STORES)
def test_a_head_torn_within_its_sector_is_the_one_before(traced: Traced, said: str) -> None:
    """More than disks promise, as far as it can be had: LMDB's 120 bytes have no checksum. What ends
    with them and does not begin with them is an older state under the newer transaction's number: the
    ledger's stamps tell, and it is not served; of the read log only somebody who remembers more can.
    """
    path = traced.path(said)
    disk, acknowledged, older, refused = Disk(bytearray(traced.before[said])), 0, 0, 0
    with reader(traced) as opened:
        first, whole = committed(traced, said, opened)
        for event in traced.events:
            acknowledged += isinstance(event, Said) and event.line.startswith(said)
            if isinstance(event, Write) and event.path == path and event.durable:
                for state in torn_within(disk, event):
                    word, entries, *digest = opened.open(said, state).split()
                    if word == "corrupt":
                        assert state.how.startswith("without its first")
                        refused += 1
                        continue
                    assert word == "opened"
                    assert int(entries) < first or (int(entries), *digest) in whole
                    if int(entries) < first + acknowledged:
                        assert state.how.startswith("without its first")
                        older += 1
            disk.follow(event, path)
    assert older == 0 if said == "ledger" else refused == 0
    print(older + refused, "older states of", said)


def test_names_are_on_the_disk_before_anything_is_acknowledged(tmp_path: Path) -> None:
    """A file that is synced and has no name in its directory is lost all the same."""
    traced = trace_commits(tmp_path / "realm", 1, earlier=0)
    for said in STORES:
        data = traced.path(said)
        (opened,) = [
            at
            for at, one in enumerate(traced.events)
            if isinstance(one, Created) and one.path == data
        ]
        acknowledged = traced.events.index(traced.acknowledged(said)[0])
        synced = [one.path for one in traced.events[opened:acknowledged] if isinstance(one, Sync)]
        assert {data.parent, data.parent.parent} <= set(synced)


def test_a_store_that_was_being_made_opens_or_says_that_it_is_none(tmp_path: Path) -> None:
    """Before anything was acknowledged; from the first acknowledgement on it opens."""
    traced = trace_commits(tmp_path / "realm", 2, earlier=0)
    outcomes: Counter[str] = Counter()
    with reader(traced) as opened:
        states = enumerate_states(
            traced.path("reads"), b"", traced.events, "reads", random.Random(1), 10
        )
        for state in states:
            word, *rest = opened.open("reads", state).split()
            assert word == "opened" or (not state.acknowledged and rest[0] == "LedgerCorrupt")
            assert word == "corrupt" or int(rest[0]) >= state.acknowledged
            outcomes[word] += 1
    assert outcomes["opened"] > outcomes["corrupt"]


WRONG = [
    ("no_metasync", "ledger"),
    ("answer_before_commit", "ledger"),
    ("no_metasync", "reads"),
    ("acknowledge_before_commit", "reads"),
    ("no_sync", "ledger"),
    ("no_sync", "reads"),
]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [*WRONG[:2], *(pytest.param(*one, marks=pytest.mark.soak) for one in WRONG[2:])],
)
def test_what_is_wrong_is_found_among_the_states(tmp_path: Path, wrong: str, said: str) -> None:
    traced = trace_commits(tmp_path / "realm", 3, wrong, earlier=0)
    with pytest.raises(Found, match="^(lost|does not open|half there)"):
        explore(traced, said, 4)
