"""An erasure is complete when backups cannot be read either, and nobody else loses anything."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import KeyFileError, LedgerCorrupt, WrappingKeyMissing
from core.ledger.tables import SUBJECT_KEYS
from core.personal import eraser as eraser_module
from core.personal.verify import verify_personal
from core.store.v1.personal_pb2 import WrappingRow, WrapSet
from full_disk import nearly_full
from jinku.type.v1.personal_pb2 import SubjectState
from jinku.v1.contact_pb2 import EndContactRequest
from persons import NAME, Files, Persons, found, opened, register

KEPT = SubjectState.SUBJECT_STATE_KEPT
COMPLETE = SubjectState.SUBJECT_STATE_ERASURE_COMPLETE


@pytest.fixture
def realm(tmp_path: Path) -> Path:
    found(tmp_path)
    return tmp_path


@pytest.fixture
def persons(realm: Path) -> Iterator[Persons]:
    with opened(realm) as made:
        yield made


def names(realm: Path) -> list[str]:
    return sorted(path.name for path in (realm / "keys" / "wrapping").iterdir())


def copy(realm: Path, what: str, name: str) -> Path:
    return Path(shutil.copytree(realm / what, realm / name))


def put_back(realm: Path, what: str, name: str) -> None:
    shutil.rmtree(realm / what)
    shutil.copytree(realm / name, realm / what)


def erase(persons: Persons, subject_id: bytes) -> None:
    persons.accept(EndContactRequest(contact_id=subject_id))
    persons.erase(subject_id)


# ── replacing the wrapping key ──────────────────────────────────────────────────────────────────


def test_first_key_is_made_and_taken_with_the_first_person(persons: Persons, realm: Path) -> None:
    assert names(realm) == ["1.key"]
    assert stat.S_IMODE((realm / "keys/wrapping/1.key").stat().st_mode) == 0o600
    assert persons.taken() == WrappingRow()
    persons.contact()
    assert (persons.taken().generation, persons.taken().destroyed_generation) == (1, 0)
    assert not persons.eraser.complete()


def test_others_are_rewrapped_and_the_old_key_is_gone(persons: Persons, realm: Path) -> None:
    gone, kept = persons.contact("1"), persons.contact("2")
    erase(persons, gone)
    old = realm / "keys/wrapping/1.key"
    held = os.open(old, os.O_RDONLY)
    try:
        assert persons.eraser.complete()
        # Whoever holds the file open finds it overwritten.
        assert os.pread(held, 64, 0) == bytes(32)
    finally:
        os.close(held)
    assert names(realm) == ["2.key", "2.wraps"]
    assert persons.get(contact_id=gone).state == COMPLETE
    assert persons.texts(kept)[0] == NAME
    assert not persons.eraser.complete()
    assert persons.verify().pending == 0
    # The next one, and somebody new.
    new = persons.contact("3")
    erase(persons, kept)
    assert persons.get(contact_id=kept).state == SubjectState.SUBJECT_STATE_ERASED
    assert persons.eraser.complete()
    assert names(realm) == ["3.key", "3.wraps"]
    assert persons.texts(new)[0] == NAME
    assert persons.verify().erased == 2


def test_many_are_rewrapped_some_at_a_time(
    persons: Persons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eraser_module, "_REWRAPPED_MAX", 3)
    everybody = [persons.contact(str(number), name=f"P{number}") for number in range(8)]
    erase(persons, everybody[4])
    assert persons.eraser.complete()
    for number, one in enumerate(everybody):
        if number != 4:
            assert persons.texts(one)[0] == f"P{number}"
    counts = [
        event.subject_keys_rewrapped.count
        for event in all_events(persons)
        if event.HasField("subject_keys_rewrapped")
    ]
    assert counts == [3, 3, 1]


def all_events(persons: Persons) -> list[Any]:
    from jinku.event.v1.event_pb2 import Events

    return [
        event
        for _, entry in persons.ledger.entries()
        for event in Events.FromString(entry.events).events
    ]


def test_a_step_that_fails_is_told_and_tried_again(
    persons: Persons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the thread that does it in the service."""
    monkeypatch.setattr(eraser_module, "_RETRY_SECONDS", 0.05)
    gone, kept = persons.contact("1"), persons.contact("2")
    incidents: list[BaseException] = []
    replaced: list[int] = []
    destroy, states = persons.keys.destroy_through, []

    def fail_twice(generation: int) -> None:
        states.append(persons.get(contact_id=gone).state)
        if len(states) < 3:
            raise OSError(30, "read-only file system")
        destroy(generation)

    monkeypatch.setattr(persons.keys, "destroy_through", fail_twice)
    eraser = persons.threaded(incidents.append, replaced.append)
    eraser.start()
    try:
        erase(persons, gone)
        eraser.wake()
        deadline = time.monotonic() + 20
        while persons.get(contact_id=gone).state != COMPLETE:
            assert time.monotonic() < deadline, incidents
            time.sleep(0.01)
    finally:
        eraser.stop()
    assert [type(one) for one in incidents] == [OSError, OSError]
    # Not called complete before the key is gone.
    assert states == [SubjectState.SUBJECT_STATE_ERASED] * 3
    assert replaced == [2]
    assert persons.texts(kept)[0] == NAME


