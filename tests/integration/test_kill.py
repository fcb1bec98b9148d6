"""A writer killed at any instant: what it acknowledged is there, what it did not is whole or absent."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from core.fsck import fsck
from jinku.event.v1.entry_pb2 import EntryHeader
from ledgers import found, reopen
from soak import how_many

SUPPORT = Path(__file__).parents[1] / "support"

# Commits under load from several threads and tells each acknowledgement on a line of its own.
WRITER = """
import sys, threading
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from ledgers import HANDLERS, command, reopen
from core.sequencer import Sequencer
from jinku.type.v1.place_pb2 import InstitutionKind
from jinku.v1.registry_pb2 import RegisterInstitutionRequest

ledger = reopen(Path(sys.argv[1]))
epoch = ledger.size
sequencer = Sequencer(ledger, HANDLERS)
sequencer.start()
print("ready", flush=True)

def work(thread):
    for number in range(100_000):
        code = f"{epoch}-{thread}-{number}"
        request = RegisterInstitutionRequest(
            code=code, name=code, kind=InstitutionKind.INSTITUTION_KIND_HEAD_OFFICE)
        future = sequencer.submit(command(request, epoch=epoch, sequence=thread << 32 | number + 1))
        committed = future.result()
        sys.stdout.write(f"{committed.entry_index} {committed.header.salt.hex()}\\n")
        sys.stdout.flush()

for thread in range(8):
    threading.Thread(target=work, args=(thread,), daemon=True).start()
threading.Event().wait()
"""


def kill_once(directory: Path, after_lines: int) -> dict[int, str]:
    """Let the writer acknowledge so many commands, kill it, and give all that it acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory), str(SUPPORT)],
        stdout=subprocess.PIPE, text=True,
    ) as writer:  # fmt: skip
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        lines = [writer.stdout.readline() for _ in range(after_lines)]
        writer.kill()
        lines += writer.stdout.readlines()
    whole = [line.split() for line in lines if line.endswith("\n")]
    return {int(index): salt for index, salt in (w for w in whole if len(w) == 2)}


def check(directory: Path, acknowledged: dict[int, str]) -> None:
    ledger = reopen(directory)
    try:
        for index, salt in acknowledged.items():
            assert EntryHeader.FromString(ledger.entry(index).header).salt.hex() == salt
        assert fsck(ledger).entries == ledger.size
    finally:
        ledger.close()


def campaign(directory: Path, cycles: int, seed: int) -> None:
    found(directory)
    chance = random.Random(seed)
    acknowledged: dict[int, str] = {}
    for _ in range(cycles):
        acknowledged |= kill_once(directory, chance.randrange(1, 400))
        check(directory, acknowledged)
    assert acknowledged


def test_killed_while_writing(tmp_path: Path) -> None:
    campaign(tmp_path, 6, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_while_writing_many_times(tmp_path: Path) -> None:
    campaign(tmp_path, how_many(200), seed=2)
