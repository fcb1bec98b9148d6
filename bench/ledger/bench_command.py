"""Claim ledger.command_p99_over_bound: one command at a time, against what the disk asks for.

After each command one block of the same disk is synced, so that both see the same disk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.ledger.realm import HANDLERS, check, opened
from bench.results import Row, make_row
from core.sequencer import Sequencer

CLAIM = "ledger.command_p99_over_bound"
COMMANDS, COMMANDS_QUICK = 6_000, 150
BLOCK = 1 << 14
BLOCKS = 256


def measure(*, quick: bool = False) -> list[Row]:
    with opened() as realm, opened_blocks(realm.directory / "blocks") as blocks:
        day = realm.day(COMMANDS_QUICK if quick else COMMANDS)
        sequencer = Sequencer(realm.ledger, HANDLERS)
        sequencer.start()
        commands: list[float] = []
        syncs: list[float] = []
        for number, command in enumerate(day):
            began = time.perf_counter()
            check(sequencer.submit(command).result())
            commands.append(time.perf_counter() - began)
            syncs.append(sync(blocks, number))
        sequencer.stop()
    command_ms, sync_ms = (percentile(times, 0.99) * 1e3 for times in (commands, syncs))
    bound_ms = 4 * sync_ms + 1
    note = (
        f"command p50 {percentile(commands, 0.5) * 1e3:.2f} ms, p99 {command_ms:.2f} ms; "
        f"fdatasync p50 {percentile(syncs, 0.5) * 1e3:.2f} ms, p99 {sync_ms:.2f} ms; "
        f"bound {bound_ms:.2f} ms"
    )
    return [make_row(CLAIM, command_ms / bound_ms, "ratio", note=note)]


@contextmanager
def opened_blocks(path: Path) -> Iterator[int]:
    """A file whose blocks are all there: what is synced is data, and no change of the file's size."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, os.urandom(BLOCK * BLOCKS), 0)
        os.fsync(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def sync(descriptor: int, number: int) -> float:
    """Seconds that fdatasync of one block takes."""
    os.pwrite(descriptor, number.to_bytes(8, "big") * (BLOCK // 8), number % BLOCKS * BLOCK)
    began = time.perf_counter()
    os.fdatasync(descriptor)
    return time.perf_counter() - began


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]