def test_nothing_is_destroyed_on_the_word_of_half_a_wrap_set(
    persons: Persons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is nearly full: what earlier backups will need is there first, whole."""
    gone, kept = persons.contact("1"), persons.contact("2")
    erase(persons, gone)
    write, destroy = persons.keys.write_set, persons.keys.destroy_through

    def write_full(wraps: WrapSet) -> None:
        with nearly_full(64):
            write(wraps)

    def destroy_damaged(generation: int) -> None:
        path = next((persons.ledger.path.parent / "keys" / "wrapping").glob("*.wraps"))
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        try:
            destroy(generation)
        finally:
            path.write_bytes(whole)

    monkeypatch.setattr(persons.keys, "write_set", write_full)
    with pytest.raises(OSError, match="wraps"):
        persons.eraser.complete()
    monkeypatch.setattr(persons.keys, "write_set", write)
    monkeypatch.setattr(persons.keys, "destroy_through", destroy_damaged)
    with pytest.raises(KeyFileError, match="wrap set"):
        persons.eraser.complete()
    assert persons.keys.generations() == [1, 2]
    monkeypatch.setattr(persons.keys, "destroy_through", destroy)
    assert persons.eraser.complete()
    assert persons.keys.generations() == [2]
    assert persons.texts(kept)[0] == NAME


# ── backups ─────────────────────────────────────────────────────────────────────────────────────


def test_older_backup_gives_back_everybody_but_the_erased(realm: Path) -> None:
    with opened(realm) as persons:
        gone, kept = persons.contact("1"), persons.contact("2")
    copy(realm, "ledger", "backup")
    with opened(realm) as persons:
        erase(persons, gone)
        persons.eraser.complete()
    put_back(realm, "ledger", "backup")
    # The restored journal knows of no erasure; its ledger has keys under a wrapping key that is gone.
    with opened(realm) as persons:
        assert persons.get(contact_id=gone).state == KEPT
        persons.read(gone)
        assert persons.refused == ["SUBJECT_KEY_MISSING"]
        # The wrap set stands in from the first moment, also for who verifies what was put back.
        assert persons.texts(kept)[0] == NAME
        report = persons.verify()
        assert (report.subjects, report.erased, report.pending) == (1, 1, 1)
        assert persons.eraser.complete()
        assert persons.texts(kept)[0] == NAME
        assert persons.get(contact_id=gone).state == COMPLETE
        persons.read(gone)
        assert persons.refused == ["SUBJECT_ERASED"]
        report = persons.verify()
        assert (report.subjects, report.erased, report.pending) == (1, 1, 0)
        # And it goes on from here.
        erase(persons, kept)
        assert persons.eraser.complete()
        assert names(realm) == ["3.key", "3.wraps"]


def test_backup_of_two_erasures_ago(realm: Path) -> None:
    with opened(realm) as persons:
        first, second, kept = (persons.contact(code) for code in ("1", "2", "3"))
    copy(realm, "ledger", "backup")
    for subject_id in (first, second):
        with opened(realm) as persons:
            erase(persons, subject_id)
            persons.eraser.complete()
    put_back(realm, "ledger", "backup")
    with opened(realm) as persons:
        persons.eraser.complete()
        assert persons.texts(kept)[0] == NAME
        for subject_id in (first, second):
            assert persons.get(contact_id=subject_id).state == COMPLETE
        assert persons.verify().erased == 2


def test_backup_put_back_takes_nobody_from_the_wrap_set(realm: Path) -> None:
    """The older of two is put back and completed; the newer one still has everybody."""
    with opened(realm) as persons:
        gone, kept = persons.contact("1"), persons.contact("2")
    copy(realm, "ledger", "older")
    with opened(realm) as persons:
        later = persons.contact("3")
    copy(realm, "ledger", "newer")
    with opened(realm) as persons:
        erase(persons, gone)
        persons.eraser.complete()
    for backup, left in (("older", [kept]), ("newer", [kept, later])):
        put_back(realm, "ledger", backup)
        with opened(realm) as persons:
            assert persons.eraser.complete()
            assert [persons.texts(one)[0] for one in left] == [NAME] * len(left)
            assert persons.get(contact_id=gone).state == COMPLETE


def test_ids_that_are_given_again_erase_nobody(realm: Path) -> None:
    """A ledger that was put back gives the ids of what it has lost once more."""
    with opened(realm) as persons:
        kept = persons.contact("1")
        persons.institution("2")
    copy(realm, "ledger", "backup")
    with opened(realm) as persons:
        gone = persons.accept(register("2")).contact_id
        erase(persons, gone)
        persons.eraser.complete()
    put_back(realm, "ledger", "backup")
    with opened(realm) as persons:
        again = persons.accept(register("2", "毛遂")).contact_id
        assert again == gone
        assert persons.verify().subjects == 2
        persons.eraser.complete()
        assert persons.texts(again)[0] == "毛遂"
        erase(persons, kept)
        persons.eraser.complete()
        assert persons.texts(again)[0] == "毛遂"
        report = persons.verify()
        assert (report.subjects, report.erased, report.pending) == (1, 1, 0)


def test_backup_alone_opens_nothing(realm: Path) -> None:
    """Everything but the wrapping key: rows open, persons do not."""
    with opened(realm) as persons:
        contact_id = persons.contact()
    shutil.rmtree(realm / "keys" / "wrapping")
    with pytest.raises(KeyFileError, match="lacks 1.key, which the ledger was given last"):
        Persons(realm)
    # Not even with a new wrapping key of the same number.
    found(realm / "other")
    with opened(realm / "other"):
        put_back(realm / "keys", "wrapping", "../other/keys/wrapping")
    with pytest.raises(KeyFileError, match="is another wrapping key than the ledger's"):
        Persons(realm)
    assert Files(realm).keys_of(SUBJECT_KEYS.number, contact_id)


def test_without_the_wrap_set_it_says_what_is_missing(realm: Path) -> None:
    with opened(realm) as persons:
        gone, kept = persons.contact("1"), persons.contact("2")
    copy(realm, "ledger", "backup")
    with opened(realm) as persons:
        erase(persons, gone)
        persons.eraser.complete()
    put_back(realm, "ledger", "backup")
    wraps = realm / "keys/wrapping/2.wraps"
    content = wraps.read_bytes()
    wraps.unlink()
    with opened(realm) as persons:
        for subject_id in (gone, kept):
            persons.read(subject_id)
            assert persons.refused == ["SUBJECT_KEY_MISSING"]
        with pytest.raises(KeyFileError, match=r"wrapping/1\.key, which is not there"):
            verify_personal(persons.ledger, persons.keys)
        with pytest.raises(WrappingKeyMissing, match="keys of 2 persons"):
            persons.eraser.complete()
        # Nothing was destroyed, and nobody is called erased.
        assert persons.get(contact_id=gone).state == KEPT
    wraps.write_bytes(content[:-1])
    with pytest.raises(KeyFileError, match="put that back"):
        Persons(realm)
    wraps.write_bytes(content)
    with opened(realm) as persons:
        persons.eraser.complete()
        assert persons.texts(kept)[0] == NAME


def test_older_directory_of_keys_is_refused(realm: Path) -> None:
    with opened(realm) as persons:
        gone, _ = persons.contact("1"), persons.contact("2")
    copy(realm, "keys", "old-keys")
    with opened(realm) as persons:
        erase(persons, gone)
        persons.eraser.complete()
    put_back(realm, "keys", "old-keys")
    with pytest.raises(KeyFileError, match="lacks 2.key"):
        Persons(realm)
    assert names(realm) == ["1.key"]


def test_destroyed_key_that_was_put_back_is_destroyed_again(realm: Path) -> None:
    with opened(realm) as persons:
        gone, kept = persons.contact("1"), persons.contact("2")
    copy(realm, "keys", "old-keys")
    with opened(realm) as persons:
        erase(persons, gone)
        persons.eraser.complete()
    shutil.copy(realm / "old-keys/wrapping/1.key", realm / "keys/wrapping/1.key")
    with opened(realm) as persons:
        assert names(realm) == ["2.key", "2.wraps"]
        assert persons.texts(kept)[0] == NAME
        shutil.copy(realm / "old-keys/wrapping/1.key", realm / "keys/wrapping/1.key")
        with pytest.raises(LedgerCorrupt, match="the journal calls it destroyed"):
            verify_personal(persons.ledger, persons.keys)


# ── the files of the keys ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mode", "size", "what"),
    [(0o640, 32, "others may read it"), (0o600, 31, "exactly 32"), (0o600, 33, "exactly 32")],
)
def test_key_file_that_is_wrong_is_named(realm: Path, mode: int, size: int, what: str) -> None:
    with opened(realm):
        path = realm / "keys/wrapping/1.key"
    path.write_bytes(b"k" * size)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"1\.key: .*{what}"):
        Persons(realm)


def test_half_made_key_is_removed(realm: Path) -> None:
    with opened(realm) as persons:
        contact_id = persons.contact()
    (realm / "keys/wrapping/2.key.new").write_bytes(b"half")
    with opened(realm) as persons:
        assert names(realm) == ["1.key"]
        assert persons.texts(contact_id)


def test_newest_key_is_never_destroyed(persons: Persons) -> None:
    persons.contact()
    for generation in (1, 2):
        with pytest.raises(ValueError, match="in use"):
            persons.keys.destroy_through(generation)
    assert persons.keys.is_loaded(1)
