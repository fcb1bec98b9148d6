"""Commits of a ledger and a read log, one after the other, to be traced.

    python traced_commits.py DIRECTORY COMMITS [WRONG]

Each acknowledgement is a write to standard output: `ledger INDEX SALT` or `reads SEQUENCE`, so that it
stands in the trace between the writes to the files. WRONG as `wrong_jinkud` has it.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path
from typing import Final

import numpy as np

from core.errors import LedgerStopped
from core.keys import RealmKeys
from core.portal.columns import Columns
from core.readlog.layout import Basis, Block, Counter, Position
from core.readlog.log import ReadLog
from core.sequencer import Sequencer
from ledgers import HANDLERS, command, reopen
from registrar import institution
from wrong_jinkud import WRONG

PORTAL: Final = bytes(range(16))
READS: Final = 40


def block_of(sequence: int) -> Block:
    """A batch with reads of its own."""
    ones = np.ones(READS, np.uint8)
    columns = Columns(
        scheme=3, challenge_id=b"", base_time_ns=sequence,
        identity=np.full((READS, 7), sequence % 251, np.uint8),
        evidence=np.full((READS, 12), sequence % 241, np.uint8),
        antenna=ones, channel=0 * ones, rssi_cdbm=np.full(READS, -4500, "<i2"),
        phase=np.empty(0, "<u2"), doppler_chz=np.empty(0, "<i2"),
        time_us=np.arange(READS, dtype="<u4"), tam2_profile=0, tam2_offset=0,
    )  # fmt: skip
    basis = Basis(journal_size=1, turn=sequence, quiet_before_ns=0, terms=bytes(32))
    return Block(columns, ones, sequence, 1, np.ones(256, np.uint8), 1, basis)


def tell(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def write_ledger(sequencer: Sequencer, round_: int, count: int) -> None:
    """One commit of so many commands, or a few."""
    waiting = [
        sequencer.submit(command(institution(f"{round_}-{at}"), epoch=round_ + 1, sequence=at + 1))
        for at in range(count)
    ]
    for future in waiting:
        committed = future.result()
        tell(f"ledger {committed.entry_index} {committed.header.salt.hex()}")


def write_reads(log: ReadLog, sequence: int) -> None:
    sealed = log.seal_block(PORTAL, 1, sequence, block_of(sequence))
    counters = [Counter(bytes([sequence % 7]) * 7, sequence)]
    done = threading.Event()
    failed: list[BaseException | None] = []

    def settled(error: BaseException | None) -> None:
        failed.append(error)
        done.set()

    log.submit(PORTAL, Position(1, sequence), sealed.chunks, counters, settled)
    done.wait()
    if failed[0] is not None:
        raise failed[0]
    tell(f"reads {sequence}")


def main(directory: Path, commits: int) -> None:
    chance = random.Random(commits)
    ledger = reopen(directory)
    sequencer = Sequencer(ledger, HANDLERS)
    sequencer.start()
    keys = RealmKeys.load(directory / "keys")
    log = ReadLog(directory / "readlog", keys.readlog_key, map_gib=1)
    log.start()
    position = log.position(PORTAL)
    first = position.last_sequence if position is not None else 0
    try:
        for at in range(1, commits + 1):
            write_ledger(sequencer, ledger.size, chance.choice([1, 1, 2, 8]))
            write_reads(log, first + at)
    except LedgerStopped:
        tell("stopped")
    # As a killed process leaves it.
    os._exit(0)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        WRONG[sys.argv[3]]()
    main(Path(sys.argv[1]), int(sys.argv[2]))
