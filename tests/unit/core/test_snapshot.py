"""The tag index started from a snapshot is the one that the table makes, or the snapshot is not used."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import directory as directory_module
from core.directory import TagDirectory
from core.errors import LedgerCorrupt
from core.ledger.tables import TAGS
from core.sealed_parts import SnapshotUnusable
from core.snapshot import Keeper, SnapshotFile
from ledgers import REALM, reopen
from registrar import Registrar, container, freeze, institution, issue, retire, unfreeze, vault

KEY = bytes(range(32))
MASTERS = {REALM: bytes(range(16)), REALM + 1: bytes(16)}
WIDTHS = (12, 7, 8, 16)


def identity(number: int) -> bytes:
    return bytes([number + 1]) * WIDTHS[number % len(WIDTHS)]


class Site:
    """A ledger with tags, a directory that follows it, and the snapshot beside it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.registrar = Registrar(directory)
        for request in (institution(), vault()):
            self.registrar.accept(request)
        self.file = SnapshotFile(directory / "snapshot", KEY, REALM)
        self.directory = self.open()

    def open(
        self, file: SnapshotFile | None = None, *, realms: tuple[int, ...] = (REALM,)
    ) -> TagDirectory:
        masters = [(realm, 1, bytearray(MASTERS[realm])) for realm in realms]
        return TagDirectory(self.registrar.ledger, masters, file)

    def run(self, request: Any) -> None:
        answered = self.registrar.run(request)
        assert answered.reasons == []
        self.directory.on_committed([answered.committed])

    def add(self, *numbers: int) -> None:
        for number in numbers:
            self.run(container(f"B-{number}"))
            scheme = 5 if number % len(WIDTHS) == 1 else 2 + number % 2
            self.run(issue(identity(number), f"B-{number}", scheme=scheme))

    def save(self) -> None:
        self.directory._snapshot = self.file
        self.directory.save()

    def start(self) -> TagDirectory:
        """A directory from the snapshot, which has to be what the table says."""
        started = self.open(self.file)
        assert contents(started, self) == contents(self.open(), self)
        return started

    def copy_ledger(self, to: Path) -> None:
        shutil.copytree(self.path / "ledger", to)

    def put_back(self, ledger: Path) -> None:
        """The ledger as it was when it was copied."""
        self.registrar.ledger.close()
        shutil.rmtree(self.path / "ledger")
        shutil.copytree(ledger, self.path / "ledger")
        self.registrar = Registrar.of(reopen(self.path))
        self.directory = self.open()


def contents(directory: TagDirectory, site: Site) -> dict[bytes, tuple[object, ...] | None]:
    """Of every tag of the table what the index says, and its id by the index's number."""
    found: dict[bytes, tuple[object, ...] | None] = {}
    with site.registrar.ledger.read() as state:
        for _, row in state.scan(TAGS):
            tag = directory.index.get(row.identity)
            found[row.identity] = tag and (
                tag.scheme, tag.state, tag.key, directory.tag_id(tag.number),
            )  # fmt: skip
    return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.registrar.ledger.close()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots of many parts, tables read in many parts."""
    monkeypatch.setattr(directory_module, "SEGMENT_TAGS", 3)
    monkeypatch.setattr(directory_module, "_PART_ROWS", 2)


def test_a_start_from_the_snapshot(site: Site, small_parts: None) -> None:
    site.add(*range(10))
    site.run(freeze(identity(2)))
    site.run(retire(identity(3)))
    site.save()
    started = site.start()
    assert started.filled.why_rebuilt == ""
    assert started.filled.entries == 0
    assert len(started.index) == 10


def test_the_tables_are_read_in_parts_and_it_is_told_how_far(site: Site, small_parts: None) -> None:
    site.add(*range(5))
    told: list[tuple[int, int]] = []
    masters = [(REALM, 1, bytearray(MASTERS[REALM]))]
    TagDirectory(site.registrar.ledger, masters, None, lambda *done: told.append(done))
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_the_entries_after_it_count(site: Site, small_parts: None) -> None:
    site.add(*range(7))
    site.run(freeze(identity(1)))
    site.save()
    site.add(7, 8)
    site.run(freeze(identity(0)))
    site.run(unfreeze(identity(1)))
    site.run(issue(b"\xee" * 12, "B-4", replaces=True))
    started = site.start()
    assert started.filled.entries == 7
    states = [started.index.get(identity(number)) for number in (0, 1, 4)]
    assert [tag.state for tag in states if tag] == [2, 1, 3]
    assert contents(started, site) == contents(site.directory, site)


def test_counters_are_not_in_it(site: Site) -> None:
    """They are the read log's: a copy of one could only be older."""
    site.add(0)
    assert site.directory.index.set_counter(identity(0), 77)
    site.save()
    tag = site.start().index.get(identity(0))
    assert tag is not None
    assert tag.counter == 0


