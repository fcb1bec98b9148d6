"""Disks that fail: the service stops, acknowledges nothing more, and has all it acknowledged when it is back."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from pathlib import Path

import pytest

import wrong_jinkud
from lives import Realm, busy_realm
from power import disk_in, why_not
from process import JINKUD
from soak import how_many
from syscalls import injecting
from traffic import Found, Gone

pytestmark = pytest.mark.needs_debian("strace")

STOPPED, TOLD = 70, 2
STOP_SECONDS_MAX = 30
# Until a fault comes, or a disk is full: on a machine with much else to do, long.
LOAD_SECONDS_MAX = 300
# LMDB writes pages with the first two, syncs them with the third, and writes its head with the
# second, through a descriptor that syncs.
FAULTS = [
    ("fdatasync", "error=EIO"),
    ("pwrite64", "error=EIO"),
    ("writev", "error=EIO"),
    ("pwrite64", "error=ENOSPC"),
    ("writev", "error=ENOSPC"),
    # A part of it was written.
    ("pwrite64", "retval=64"),
    ("writev", "retval=4096"),
]
Fault = tuple[str, str]


def fail_once(
    realm: Realm,
    fault: Fault,
    occurrence: str,
    program: tuple[str, ...] = (str(JINKUD),),
    load_seconds: float = LOAD_SECONDS_MAX,
) -> int:
    """One life in which this happens, under load; its exit code. Found if it goes on, or ends as if
    something else had happened.
    """
    served = False
    with realm.service([*injecting(*fault, occurrence), *program]) as life:
        try:
            realm.wait_serving(life, or_end=True)
            served = True
            realm.load(load_seconds)
        except Gone:
            pass
        code = life.wait(STOP_SECONDS_MAX)
        if code is None:
            raise Found(f"goes on after {fault}, {occurrence}")
        if "Traceback" in life.said():
            raise Found(f"does not say what happened:\n{life.said()}")
        # What a start cannot read or write is told as that, unless a commit was on its way.
        if code != STOPPED and (served or code != TOLD):
            raise Found(f"ends with {code} after {fault}, {occurrence}:\n{life.said()}")
    return code


def come_back(
    realm: Realm, chance: random.Random, *, whole: bool, program: tuple[str, ...] = (str(JINKUD),)
) -> None:
    """The disk is well again, and nobody looked after it: the service verifies itself where it has to."""
    suspect = realm.is_suspect
    with realm.service(program) as life:
        realm.wait_serving(life)
        if suspect and "ledger verified" not in life.said():
            raise Found("does not verify itself first")
        realm.confirm(chance)
        realm.load(0.2)
    realm.verify(whole=whole)


@pytest.mark.parametrize("fault", [FAULTS[0]], ids=":".join)
def test_a_disk_that_fails(tmp_path: Path, fault: Fault) -> None:
    realm = busy_realm(tmp_path)
    assert fail_once(realm, fault, "12") == STOPPED
    answers, batches = realm.acknowledged
    assert answers + batches
    come_back(realm, random.Random(1), whole=False)


@pytest.mark.parametrize("wrong", ["", "trust_what_is_suspect"])
def test_who_does_not_verify_itself_first_is_found(tmp_path: Path, wrong: str) -> None:
    """As after exit 70."""
    realm = busy_realm(tmp_path)
    chance = random.Random(6)
    realm.mark_suspect()
    if wrong:
        program = (sys.executable, wrong_jinkud.__file__, wrong)
        with pytest.raises(Found, match="does not verify itself first"):
            come_back(realm, chance, whole=False, program=program)
    else:
        come_back(realm, chance, whole=False)
        assert not realm.is_suspect


@pytest.mark.soak
@pytest.mark.parametrize("occurrence", ["{}", "{}+"], ids=["once", "from then on"])
@pytest.mark.parametrize("fault", FAULTS, ids=":".join)
def test_disks_that_fail_at_any_time(tmp_path: Path, fault: Fault, occurrence: str) -> None:
    realm = busy_realm(tmp_path)
    chance = random.Random(f"{fault}{occurrence}")
    codes = []
    for _ in range(how_many(15, "JINKU_FAULTS")):
        at = chance.choice([chance.randrange(1, 12), chance.randrange(12, 200)])
        codes.append(fail_once(realm, fault, occurrence.format(at)))
        come_back(realm, chance, whole=len(codes) % 5 == 0)
    print(*fault, occurrence, codes, realm.account(), flush=True)


@pytest.mark.soak
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    reason = why_not(tmp_path)
    if reason:
        pytest.skip(f"no disk can be made here: {reason}")
    realm = busy_realm(tmp_path)
    chance = random.Random(5)
    with disk_in(tmp_path) as disk:
        realm.move(disk.path / "data")
        stopped: list[str] = []
        for _ in range(how_many(5)):
            ballast = disk.path / "ballast"
            room = os.statvfs(disk.path)
            size = room.f_bavail * room.f_frsize - chance.randrange(1 << 19, 1 << 21)
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
            with realm.service() as life:
                try:
                    realm.wait_serving(life, or_end=True)
                    realm.load(LOAD_SECONDS_MAX)
                except Gone:
                    pass
                assert life.wait(STOP_SECONDS_MAX) == STOPPED, life.said()
            # What is full stays full: a ledger that would be verified first has no room for that.
            if realm.is_suspect:
                with realm.service() as life:
                    with contextlib.suppress(Gone):
                        realm.wait_serving(life, or_end=True)
                    assert life.wait(STOP_SECONDS_MAX) == TOLD, life.said()
                    assert "free room" in life.said()
            stopped.append("ledger" if realm.is_suspect else "read log")
            ballast.unlink()
            come_back(realm, chance, whole=True)
        print(stopped, realm.account())


@pytest.mark.soak
def test_who_goes_on_is_found(tmp_path: Path) -> None:
    realm = busy_realm(tmp_path)
    wrong = (sys.executable, wrong_jinkud.__file__, "go_on_after_errors")
    with pytest.raises(Found, match="goes on"):
        fail_once(realm, FAULTS[0], "12", wrong, STOP_SECONDS_MAX)
