"""Following a log: its newest checkpoint is kept here, and the next has to go on from it.

What is kept elsewhere than at the service is what shows that its ledger was put back, or split. Over
the LedgerService, or, without any certificate, over the public HTTP door and its hash tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jinku import plain_http
from jinku.durable import write_bytes
from jinku.ledger import LedgerClient
from jinku.notes import (
    Checkpoint,
    NoteInvalid,
    VerifierKey,
    check_consistency,
    open_checkpoint,
    require_quorum,
)
from jinku.plain_http import NoAnswer
from jinku.tiles import Tile, TileTree
from jinku.v1.ledger_pb2 import GetCheckpointRequest, GetConsistencyProofRequest


class LogForked(NoteInvalid):
    """The log does not go on from what was seen of it. Both checkpoints together prove it."""


class Source(Protocol):
    """Where a log is read."""

    def checkpoint(self) -> str: ...

    def prove(self, first_size: int, second_size: int) -> list[bytes]: ...


@dataclass(frozen=True, slots=True)
class ServiceSource:
    """The LedgerService."""

    client: LedgerClient

    def checkpoint(self) -> str:
        return self.client.get_checkpoint(GetCheckpointRequest()).checkpoint

    def prove(self, first_size: int, second_size: int) -> list[bytes]:
        request = GetConsistencyProofRequest(
            first_tree_size=first_size, second_tree_size=second_size
        )
        return list(self.client.get_consistency_proof(request).consistency_proof)


@dataclass(frozen=True, slots=True)
class TileSource:
    """The public HTTP door of any log that has C2SP's tiles."""

    url: str
    fetch: Callable[[str], plain_http.Answer] = plain_http.fetch

    def checkpoint(self) -> str:
        try:
            return self.get("checkpoint").decode()
        except UnicodeDecodeError as error:
            raise NoteInvalid("checkpoint: not UTF-8") from error

    def prove(self, first_size: int, second_size: int) -> list[bytes]:
        return TileTree(second_size, self.get_tile).consistency_proof(first_size)

    def get_tile(self, tile: Tile) -> bytes:
        return self.get(tile.path)

    def get(self, path: str) -> bytes:
        url = f"{self.url.rstrip('/')}/{path}"
        answer = self.fetch(url)
        if answer.status != 200:
            raise NoAnswer(f"{url}: it answers {answer.status}")
        return answer.body


def follow(
    source: Source,
    kept: Path,
    key: VerifierKey,
    witnesses: Sequence[VerifierKey] = (),
    quorum: int = 0,
) -> tuple[Checkpoint | None, Checkpoint]:
    """What was kept before, if anything, and the newest checkpoint, which is kept on return.

    Raises LogForked if it does not go on from the kept one, which then stays; NoteInvalid if it is
    not signed as it has to be.
    """
    note = source.checkpoint()
    newest = open_checkpoint(note, key)
    require_quorum(note, witnesses, quorum)
    before = open_checkpoint(kept.read_text(encoding="utf-8"), key) if kept.exists() else None
    if before is not None:
        check_growth(source, before, newest)
    write_bytes(kept, note.encode())
    return before, newest


def check_growth(source: Source, before: Checkpoint, newest: Checkpoint) -> None:
    if newest.tree_size < before.tree_size:
        raise LogForked(
            f"{newest.origin} has {newest.tree_size} entries; {before.tree_size} were seen before"
        )
    if before.tree_size == 0:
        return
    sizes = (before.tree_size, newest.tree_size)
    proof = source.prove(*sizes) if sizes[0] < sizes[1] else []
    try:
        check_consistency(*sizes, before.root_hash, newest.root_hash, proof)
    except NoteInvalid as error:
        raise LogForked(
            f"{newest.origin}: the {sizes[0]} entries that were seen do not begin the {sizes[1]} "
            f"that it has now: {error}"
        ) from error
