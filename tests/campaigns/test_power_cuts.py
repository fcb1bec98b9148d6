"""Power cut under load: the file system forgets all that was not synced, nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wrong_jinkud
from lives import Realm, after, busy_realm
from power import Disk, disk_in, why_not
from soak import how_many
from traffic import Found, Gone

pytestmark = pytest.mark.soak

WHOLE_EVERY = 25


@pytest.fixture(scope="module")
def able(tmp_path_factory: pytest.TempPathFactory) -> None:
    reason = why_not(tmp_path_factory.mktemp("power"))
    if reason:
        pytest.skip(f"no power can be cut here: {reason}")


@pytest.fixture(params=["loop", "loop,data=writeback"])
def disk(able: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    with disk_in(tmp_path, request.param) as made:
        yield made


def cut_once(
    realm: Realm, disk: Disk, chance: random.Random, launcher: tuple[str, ...] = ()
) -> None:
    """Start, confirm, take load until the power is cut; then it is back."""
    with realm.service(*([launcher] if launcher else [])) as life:
        try:
            realm.wait_serving(life)
            realm.confirm(chance)
            after(chance.uniform(0.02, 0.8), disk.cut)
            realm.load(60)
        except Gone:
            pass
    disk.restart()


def cut_often(realm: Realm, disk: Disk, cuts: int, seed: int) -> None:
    chance = random.Random(seed)
    for count in range(1, cuts + 1):
        cut_once(realm, disk, chance)
        whole = count % WHOLE_EVERY == 0 or count == cuts
        realm.verify(whole=whole)
        if whole:
            print(disk.options, realm.account(), flush=True)


def test_power_cut_under_load(disk: Disk, tmp_path: Path) -> None:
    realm = busy_realm(tmp_path)
    realm.move(disk.path / "data")
    os.sync()
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    cut_often(realm, disk, how_many(300, "JINKU_CUTS"), seed)


@pytest.mark.parametrize("disk", ["loop"], indirect=True)
@pytest.mark.parametrize(
    "wrong", ["no_metasync", "no_sync", "answer_before_commit", "acknowledge_before_commit"]
)
def test_what_is_wrong_is_found_by_cutting(disk: Disk, tmp_path: Path, wrong: str) -> None:
    realm = busy_realm(tmp_path)
    realm.move(disk.path / "data")
    os.sync()
    chance = random.Random(2)
    with pytest.raises(Found, match="^(lost|answered otherwise|does not open|read log)"):
        for _ in range(20):
            cut_once(realm, disk, chance, (sys.executable, wrong_jinkud.__file__, wrong))
            realm.verify(whole=False)
