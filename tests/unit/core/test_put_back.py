"""An older copy of the ledger, or a part of one that went on otherwise: found at the start or by the read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from core.errors import LedgerCorrupt
from core.files import DATA_FILE, OWNER_FILE
from core.fsck import fsck
from core.ledger import layout
from core.ledger.currency import MARKS
from core.ledger.heads import NEWEST_FILE, NewestCommit, verify_heads
from core.ledger.ledger import Ledger
from core.ledger.tables import COMMANDS, HISTORY, INDEX
from core.procedures.entry_queries import list_entries
from jinku.v1.ledger_pb2 import ListEntriesRequest
from ledgers import command, reopen
from put_back import edit, overwrite, rows
from registrar import Registrar, container, freeze, institution, issue, portal, retire, vault

JOURNAL, STAMPS = layout.JOURNAL, layout.STAMPS
TAG = bytes([1]) * 12


class Site:
    """A small ledger that is closed."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.ledger_path = directory / "ledger"
        registrar = Registrar(directory)
        for request in (institution(), vault(), portal(), container(), issue(TAG)):
            registrar.accept(request)
        registrar.ledger.close()

    def go_on(self, *requests: Any, save: bool = False) -> list[bytes]:
        """The ids that the commands made."""
        registrar = Registrar.of(reopen(self.path))
        made = [registrar.run(request).committed.header.made_ids for request in requests]
        if save:
            registrar.ledger.save_marks()
        registrar.ledger.close()
        return [id_ for ids in made for id_ in ids]

    def keep(self, name: str) -> Path:
        return shutil.copytree(self.ledger_path, self.path / name)

    def take(self, kept: Path) -> None:
        shutil.rmtree(self.ledger_path)
        shutil.copytree(kept, self.ledger_path)

    def owner_byte(self) -> bytes:
        return (self.ledger_path / OWNER_FILE).read_bytes()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# ── an older copy ───────────────────────────────────────────────────────────────────────────────


def test_an_older_file_under_newer_marks_is_not_opened(site: Site) -> None:
    older = site.keep("older") / DATA_FILE
    site.go_on(freeze(TAG), save=True)
    newer = site.keep("newer")
    shutil.copy(older, site.ledger_path / DATA_FILE)
    (site.ledger_path / NEWEST_FILE).unlink()
    for as_found in (False, True):
        with pytest.raises(LedgerCorrupt, match="is older than `marks` beside it"):
            reopen(site.path, as_found=as_found)
    # What is suspect is no less old.
    (site.ledger_path / OWNER_FILE).write_bytes(b"\x01")
    with pytest.raises(LedgerCorrupt, match="is older than `marks` beside it"):
        reopen(site.path)
    site.take(newer)
    assert Registrar.of(reopen(site.path)).get(label="K-1").tags[0].state == 2


def test_an_older_file_is_not_opened_where_the_newest_commit_is_known(site: Site) -> None:
    older = site.keep("older") / DATA_FILE
    site.go_on(freeze(TAG))
    assert not (site.ledger_path / MARKS).exists()
    shutil.copy(older, site.ledger_path / DATA_FILE)
    for as_found in (False, True):
        with pytest.raises(
            LedgerCorrupt, match="the last one acknowledged was .* older copy was put"
        ):
            reopen(site.path, as_found=as_found)


