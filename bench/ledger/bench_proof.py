"""Claim ledger.proof_p99_10m: an inclusion proof in a journal of ten million entries.

The entries are small and do nothing to the tables: a proof is read from the nodes alone.
"""

from __future__ import annotations

import random
import time

from bench.ledger.bench_command import percentile
from bench.ledger.realm import REALM, opened
from bench.results import Row, make_row
from core.ledger.ledger import Ledger
from core.ledger.port import Batch, Entry
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.notes import compute_root, hash_leaf

CLAIM = "ledger.proof_p99_10m"
LEAVES, LEAVES_QUICK = 10_000_000, 20_000
PROOFS, PROOFS_QUICK = 50_000, 500
CHECKED_EVERY = 100


def measure(*, quick: bool = False) -> list[Row]:
    with opened() as realm:
        ledger = realm.ledger
        grow(ledger, LEAVES_QUICK if quick else LEAVES)
        times = prove(ledger, PROOFS_QUICK if quick else PROOFS)
        p50, p99 = (percentile(times, share) * 1e3 for share in (0.5, 0.99))
        note = f"{ledger.size:,} leaves, any of them, newest tree; p50 {p50:.3f} ms, file in memory"
    return [make_row(CLAIM, p99, "ms", note=note)]


def grow(ledger: Ledger, size: int) -> None:
    """Append entries without deciding any."""

    def fill(batch: Batch) -> None:
        for index in range(
            batch.next_index, min(batch.next_index + ledger.limits.entries_max, size)
        ):
            header = EntryHeader(realm=REALM, index=index, decided_at_ns=index)
            batch.append(Entry(header.SerializeToString(), b""))

    while ledger.size < size:
        ledger.append_if(ledger.head, fill)


def prove(ledger: Ledger, proofs: int) -> list[float]:
    """Seconds of each; every so many are verified, outside of the time."""
    chance, size = random.Random(1), ledger.size
    root = ledger.root(size)
    times = []
    for number in range(proofs):
        index = chance.randrange(size)
        began = time.perf_counter()
        path = ledger.proof(index, size)
        times.append(time.perf_counter() - began)
        if number % CHECKED_EVERY == 0:
            leaf = hash_leaf(ledger.entry(index).leaf)
            if compute_root(leaf, index, size, path) != root:
                raise RuntimeError(f"the proof of entry {index} proves nothing")
    return times
