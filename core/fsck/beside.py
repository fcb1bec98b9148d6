"""Seals, adds up and writes one part of a replay in a process of its own, while the next is replayed.

Keys and rows go to it through a pair of sockets that has no name. It takes what was handed in to its
end and then ends, whatever becomes of who started it.
"""

from __future__ import annotations

import marshal
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Final

import lmdb

from core.dumps import forbid_core_dumps
from core.errors import JinkuError
from core.fsck.rows import Part, ReplayedRows
from core.ledger.seal import Sealer

# Path, map_gib, keys of the sealer, version, sum of the rows that are there.
Opening = tuple[Path, int, tuple[bytes, bytes, int], bytes, int]

_RUN: Final = "import core.fsck.beside as beside; beside.main()"


class Beside:
    """The process, as who replays sees it."""

    def __init__(self, opening: Opening, lock: int) -> None:
        """Start it. It keeps the descriptor `lock` open for as long as it may write."""
        self._pipe, theirs = Pipe()
        self._waiting = False
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _RUN, str(number)],
                pass_fds=(number, lock), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                # Ctrl-C in a terminal is for who replays.
                start_new_session=True,
            )  # fmt: skip
        self._pipe.send(opening)

    def hand_in(self, part: Part) -> None:
        """Have a part written, when all before it are. JinkuError if the process has ended."""
        try:
            # A quarter of the time that pickling takes; both ends are the same Python.
            self._pipe.send_bytes(marshal.dumps(tuple(part), 2))
        except OSError:
            raise self._ended() from None
        self._waiting = True

    def wait(self) -> None:
        """What was handed in is written on return. lmdb.Error as the process met it, JinkuError if it
        has ended.
        """
        if not self._waiting:
            return
        self._waiting = False
        try:
            error = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if error is not None:
            raise lmdb.Error(error)

    def close(self) -> None:
        """It has ended on return, after what was handed in. Safe to call twice."""
        self._pipe.close()
        self._process.wait()

    def _ended(self) -> JinkuError:
        return JinkuError(f"the process that writes for fsck has ended: {self._process.wait()}")


def main() -> None:
    """In the process: write part after part, until there is nobody who hands one in."""
    forbid_core_dumps()
    with Connection(int(sys.argv[1])) as pipe:
        try:
            path, map_gib, keys, version, total = pipe.recv()
            rows = ReplayedRows(path, map_gib, Sealer(*keys), version)
            rows.sum = total
            while True:
                rows.commit(Part(*marshal.loads(pipe.recv_bytes())))
                pipe.send(None)
        except lmdb.Error as error:
            pipe.send(str(error))
        except (EOFError, ConnectionError):
            pass
