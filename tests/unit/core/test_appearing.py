"""What gets its name when it is whole: backups, restored data."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.backup.copying import appearing
from core.errors import SettingsError


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of somebody's that has nothing to do with it."""
    directory = tmp_path / "victim"
    (directory / "inner").mkdir(parents=True)
    (directory / "inner" / "file").write_text("precious")
    return directory


def test_a_link_is_not_followed(tmp_path: Path, victim: Path) -> None:
    output, link = tmp_path / "backup", tmp_path / "backup.partial"
    for target in (victim, victim / "inner" / "file", tmp_path / "nothing"):
        link.symlink_to(target)
        with (
            pytest.raises(SettingsError, match=r"backup\.partial: is a link"),
            appearing(output),
        ):
            pass
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
