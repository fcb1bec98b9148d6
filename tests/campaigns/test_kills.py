"""kill -9 at any instant under load: what was acknowledged is there, what was not is whole or absent."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

import wrong_jinkud
from lives import Realm, busy_realm
from soak import how_many
from traffic import Found, Gone

# Of the lives, so many are killed before they serve.
EARLY = 0.15
WHOLE_EVERY = 25


def live(realm: Realm, chance: random.Random, launcher: tuple[str, ...] = ()) -> None:
    """Start, confirm what earlier lives answered, take load, be killed."""
    with realm.service(*([launcher] if launcher else [])) as life:
        early = chance.random() < EARLY
        try:
            if early:
                life.kill_after(chance.uniform(0.0, 2.0))
            realm.wait_serving(life)
            realm.confirm(chance)
            if not early:
                life.kill_after(chance.uniform(0.02, 0.8))
            realm.load(60)
        except Gone:
            return


def campaign(realm: Realm, cycles: int, seed: int, every: int = WHOLE_EVERY) -> None:
    chance = random.Random(seed)
    for cycle in range(1, cycles + 1):
        live(realm, chance)
        if cycle % every == 0 or cycle == cycles:
            realm.verify()
            print(realm.account(), flush=True)
    with realm.service() as life:
        realm.wait_serving(life)
        realm.confirm(chance)
    realm.verify()


def test_killed_under_load(tmp_path: Path) -> None:
    realm = busy_realm(tmp_path)
    campaign(realm, 3, seed=1)
    answers, batches = realm.acknowledged
    assert answers
    assert batches


@pytest.mark.soak
def test_killed_under_load_thousands_of_times(tmp_path: Path) -> None:
    realm = busy_realm(tmp_path)
    cycles = how_many(2000, "JINKU_KILLS")
    campaign(realm, cycles, seed=2)


def found_by_killing(realm: Realm, wrong: str, lives: int) -> str:
    """What is found of a service that is wrong in this, within so many lives."""
    chance = random.Random(3)
    for _ in range(lives):
        try:
            live(realm, chance, (sys.executable, wrong_jinkud.__file__, wrong))
            realm.verify(whole=False)
        except Found as found:
            return str(found).partition(":")[0]
    return ""


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ("answer_before_commit", {"lost"}),
        ("acknowledge_before_commit", {"lost"}),
        ("skip_idempotency", {"decided otherwise", "twice or lost", "answered otherwise"}),
        ("forget_counters", {"counters"}),
    ],
)
def test_what_is_wrong_is_found_by_killing(tmp_path: Path, wrong: str, found: set[str]) -> None:
    assert found_by_killing(busy_realm(tmp_path), wrong, lives=20) in found
