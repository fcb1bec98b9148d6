"""What a file can look like after a power cut: every state that the order of its syncs allows.

Between two syncs writes reach the disk in any order, in part, or not at all; a write through a
descriptor opened with O_DSYNC is there when it returns, and says nothing about those before it.
A sector of 512 bytes is written whole or not at all.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from core.ledger.heads import NEWEST_FILE
from syscalls import Event, Said, Sync, Write

SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class State:
    """One possible content of the file, and how many acknowledgements had been given before it."""

    content: bytes
    acknowledged: int
    # What is done to the writes that were under way: for who reads a finding.
    how: str
    # The file `newest` beside it, as it was written last: nothing syncs it, and it may be there at once.
    newest: bytes = b""


@dataclass
class Disk:
    """One file, while its trace is followed."""

    durable: bytearray
    pending: list[Write] = field(default_factory=list)
    newest: bytes = b""

    def states(self, acknowledged: int, chance: random.Random, count: int) -> Iterator[State]:
        """All prefixes of what is pending, all but one, one alone, and `count` at random."""
        writes = self.pending
        for end in range(len(writes) + 1):
            yield self._state(writes[:end], acknowledged, f"the first {end} of {len(writes)}")
        for at in range(len(writes)):
            others = writes[:at] + writes[at + 1 :]
            yield self._state(others, acknowledged, f"all but {at} of {len(writes)}")
            yield self._state(writes[at : at + 1], acknowledged, f"only {at} of {len(writes)}")
        for _ in range(count if writes else 0):
            some = [one for one in writes if chance.random() < 0.5]
            chance.shuffle(some)
            yield self._state(some, acknowledged, f"{len(some)} of {len(writes)}")
            torn = [piece for one in writes for piece in sectors(one) if chance.random() < 0.5]
            chance.shuffle(torn)
            yield self._state(torn, acknowledged, f"{len(torn)} sectors of {len(writes)}")

    def _state(self, writes: Iterable[Write], acknowledged: int, how: str) -> State:
        content = bytearray(self.durable)
        for one in writes:
            put(content, one)
        return State(bytes(content), acknowledged, how, self.newest)

    def follow(self, event: Event, path: Path) -> None:
        """What the event does to the file, and to the one beside it."""
        if isinstance(event, Write) and event.path == path.with_name(NEWEST_FILE):
            self.newest = event.content
        if isinstance(event, Write) and event.path == path:
            if event.durable:
                put(self.durable, event)
            else:
                self.pending.append(event)
        elif isinstance(event, Sync) and event.path == path:
            for one in self.pending:
                put(self.durable, one)
            self.pending.clear()


def enumerate_states(
    path: Path, before: bytes, events: Sequence[Event], said: str, chance: random.Random, count: int
) -> Iterator[State]:
    """The states of the file `path`, whose content was `before`. Lines that begin with `said` are its
    acknowledgements. States that come again with as few acknowledgements are left out.
    """
    disk = Disk(bytearray(before))
    acknowledged = 0
    seen: dict[int, int] = {}
    for event in events:
        states: Iterable[State] = ()
        if isinstance(event, Said) and event.line.startswith(said):
            acknowledged += 1
            # Nothing changed on the disk, but more is promised of it.
            states = disk.states(acknowledged, chance, count)
        elif isinstance(event, Write) and event.path == path and event.durable:
            states = [*disk.states(acknowledged, chance, count), *torn_apart(disk, event)]
        elif isinstance(event, Sync) and event.path == path:
            states = list(disk.states(acknowledged, chance, count))
        disk.follow(event, path)
        for state in states:
            key = hash(state.content)
            if seen.get(key, -1) < state.acknowledged:
                seen[key] = state.acknowledged
                yield state
    yield State(bytes(disk.durable), acknowledged, "at the end", disk.newest)


def torn_apart(disk: Disk, write: Write) -> Iterator[State]:
    """A durable write that was cut between two of its sectors; most have one alone."""
    pieces = sectors(write)
    for end in range(1, len(pieces)):
        yield disk._state(pieces[:end], 0, f"{end} sectors of a durable write")


def torn_within(disk: Disk, write: Write, step: int = 8) -> Iterator[State]:
    """Against what a disk promises: a write cut within its sector, its beginning or its end there."""
    for cut in range(step, len(write.content), step):
        begun = Write(write.path, write.offset, write.content[:cut], True)
        yield disk._state([begun], 0, f"first {cut} bytes")
        ended = Write(write.path, write.offset + cut, write.content[cut:], True)
        yield disk._state([ended], 0, f"without its first {cut} bytes")


def sectors(write: Write) -> list[Write]:
    """The write in pieces that are each whole or not there."""
    pieces = []
    start = write.offset
    end = start + len(write.content)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        piece = write.content[start - write.offset : stop - write.offset]
        pieces.append(Write(write.path, start, piece, write.durable))
        start = stop
    return pieces


def put(content: bytearray, write: Write) -> None:
    """Do the write; what lies between the end and it is zeros."""
    if len(content) < write.offset:
        content.extend(bytes(write.offset - len(content)))
    content[write.offset : write.offset + len(write.content)] = write.content
