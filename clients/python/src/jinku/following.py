"""Following a log: its newest checkpoint is kept here, and the next has to go on from it.

What is kept elsewhere than at the service is what shows that its ledger was put back, or split. Over
the LedgerService, or, without any certificate, over the public HTTP door and its hash tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from jinku import plain_http
from jinku.durable import write_bytes
from jinku.errors import RequestInvalid
from jinku.ledger import LedgerClient
from jinku.notes import (
    EMPTY_ROOT,
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
    """The log does not go on from what was seen of it, as both checkpoints together prove; or has
    not even what would show it.
    """


class NotThere(NoAnswer):
    """The log says that it has not what was asked for."""


class Source(Protocol):
    """Where a log is read."""

    def checkpoint(self) -> str: ...

    def prove(self, first_size: int, second_size: int) -> list[bytes]:
        """NotThere if the log has not so many entries."""
        ...


class Followed(NamedTuple):
    """What was kept before, if anything; the newest checkpoint that the log shows; and its note."""

    before: Checkpoint | None
    newest: Checkpoint
    note: str


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
        try:
            return list(self.client.get_consistency_proof(request).consistency_proof)
        except RequestInvalid as error:
            raise NotThere(str(error)) from error


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
            kind = NotThere if answer.status == 404 else NoAnswer
            raise kind(f"{url}: it answers {answer.status}")
        return answer.body


def follow(
    source: Source,
    kept: Path,
    key: VerifierKey,
    witnesses: Sequence[VerifierKey] = (),
    quorum: int = 0,
) -> Followed:
    """Of what was kept and the newest checkpoint the larger one is kept on return, the newest if
    there is no larger: a log may show an older one than somebody was given, e.g. while its witnesses
    are out.

    Raises LogForked unless one is proven to go on from the other, and what was kept then stays;
    NoteInvalid if the newest is not signed as it has to be.
    """
    note = source.checkpoint()
    newest = open_checkpoint(note, key)
    require_quorum(note, witnesses, quorum)
    before = open_checkpoint(kept.read_text(encoding="utf-8"), key) if kept.exists() else None
    if before is not None:
        check_growth(source, before, newest)
    if before is None or newest.tree_size >= before.tree_size:
        write_bytes(kept, note.encode())
    return Followed(before, newest, note)


def check_growth(source: Source, before: Checkpoint, newest: Checkpoint) -> None:
    """LogForked unless one of them begins the other. The empty tree begins every other."""
    for one in (before, newest):
        if one.tree_size == 0 and one.root_hash != EMPTY_ROOT:
            raise LogForked(f"{one.origin}: a tree of 0 entries that has not the empty tree's root")
    older = newest.tree_size < before.tree_size
    first, second = (newest, before) if older else (before, newest)
    if first.tree_size == 0:
        return
    sizes = (first.tree_size, second.tree_size)
    try:
        proof = source.prove(*sizes) if sizes[0] < sizes[1] else []
    except NotThere as error:
        if not older:
            raise
        raise LogForked(
            f"{newest.origin} has {newest.tree_size} entries; {before.tree_size} were seen before, "
            "and it has not what shows that these go on from them"
        ) from error
    try:
        check_consistency(*sizes, first.root_hash, second.root_hash, proof)
    except NoteInvalid as error:
        which = ("it shows now", "were seen") if older else ("were seen", "it has now")
        raise LogForked(
            f"{newest.origin}: the {sizes[0]} entries that {which[0]} do not begin the {sizes[1]} "
            f"that {which[1]}: {error}"
        ) from error
