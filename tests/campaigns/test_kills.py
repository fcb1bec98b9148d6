"""kill -9 at any instant under load: what was acknowledged is there, what was not is whole or absent."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import pytest

import wrong_jinkud
from core.ledger.port import Head
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


def test_a_ledger_that_was_put_back_is_found(tmp_path: Path) -> None:
    """Older than one that was verified, or of as many entries and not the same."""
    realm = busy_realm(tmp_path)
    ledger, older = realm.settings.storage.directory / "ledger", tmp_path / "older"
    shutil.copytree(ledger, older)
    live(realm, random.Random(4))
    realm.verify(whole=False)
    verified = realm.kept
    realm.kept = Head(verified.size, bytes(32))
    with pytest.raises(Found, match="^lost: a ledger of "):
        realm.verify(whole=False)
    realm.kept = verified
    realm.verify(whole=False)
    shutil.rmtree(ledger)
    shutil.copytree(older, ledger)
    with pytest.raises(Found, match=f"^lost: a ledger of [0-9]+ .* the {verified.size} of before"):
        realm.verify(whole=False)


@pytest.mark.soak
def test_killed_under_load_thousands_of_times(tmp_path: Path) -> None:
    realm = busy_realm(tmp_path)
    cycles = how_many(2000, "JINKU_KILLS")
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    campaign(realm, cycles, seed)


def found_by_killing(realm: Realm, wrong: str, lives: int) -> str:
    """What is found of a service that is wrong in this, within so many lives."""
    chance = random.Random(3)
    for _ in range(lives):
        try:
            live(realm, chance, (sys.executable, wrong_jinkud.__file__, wrong))
            realm.verify(whole=False)
            if wrong.startswith("drop"):
                realm.judge_again()
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
        ("drop_passages", {"replay-reads"}),
        ("drop_alarms", {"replay-reads"}),
    ],
)
def test_what_is_wrong_is_found_by_killing(tmp_path: Path, wrong: str, found: set[str]) -> None:
    assert found_by_killing(busy_realm(tmp_path), wrong, lives=20) in found
