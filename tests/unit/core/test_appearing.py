"""What gets its name when it is whole: backups, restored data, the file of sealed keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.backup.copying import appearing
from core.backup.keyfile import open_keys, seal_keys
from core.errors import SettingsError
from core.keys import RealmKeys
from full_disk import nearly_full

PASSPHRASES = ("correct horse battery staple", "the second person's own words")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of somebody's that has nothing to do with it."""
    directory = tmp_path / "victim"
    (directory / "inner").mkdir(parents=True)
    (directory / "inner" / "file").write_text("precious")
    return directory


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    RealmKeys.create(directory)
    return directory


def test_a_link_is_not_followed(tmp_path: Path, victim: Path, keys: Path) -> None:
    output, link = tmp_path / "backup", tmp_path / "backup.partial"
    for target in (victim, victim / "inner" / "file", tmp_path / "nothing"):
        link.symlink_to(target)
        with (
            pytest.raises(SettingsError, match=r"backup\.partial: is a link"),
            appearing(output),
        ):
            pass
        with pytest.raises(SettingsError, match=r"backup\.partial: is a link"):
            seal_keys(keys, output, PASSPHRASES)
        assert link.is_symlink()
        link.unlink()
    assert (victim / "inner" / "file").read_text() == "precious"
    assert not output.exists()
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_the_place_of_the_result_is_refused(tmp_path: Path, there: bool) -> None:
    empty = tmp_path / "empty"
    if there:
        empty.mkdir()
    (tmp_path / "backup").symlink_to(empty)
    with (
        pytest.raises(SettingsError, match="is there already"),
        appearing(tmp_path / "backup"),
    ):
        pytest.fail("it was begun")


def test_what_a_killed_attempt_left_goes(tmp_path: Path, victim: Path) -> None:
    left = tmp_path / "backup.partial"
    (left / "ledger").mkdir(parents=True)
    (left / "ledger" / "data.mdb").write_text("half")
    (left / "link").symlink_to(victim)
    with appearing(tmp_path / "backup") as partial:
        assert list(partial.iterdir()) == []
        (partial / "file").write_text("whole")
    assert [path.name for path in (tmp_path / "backup").rglob("*")] == ["file"]
    assert not left.exists()
    assert (victim / "inner" / "file").exists()


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    with appearing(tmp_path / "backup") as partial:
        (partial / "file").write_text("of the first")
        with (
            pytest.raises(SettingsError, match="another process is writing it"),
            appearing(tmp_path / "backup"),
        ):
            pytest.fail("it was begun")
    assert (tmp_path / "backup" / "file").read_text() == "of the first"


def test_without_room_there_is_no_file_of_keys(tmp_path: Path, keys: Path) -> None:
    """And so the next attempt is not refused."""
    output = tmp_path / "sealed"
    for room in (0, 100):
        with nearly_full(room), pytest.raises(OSError, match=r"sealed\.partial"):
            seal_keys(keys, output, PASSPHRASES)
        assert not list(tmp_path.glob("sealed*"))
    seal_keys(keys, output, PASSPHRASES)
    assert [path.name for path in tmp_path.glob("sealed*")] == ["sealed"]
    status = output.stat()
    assert (status.st_mode & 0o777, status.st_nlink) == (0o600, 1)
    open_keys(output, tmp_path / "opened", PASSPHRASES)
    assert RealmKeys.load(tmp_path / "opened") == RealmKeys.load(keys)


def no_link(source: Path, target: Path) -> None:
    """As on a memory stick, whose file system has no second names."""
    raise PermissionError(1, os.strerror(1), str(source), None, str(target))


@pytest.mark.parametrize("links", [True, False])
def test_a_file_of_keys_overwrites_nothing(
    tmp_path: Path, keys: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr("os.link", no_link)
    output = tmp_path / "sealed"
    output.symlink_to(tmp_path / "nothing")
    with pytest.raises(SettingsError, match="never overwritten"):
        seal_keys(keys, output, PASSPHRASES)
    output.unlink()
    seal_keys(keys, output, PASSPHRASES)
    before = output.read_bytes()
    with pytest.raises(SettingsError, match="never overwritten"):
        seal_keys(keys, output, PASSPHRASES)
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.glob("sealed*")] == ["sealed"]


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_what_has_no_name_of_its_own_is_refused(
    tmp_path: Path, keys: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(SettingsError), appearing(Path(name)):
        pass
    with pytest.raises(SettingsError, match="has no name of its own"):
        seal_keys(keys, Path(name), PASSPHRASES)


def test_where_a_file_system_is_mounted_nothing_is_begun() -> None:
    """It could not be replaced by what was made beside it."""
    with (
        pytest.raises(SettingsError, match="a file system is mounted there"),
        appearing(Path("/proc")),
    ):
        pass