def why(site: Site, file: SnapshotFile | None = None) -> str:
    """Why a start does not use the snapshot; it is right all the same."""
    started = site.open(file or site.file)
    assert contents(started, site) == contents(site.open(), site)
    return started.filled.why_rebuilt


def test_without_one(site: Site) -> None:
    site.add(0)
    assert why(site) == "there is none"


@pytest.mark.parametrize("name", ["key", "realm"])
def test_of_another_realm_or_key(site: Site, name: str) -> None:
    site.add(0)
    site.save()
    key, realm = (bytes(32), REALM) if name == "key" else (KEY, REALM + 1)
    reason = why(site, SnapshotFile(site.path / "snapshot", key, realm))
    assert reason == "it does not open: it is damaged, or of another realm or key"


def test_every_change_of_its_bytes_is_found(site: Site, small_parts: None) -> None:
    site.add(*range(7))
    site.save()
    path = site.path / "snapshot"
    sound = path.read_bytes()
    assert why(site) == ""
    reasons = set()
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
        reasons.add(unusable(site))
    for size in range(len(sound)):
        path.write_bytes(sound[:size])
        reasons.add(unusable(site))
    for tail in (b"\0", b"\0\0\0\0", sound[-40:]):
        path.write_bytes(sound + tail)
        reasons.add(unusable(site))
    assert reasons == {
        "it is of an unknown layout",
        "it does not open: it is damaged, or of another realm or key",
        "it is not whole",
    }


def unusable(site: Site) -> str:
    with pytest.raises(SnapshotUnusable) as error:
        _, segments = site.file.read()
        list(segments)
    return str(error.value)


def values_of(path: Path) -> list[bytes]:
    """Magic and run, then each sealed value with its size before it."""
    content, at = path.read_bytes(), 24
    values = [content[:24]]
    while at < len(content):
        size = 4 + int.from_bytes(content[at : at + 4], "big")
        values.append(content[at : at + size])
        at += size
    return values


def test_parts_do_not_stand_in_for_each_other(site: Site, small_parts: None) -> None:
    site.add(*range(7))
    site.save()
    path = site.path / "snapshot"
    first = values_of(path)
    site.run(freeze(identity(0)))
    site.save()
    second = values_of(path)
    assert [len(value) for value in first] == [len(value) for value in second]
    for changed in (
        [second[0], second[1], first[2], *second[3:]],
        [second[0], second[1], second[3], second[2], *second[4:]],
        [second[0], second[1], second[2], second[2], *second[4:]],
        [second[0], first[1], *second[2:]],
        second[:-1],
        [*second, second[-1]],
        [*second, first[-1]],
    ):
        path.write_bytes(b"".join(changed))
        assert why(site)
    path.write_bytes(b"".join(second))
    assert why(site) == ""


def test_of_a_later_journal(site: Site, tmp_path: Path) -> None:
    site.add(0)
    site.copy_ledger(tmp_path / "earlier")
    site.run(freeze(identity(0)))
    site.save()
    size = site.registrar.ledger.size
    site.put_back(tmp_path / "earlier")
    with pytest.raises(
        LedgerCorrupt, match=f"has {size - 1} entries, .* is of {size}: an older copy"
    ):
        site.start()


def test_of_a_forked_journal(site: Site, tmp_path: Path) -> None:
    site.add(0, 1)
    site.copy_ledger(tmp_path / "earlier")
    site.run(freeze(identity(0)))
    site.save()
    site.put_back(tmp_path / "earlier")
    site.run(freeze(identity(1)))
    size = site.registrar.ledger.size
    with pytest.raises(LedgerCorrupt, match=f"they differ in entry {size - 1} or before"):
        site.start()


