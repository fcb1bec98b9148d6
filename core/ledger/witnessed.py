"""The newest checkpoint that enough witnesses cosigned, kept beside the ledger.

Sealed, because a checkpoint names the bank. It is no part of the state: it says nothing that the
journal decides on. But a ledger that was put back to an older state no longer fits to it.
"""

from __future__ import annotations

import os
from pathlib import Path

from core.errors import LedgerCorrupt
from core.files import sync_directory
from core.ledger.note import Checkpoint, parse_note
from core.ledger.seal import Sealer

WITNESSED_FILE = "witnessed"
# Beyond the numbers of databases: what is sealed as this opens as nothing else.
_NUMBER = 200


class WitnessedCheckpoint:
    """Where it is kept and what is served of it. One thread writes, all read."""

    def __init__(self, directory: Path, sealer: Sealer) -> None:
        self._path = directory / WITNESSED_FILE
        self._sealer = sealer
        # With its cosignatures; None until `keep` or `serve` said so.
        self.newest: Checkpoint | None = None

    def load(self) -> Checkpoint | None:
        """What was last kept; its signatures are the caller's to check. LedgerCorrupt if the file is
        not what was written.
        """
        try:
            sealed = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            note = self._sealer.open(_NUMBER, WITNESSED_FILE.encode(), sealed)
        except LedgerCorrupt:
            raise LedgerCorrupt(
                str(self._path), "does not open; is it of another ledger?"
            ) from None
        return parse_note(note.decode())

    def serve(self, checkpoint: Checkpoint | None) -> None:
        """Give this one out from now on."""
        self.newest = checkpoint

    def keep(self, note: str) -> None:
        """Durable on return, and given out from then on. OSError if it cannot be written."""
        sealed = self._sealer.seal(_NUMBER, WITNESSED_FILE.encode(), note.encode())
        written = self._path.with_suffix(".new")
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as output:
            output.write(sealed)
            output.flush()
            os.fsync(descriptor)
        written.replace(self._path)
        sync_directory(self._path.parent)
        self.serve(parse_note(note))
