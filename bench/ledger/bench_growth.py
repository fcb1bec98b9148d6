"""Claim ledger.growth_10k_to_10m: the same work on a great ledger and on a small one, by turns.

Both realms have the same boxes. The great one has seen them come and go for years.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from bench.ledger.realm import Realm, opened
from bench.results import Row, make_row
from core.sequencer import Command

CLAIM = "ledger.growth_10k_to_10m"
SMALL = 10_000
GREAT, GREAT_QUICK = (1_000_000,), (12_000,)
GREAT_FULL = (1_000_000, 3_000_000, 10_000_000)
BOXES, BOXES_QUICK = 5_000, 500
BATCH = 64
TURNS, TURNS_QUICK = 30, 2
TURN = 10 * BATCH
TELL_EVERY = 30.0  # seconds


class Site:
    """A realm whose boxes come and go."""

    def __init__(self, realm: Realm, boxes: int) -> None:
        self.realm = realm
        self.tags = realm.register(boxes, 256)
        self._count = 0

    def passages(self, count: int) -> list[Command]:
        """Every box in turn: all come in, all leave, and again."""
        commands = []
        for _ in range(count):
            inwards = self._count // len(self.tags) % 2 == 0
            # Neighbours in a list are none in the tables.
            tag = self.tags[self._count * 1_009 % len(self.tags)]
            commands.append(self.realm.passage(tag, inwards))
            self._count += 1
        return commands

    def grow(self, size: int) -> None:
        """Passages, until the journal has so many entries; says how far it is."""
        told = time.monotonic()
        while self.realm.ledger.size < size:
            self.realm.commit(self.passages(min(512, size - self.realm.ledger.size)))
            if time.monotonic() > told + TELL_EVERY:
                told = time.monotonic()
                print(f"  … {self.realm.ledger.size:,} of {size:,} entries", flush=True)


def measure(*, quick: bool = False, full: bool = False) -> list[Row]:
    sizes = GREAT_QUICK if quick else GREAT_FULL if full else GREAT
    with ExitStack() as stack:
        small, great = (
            Site(stack.enter_context(opened()), BOXES_QUICK if quick else BOXES) for _ in range(2)
        )
        small.grow(SMALL if not quick else small.realm.ledger.size)
        turns = TURNS_QUICK if quick else TURNS
        passages, steps = 0.0, []
        for size in sizes:
            great.grow(size)
            passages = compare(small, great, turns)
            boxes = compare_boxes(small.realm, great.realm, turns)
            used = great.realm.ledger.usage().bytes_used
            step = f"{size:,} entries: {passages:.2f}, new boxes {boxes:.2f}, {used / size / 1e3:.1f} KB an entry"
            print(f"  {step}", flush=True)
            steps.append(step)
    note = (
        f"against {SMALL:,} entries and what the turns add to both, {BATCH} commands a commit, "
        f"median of {turns} turns, passages of {len(great.tags):,} boxes. {'; '.join(steps)}"
    )
    return [make_row(CLAIM, passages, "ratio", note=note)]


def compare(small: Site, great: Site, turns: int) -> float:
    """Throughput of passages on the great ledger over that on the small one."""
    pairs = [
        (run(small.realm, small.passages(TURN)), run(great.realm, great.passages(TURN)))
        for _ in range(turns)
    ]
    return ratio(pairs)


def compare_boxes(small: Realm, great: Realm, turns: int) -> float:
    """The same of new boxes: each has a place of its own, anywhere in the blinded index."""
    pairs = [
        (
            run(small, [small.box(small.new_label()) for _ in range(TURN)]),
            run(great, [great.box(great.new_label()) for _ in range(TURN)]),
        )
        for _ in range(turns)
    ]
    return ratio(pairs)


def run(realm: Realm, commands: Sequence[Command]) -> float:
    """Seconds for them."""
    began = time.perf_counter()
    for at in range(0, len(commands), BATCH):
        realm.commit(commands[at : at + BATCH])
    return time.perf_counter() - began


def ratio(pairs: list[tuple[float, float]]) -> float:
    return median(small for small, _ in pairs) / median(great for _, great in pairs)
