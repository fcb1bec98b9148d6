"""Command ids: what lets a command be repeated without being done twice."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from jinku.durable import locked, read_json, write_json
from jinku.type.v1.command_pb2 import ClientCommandId

BLOCK = 32


class CommandIds:
    """Draws (epoch, sequence) pairs, each once, across threads, processes and kills.

    The file keeps the epoch, drawn once, and the sequence below which everything is handed out.
    Sequences are reserved in blocks before they are used: a kill leaves a gap, never a repetition.
    A new epoch is drawn only where the file is lost.
    """

    def __init__(self, path: Path, block: int = BLOCK) -> None:
        self.path = path
        self.block = block
        self.epoch = 0
        self.next = self.end = 1
        self.lock = threading.Lock()

    def draw(self) -> ClientCommandId:
        """The next id; durable as used when this returns."""
        with self.lock:
            if self.next >= self.end:
                self.reserve()
            sequence = self.next
            self.next += 1
            return ClientCommandId(epoch=self.epoch, sequence=sequence)

    def reserve(self) -> None:
        with locked(self.path):
            stored = read_json(self.path)
            if stored is None or not {"epoch", "next"} <= stored.keys():
                stored = {"epoch": time.time_ns(), "next": 1}
            self.epoch, self.next = int(stored["epoch"]), int(stored["next"])
            self.end = self.next + self.block
            write_json(self.path, {"epoch": self.epoch, "next": self.end})


def load_portal_epoch(path: Path) -> int:
    """The portal's epoch, drawn once and kept in `path`; delete the file only if the portal's clock
    went back, or the service is another one."""
    with locked(path):
        stored = read_json(path)
        if stored is None or "portal_epoch" not in stored:
            stored = {"portal_epoch": time.time_ns()}
            write_json(path, stored)
        return int(stored["portal_epoch"])
