"""A sealed copy of the tag index in one file, so that a start need not open every row of the tags.

It is a convenience and never trusted for more than it proves: it is of this realm, of this journal up
to the entry that it names, and whole. It holds no counters: those are the read log's alone, so that
no copy, however old, lets an answer count twice.

Of its parts (`core/sealed_parts.py`) the first is the head; the others are at most 65,536 tags each, as
columns: identity (16, zero-padded), id (16), width of the identity, scheme, state, number of the key in
the head's list.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from core.errors import LedgerStopped
from core.ids import ID_SIZE
from core.sealed_parts import Kind, SealedParts, SnapshotUnusable

SEGMENT_TAGS: Final = 65_536

_HEAD: Final = struct.Struct(">QQ32sIB")
_KEY: Final = struct.Struct(">II")
_COLUMNS: Final = (16, ID_SIZE, 1, 1, 1, 1)  # bytes per tag
_TAG_SIZE: Final = sum(_COLUMNS)
_KIND: Final = Kind(b"JKTAGIX1", b"jinku tag index v1", SEGMENT_TAGS * _TAG_SIZE)

_LOOK_SECONDS: Final = 1.0
# After a failure, a full disk say.
_RETRY_SECONDS: Final = 60.0

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Head:
    """What a snapshot is of."""

    # Every entry before this one is in it; later ones may be.
    followed: int
    # No entry from this one on is in it, and the root hash of the journal up to here.
    bound: int
    root: bytes
    tags: int
    # Whether tags are missing because their issuing realm's master was not loaded.
    left_out: bool
    # (issuing realm, version) of the tag masters, by the number that the tags give.
    keys: tuple[tuple[int, int], ...]


class Tags(NamedTuple):
    """N tags as columns, uint8."""

    identities: U8  # (N, 16), zero-padded
    ids: U8  # (N, 16)
    widths: U8  # (N,) of the identity: 7, 8, 12 or 16
    schemes: U8  # (N,)
    states: U8  # (N,)
    keys: U8  # (N,)


def tags_of(columns: bytes) -> Tags:
    """Tags whose columns stand behind each other; views, nothing is copied."""
    count = len(columns) // _TAG_SIZE
    views, at = [], 0
    for size in _COLUMNS:
        view = np.frombuffer(columns, np.uint8, size * count, at)
        views.append(view.reshape(count, size) if size > 1 else view)
        at += size * count
    return Tags(*views)


class SnapshotFile:
    """Where the snapshot of one realm lies. One process at a time: the ledger's owner."""

    def __init__(self, path: Path, key: bytes, realm: int) -> None:
        """`key` is 32 bytes (AES-256-GCM). Nothing is opened yet."""
        self._parts = SealedParts(_KIND, path, key, realm)

    def write(self, head: Head, segments: Iterable[Tags]) -> None:
        """Put a snapshot in the place of the one before, as `SealedParts.write` does it. OSError."""
        columns = (b"".join(column.data for column in tags) for tags in segments)
        self._parts.write(chain([_pack_head(head)], columns))

    def read(self) -> tuple[Head, Iterator[Tags]]:
        """The snapshot, its tags opened part by part as they are asked for.

        SnapshotUnusable, also while they are: it is not there, not ours, damaged or not whole. What
        came before is then of no use either.
        """
        values = self._parts.read()
        head = _unpack_head(next(values, b""))
        return head, _unpack_segments(head, values)


def _pack_head(head: Head) -> bytes:
    packed = _HEAD.pack(head.followed, head.bound, head.root, head.tags, head.left_out)
    return packed + b"".join(_KEY.pack(*key) for key in head.keys)


def _unpack_head(packed: bytes) -> Head:
    try:
        followed, bound, root, tags, left_out = _HEAD.unpack_from(packed)
        keys = tuple(_KEY.iter_unpack(packed[_HEAD.size :]))
    except struct.error:
        raise SnapshotUnusable("it is not whole") from None
    return Head(followed, bound, root, tags, bool(left_out), keys)


def _unpack_segments(head: Head, values: Iterator[bytes]) -> Iterator[Tags]:
    left = head.tags
    for content in values:
        if len(content) % _TAG_SIZE or len(content) // _TAG_SIZE > left:
            raise SnapshotUnusable("it holds other tags than its head says")
        left -= len(content) // _TAG_SIZE
        yield tags_of(content)
    if left:
        raise SnapshotUnusable("it is not whole")


class Keeper:
    """Writes snapshots in a thread of its own, off the writer's path, and one at an orderly end."""

    def __init__(
        self,
        is_due: Callable[[bool], bool],
        save: Callable[[], None],
        on_saved: Callable[[float], None] = lambda seconds: None,
        on_error: Callable[[Exception], None] = lambda error: None,
        name: str = "snapshots",
    ) -> None:
        """`is_due` is asked with whether this is the end; `on_saved` is told how long it took. `name`
        is the thread's.
        """
        self._is_due = is_due
        self._save = save
        self._on_saved = on_saved
        self._on_error = on_error
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to look whether one is due."""
        self._thread.start()

    def stop(self) -> None:
        """End, with a last snapshot if it is worth it. Before the ledger closes; safe to call twice."""
        if not self._stopping.is_set():
            self._stopping.set()
            if self._thread.is_alive():
                self._thread.join()
            self._look(ending=True)

    def _run(self) -> None:
        seconds = 0.0
        while not self._stopping.wait(seconds):
            seconds = _LOOK_SECONDS if self._look(ending=False) else _RETRY_SECONDS

    def _look(self, *, ending: bool) -> bool:
        """False if one was due and could not be written: the one before is as good as it was."""
        try:
            if self._is_due(ending):
                begun = time.monotonic()
                self._save()
                self._on_saved(time.monotonic() - begun)
        except LedgerStopped:
            return False
        except Exception as error:
            self._on_error(error)
            return False
        return True