def test_the_newest_commit_is_known_after_a_kill_and_only_if_whole(tmp_path: Path) -> None:
    assert NewestCommit.read(tmp_path) == 0
    newest = NewestCommit(tmp_path)
    assert NewestCommit.read(tmp_path) == 0
    for number in (1, 2, 2**64 - 1):
        newest.write(number)
        assert NewestCommit.read(tmp_path) == number
    newest.close()
    file = tmp_path / NEWEST_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    sound = file.read_bytes()
    for at in range(128):
        file.write_bytes(bytes(byte ^ (at // 8 == i) << at % 8 for i, byte in enumerate(sound)))
        assert NewestCommit.read(tmp_path) == 0
    for content in (b"", sound[:15], sound + b"\x00"):
        file.write_bytes(content)
        assert NewestCommit.read(tmp_path) == 0
    # Of no file nothing is said, nor of one that nothing was written to.
    verify_heads(tmp_path, "here")
    (tmp_path / DATA_FILE).touch()
    verify_heads(tmp_path, "here")


# ── what was found stays found ──────────────────────────────────────────────────────────────────


def test_a_finding_is_remembered_until_everything_was_proved(site: Site) -> None:
    ledger = reopen(site.path)
    ledger.suspect()
    ledger.close()
    for _ in range(2):
        ledger = reopen(site.path)
        assert ledger.doubt
        ledger.close()
        assert site.owner_byte() == b"\x01"
    ledger = reopen(site.path)
    fsck(ledger)
    ledger.believe()
    ledger.close()
    assert site.owner_byte() == b"\x00"
    assert reopen(site.path).doubt == ""


def test_without_the_owners_file_everything_is_verified(site: Site) -> None:
    (site.ledger_path / OWNER_FILE).unlink()
    ledger = reopen(site.path)
    assert "was not known" in ledger.doubt
    ledger.close()
    assert site.owner_byte() == b"\x01"


# ── stamps ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("which", [0, 2, -1], ids=["first", "middle", "newest"])
def test_a_damaged_stamp_is_verified_away(site: Site, which: int) -> None:
    """Stamps are made again from nothing: no ledger is lost for one."""
    stored = sorted(rows(site.ledger_path, STAMPS).items())
    key, value = stored[which]
    overwrite(site.ledger_path, value, value[:9] + bytes([value[9] ^ 1]) + value[10:])
    if which == -1:
        with pytest.raises(LedgerCorrupt, match="the stamp .* does not open"):
            reopen(site.path)
    ledger = reopen(site.path, as_found=True)
    assert key.hex() in ledger.doubt
    fsck(ledger)
    ledger.believe()
    ledger.close()
    site.go_on(freeze(TAG))
    ledger = reopen(site.path)
    assert ledger.doubt == ""
    fsck(ledger)
    ledger.close()


# ── values of a copy that went on otherwise ─────────────────────────────────────────────────────


@pytest.fixture
def forked(site: Site) -> tuple[Site, dict[int, dict[bytes, bytes]], dict[str, bytes]]:
    """The ledger after one history, the stored rows of another, and the ids of its boxes."""
    begun = site.keep("begun")
    site.go_on(container("X-2"), container("X-1"), freeze(TAG))
    other = {number: rows(site.ledger_path, number) for number in (JOURNAL, INDEX.number,
             COMMANDS.number, HISTORY.number)}  # fmt: skip
    site.take(begun)
    made = site.go_on(container("X-1"), container("X-2"), retire(TAG))
    return site, other, dict(zip(("X-1", "X-2"), made, strict=True))


def put_other(site: Site, other: dict[int, dict[bytes, bytes]], number: int, key: bytes) -> None:
    overwrite(site.ledger_path, rows(site.ledger_path, number)[key], other[number][key])


def test_an_entry_of_another_past_is_not_answered(forked: Any) -> None:
    site, other, ids = forked
    first = layout.index_key(6)
    put_other(site, other, JOURNAL, first)
    ledger = reopen(site.path)
    named = "entry 6: is not what was hashed"
    with pytest.raises(LedgerCorrupt, match=named):
        ledger.entry(6)
    with pytest.raises(LedgerCorrupt, match=named):
        list_entries(ListEntriesRequest(start_index=6), ledger)
    with pytest.raises(LedgerCorrupt, match=named):
        Registrar.of(ledger).get(container_id=ids["X-1"])
    assert ledger.entry(5)
    ledger.close()


def test_a_name_that_leads_to_another_box_is_not_answered(site: Site) -> None:
    made = dict(zip(("X-1", "X-2"), site.go_on(container("X-1"), container("X-2")), strict=True))
    ledger = reopen(site.path)
    with ledger.read() as state:
        keys = [state.blind("container-label", label.encode()) for label in made]
        sealed = ledger.sealer.seal(INDEX.number, keys[0], rows_of(ledger, made["X-2"]))
    ledger.close()
    # As a copy has it in which they were registered under each other's labels.
    overwrite(site.ledger_path, rows(site.ledger_path, INDEX.number)[keys[0]], sealed)
    registrar = Registrar.of(reopen(site.path))
    assert registrar.get(label="X-2").container_id == made["X-2"]
    for ask in (
        lambda: registrar.get(label="X-1"),
        lambda: registrar.run(issue(bytes(12), "X-1")),
    ):
        with pytest.raises(Exception, match="names what is called otherwise"):
            ask()
    registrar.ledger.close()


def rows_of(ledger: Ledger, id_: bytes) -> bytes:
    """The row of the index that names an id."""
    return INDEX.row(id=id_).SerializeToString(deterministic=True)


def test_a_history_of_another_box_is_not_answered(site: Site) -> None:
    made = site.go_on(container("X-1"), container("X-2"))
    stored = rows(site.ledger_path, HISTORY.number)
    (key,) = [key for key in stored if made[0] in key]
    (other,) = [key for key in stored if made[1] in key]
    moved = key[:20] + other[20:]
    ledger = reopen(site.path)
    value = ledger.sealer.seal(
        HISTORY.number, moved, ledger.sealer.open(HISTORY.number, key, stored[key])
    )
    ledger.close()
    edit(
        site.ledger_path, HISTORY.number,
        lambda txn, db: (txn.delete(key, db=db), txn.put(moved, value, db=db)),
    )  # fmt: skip
    registrar = Registrar.of(reopen(site.path, as_found=True))
    with pytest.raises(LedgerCorrupt, match="is in the history of what it does not name"):
        registrar.get(label="X-1")
    registrar.ledger.close()


def test_a_command_that_another_entry_remembers_is_not_answered(site: Site) -> None:
    """A row that says so opens at its place in a copy in which it is true."""
    first, second = command(container("X-1")), command(container("X-2"))
    registrar = Registrar.of(reopen(site.path))
    one, two = registrar.writer.commit([first, second])
    with registrar.ledger.read() as state:
        key = state.command_key(first.principal, first.command_id)
        row = state.get(COMMANDS, key)
        assert row is not None
        row.entry_index = two.entry_index
    sealed = registrar.ledger.sealer.seal(
        COMMANDS.number, key, row.SerializeToString(deterministic=True)
    )
    registrar.ledger.close()
    overwrite(site.ledger_path, rows(site.ledger_path, COMMANDS.number)[key], sealed)
    registrar = Registrar.of(reopen(site.path))
    with pytest.raises(LedgerCorrupt, match=f"is remembered by entry {two.entry_index}, another"):
        registrar.writer.commit([first])
    registrar.ledger.close()
    assert one.accepted
