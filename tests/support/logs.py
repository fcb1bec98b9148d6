"""Logs that stand behind `LogPort`, and what a test needs to put into them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.keys import RealmKeys
from core.ledger.ledger import Ledger
from core.ledger.port import Batch, Entry, Head, LogPort
from jinku.event.v1.entry_pb2 import EntryHeader

REALM, TRUST_DOMAIN = 7, "test.example"

Open = Callable[[Path], "contextmanager[LogPort]"]


@contextmanager
def local(directory: Path) -> Iterator[Ledger]:
    """The ledger itself: opened, or begun."""
    keys = directory / "keys"
    loaded = RealmKeys.load(keys) if keys.exists() else RealmKeys.create(keys)
    ledger = Ledger(directory / "ledger", loaded, REALM, TRUST_DOMAIN, map_gib=1)
    try:
        yield ledger
    finally:
        ledger.close()


# By name, so that a child process finds its own. Whoever adds an engine adds it here.
IMPLEMENTATIONS = {"local": local}


def make_entry(index: int, events: bytes = b"", principal: str = "") -> Entry:
    """An entry for this place, unlike any other."""
    header = EntryHeader(
        realm=REALM, index=index, salt=os.urandom(16), decided_at_ns=index, principal=principal
    )
    return Entry(header.SerializeToString(deterministic=True), events)


def add(batch: Batch, count: int) -> list[Entry]:
    """Put so many entries into a batch."""
    made = []
    for _ in range(count):
        made.append(make_entry(batch.next_index))
        batch.append(made[-1])
    return made


def append(log: LogPort, count: int = 1, expected: Head | None = None) -> list[Entry]:
    """Append so many entries at the log's head, or at another."""
    return log.append_if(expected or log.head, lambda batch: add(batch, count))


def entries_of(log: LogPort, index: int = 0) -> list[Entry]:
    """What `read_from` gives, which must begin at `index` and have no gap."""
    found = list(log.read_from(index))
    assert [at for at, _ in found] == list(range(index, index + len(found)))
    return [entry for _, entry in found]


# Appends batches of growing size; says what it is about to append, and the head when it has.
_APPENDER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from logs import IMPLEMENTATIONS, append
with IMPLEMENTATIONS[sys.argv[1]](Path(sys.argv[2])) as log:
    for count in [1, 2, 5, 40] * 100_000:
        print("append", count, flush=True)
        append(log, count)
        print("durable", log.head.size, log.head.root_hash.hex(), flush=True)
"""


def killed_while_appending(name: str, directory: Path, lines: int) -> tuple[Head, int]:
    """Let another process append, kill it after so many lines of its report: the last head that it
    knew to be durable, and the size of the batch whose outcome it never learnt, 0 if there is none.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _APPENDER, name, str(directory), str(Path(__file__).parent)],
        stdout=subprocess.PIPE, text=True,
    ) as appender:  # fmt: skip
        assert appender.stdout is not None
        told = [appender.stdout.readline() for _ in range(lines)]
        appender.send_signal(signal.SIGKILL)
        told += appender.stdout.readlines()
    told = [line for line in told if line.endswith("\n")]
    durable = [line.split() for line in told if line.startswith("durable")]
    head = Head(int(durable[-1][1]), bytes.fromhex(durable[-1][2]))
    under_way = int(told[-1].split()[1]) if told[-1].startswith("append") else 0
    return head, under_way
