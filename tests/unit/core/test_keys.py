"""Key files: made once, readable by their owner alone, never shown."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest

from core.errors import KeyFileError
from core.keys import RealmKeys, create_tag_master, load_tag_masters, write_new_key
from full_disk import nearly_full


def test_created_once_and_loaded_the_same(tmp_path: Path) -> None:
    keys = RealmKeys.create(tmp_path / "keys")
    assert RealmKeys.load(tmp_path / "keys") == keys
    assert (tmp_path / "keys" / "realm.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyFileError, match="never overwritten"):
        RealmKeys.create(tmp_path / "keys")
    values = [getattr(keys, f.name) for f in fields(keys)]
    assert len(set(values)) == len(values)
    assert not any(value.hex()[:8] in repr(keys) or repr(value) in repr(keys) for value in values)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_file_of_the_wrong_size_is_named(tmp_path: Path, size: int) -> None:
    path = tmp_path / "realm.key"
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"realm\.key: must hold exactly 32 bytes"):
        RealmKeys.load(tmp_path)


def test_a_file_open_to_others_is_refused(tmp_path: Path) -> None:
    RealmKeys.create(tmp_path)
    (tmp_path / "realm.key").chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        RealmKeys.load(tmp_path)
    (tmp_path / "realm.key").chmod(0o600)
    os.rename(tmp_path / "realm.key", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tmp_path / "realm.key")
    with pytest.raises(KeyFileError):
        RealmKeys.load(tmp_path)


def test_tag_masters(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no such directory"):
        load_tag_masters(tmp_path)
    create_tag_master(tmp_path, 7, 1)
    create_tag_master(tmp_path, 7, 2)
    found = load_tag_masters(tmp_path)
    assert [(realm, version, len(key)) for realm, version, key in found] == [(7, 1, 16), (7, 2, 16)]
    assert found[0][2] != found[1][2]
    (tmp_path / "tag-masters" / "stray").write_bytes(b"")
    with pytest.raises(KeyFileError, match="stray"):
        load_tag_masters(tmp_path)


def test_a_key_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "some.key"
    path.parent.mkdir()
    with nearly_full(8192):
        with pytest.raises(OSError, match=r"some\.key"):
            write_new_key(path, bytes(10_000))
        assert not path.exists()
        write_new_key(path, bytes(8192))
    assert path.stat().st_size == 8192