def test_what_changes_while_it_is_written(
    site: Site, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer goes on between the parts: what of it got in is applied again, and a journal
    without it is not started from."""
    site.add(*range(9))
    site.run(freeze(identity(8)))
    steps: list[Callable[[], None]] = [
        lambda: site.run(unfreeze(identity(8))),
        lambda: site.run(freeze(identity(0))),
        lambda: site.add(9),
    ]
    earlier: list[Path] = []
    copy = site.directory._copy

    def copy_slowly(first: int, count: int) -> Any:
        earlier.append(tmp_path / f"ledger-{first}")
        site.copy_ledger(earlier[-1])
        steps[first // 3]()
        return copy(first, count)

    with monkeypatch.context() as patched:
        patched.setattr(site.directory, "_copy", copy_slowly)
        site.save()
    started = site.start()
    assert started.filled.why_rebuilt == ""
    assert started.filled.entries == 4
    tag = started.index.get(identity(8))
    assert tag is not None
    assert tag.state == 1
    # Put back to the moment at which it was begun, the tag is frozen: the snapshot knows it active.
    for ledger in earlier:
        site.put_back(ledger)
        with pytest.raises(LedgerCorrupt, match="an older copy was put back"):
            site.start()


def test_tags_without_their_master(site: Site) -> None:
    site.add(0)
    site.save()
    # One master more, which takes the first one's number in the arena; or another one only.
    more = site.open(site.file, realms=(REALM + 1, REALM))
    assert more.filled.why_rebuilt == ""
    tag = more.index.get(identity(0))
    assert tag is not None
    assert tag.key == more.arena.find(REALM, 1) == 1
    other = site.open(site.file, realms=(REALM + 1,))
    reason = "other tag masters were loaded when it was made"
    assert other.filled.why_rebuilt == reason
    assert len(other.index) == 0
    # Made without the master, and started with it: the tag is found.
    other._snapshot = site.file
    other.save()
    assert site.open(site.file, realms=(REALM + 1,)).filled.why_rebuilt == ""
    with_it = site.open(site.file, realms=(REALM, REALM + 1))
    assert with_it.filled.why_rebuilt == reason
    assert with_it.index.get(identity(0)) is not None


def test_a_snapshot_that_lacks_a_tag_is_not_used(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add(0, 1)
    with monkeypatch.context() as patched:
        patched.setattr(directory_module, "_touched", lambda events: {})
        site.save()
        site.add(2)
        assert why(site) == "it and the entries after it do not make the tags of the table"


# -- when it is written ----------------------------------------------------------------------------


def test_when_it_is_worth_writing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "_BEHIND_MIN", 4)
    monkeypatch.setattr(directory_module, "_BEHIND_MAX", 8)
    site.add(*range(3))
    assert not site.directory.is_due(ending=False)
    site.add(3)
    assert site.directory.is_due(ending=False)
    site.save()
    assert not site.directory.is_due(ending=True)
    site.add(4, 5)
    assert site.directory.is_due(ending=True)
    assert not site.directory.is_due(ending=False)
    site.add(6, 7)
    assert site.directory.is_due(ending=False)
    # A start from it knows how far it is behind.
    assert site.start().is_due(ending=False)
    site.save()
    assert not site.start().is_due(ending=True)


def test_what_cannot_be_written_leaves_the_one_before(site: Site, tmp_path: Path) -> None:
    site.add(0)
    site.save()
    site.add(1)
    sound = (tmp_path / "snapshot").read_bytes()
    # A directory where the new file would be.
    (tmp_path / "snapshot.new").mkdir()
    with pytest.raises(OSError, match="snapshot.new"):
        site.save()
    assert (tmp_path / "snapshot").read_bytes() == sound
    (tmp_path / "snapshot.new").rmdir()
    # Left behind by a kill.
    (tmp_path / "snapshot.new").write_bytes(b"half")
    site.save()
    assert not (tmp_path / "snapshot.new").exists()
    assert site.start().filled.entries == 0


def test_a_disk_that_is_full_is_given_back_what_was_written(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    site.add(0)
    with monkeypatch.context() as patched:
        patched.setattr("core.sealed_parts.os.fdatasync", full)
        with pytest.raises(OSError, match="No space"):
            site.save()
    assert not (tmp_path / "snapshot.new").exists()
    assert site.directory.is_due(ending=True) is False
    assert why(site) == "there is none"


def test_the_keeper_writes_when_it_is_due_and_at_the_end() -> None:
    due, saved, errors = [True], threading.Event(), []
    asked: list[bool] = []

    def is_due(ending: bool) -> bool:
        asked.append(ending)
        return due[0]

    def save() -> None:
        if saved.is_set():
            raise OSError(28, "No space left on device")
        due[0] = False
        saved.set()

    times: list[float] = []
    keeper = Keeper(is_due, save, times.append, errors.append)
    keeper.start()
    assert saved.wait(10)
    due[0] = True
    keeper.stop()
    keeper.stop()
    assert asked[0] is False
    assert asked[-1] is True
    assert len(times) == 1
    assert [error.errno for error in errors] == [28]
