"""A file of sealed parts, written whole or not at all: what a start may use and never has to.

    file     magic (8) ‖ run (16 random bytes) ‖ part 0 ‖ part 1 …
    part i   u32 BE size of what follows ‖ nonce (12) ‖ AES-256-GCM(key, content; label ‖
             u32 BE realm ‖ run ‖ u32 BE i) with its tag (16)

How many parts there must be is in the first; whoever reads says so.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import JinkuError
from core.files import sync_directory

_RUN_SIZE: Final = 16
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
_SIZE: Final = struct.Struct(">I")
_PLACE: Final = struct.Struct(">I16sI")


class SnapshotUnusable(JinkuError):
    """There is no snapshot to start from; the message says what is wrong with it."""


class Kind(NamedTuple):
    """What sort of file it is: none is taken for another."""

    magic: bytes  # 8
    label: bytes
    # Bytes of the greatest content.
    content_max: int


class SealedParts:
    """Where such a file of one realm lies. One process at a time: the ledger's owner."""

    def __init__(self, kind: Kind, path: Path, key: bytes, realm: int) -> None:
        """`key` is 32 bytes (AES-256-GCM). Nothing is opened yet."""
        self._kind = kind
        self._path = path
        self._aead = AESGCM(key)
        self._realm = realm

    def write(self, contents: Iterable[bytes]) -> None:
        """Put a file of these in the place of the one before; it survives a power cut on return.

        Killed meanwhile, the one before is still there. OSError if it cannot be written; that one is
        still there too.
        """
        new = self._path.with_suffix(".new")
        run = os.urandom(_RUN_SIZE)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(self._kind.magic + run)
                for number, content in enumerate(contents):
                    file.write(self._seal(run, number, content))
                    # Little by little: a commit of the ledger must not wait for all of it.
                    file.flush()
                    os.fdatasync(descriptor)
                os.fsync(descriptor)
            os.replace(new, self._path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        sync_directory(self._path.parent)

    def read(self) -> Iterator[bytes]:
        """The contents, each opened as it is asked for.

        SnapshotUnusable, also between two: there is none, it is not ours, or damaged. What came
        before is then of no use either.
        """
        try:
            with self._path.open("rb") as file:
                yield from self._opened(file)
        except FileNotFoundError:
            raise SnapshotUnusable("there is none") from None
        except OSError as error:
            raise SnapshotUnusable(f"it cannot be read: {error.strerror}") from None

    def _seal(self, run: bytes, number: int, content: bytes) -> bytes:
        nonce = os.urandom(_NONCE_SIZE)
        sealed = nonce + self._aead.encrypt(nonce, content, self._place(run, number))
        return _SIZE.pack(len(sealed)) + sealed

    def _place(self, run: bytes, number: int) -> bytes:
        return self._kind.label + _PLACE.pack(self._realm, run, number)

    def _opened(self, file: BinaryIO) -> Iterator[bytes]:
        if file.read(len(self._kind.magic)) != self._kind.magic:
            raise SnapshotUnusable("it is of an unknown layout")
        run = file.read(_RUN_SIZE).ljust(_RUN_SIZE, b"\0")
        sealed_max = self._kind.content_max + _NONCE_SIZE + _TAG_SIZE
        number = 0
        while prefix := file.read(_SIZE.size):
            size = int.from_bytes(prefix, "big")
            sealed = file.read(size) if size <= sealed_max else b""
            if len(sealed) != size:
                raise SnapshotUnusable("it is not whole")
            try:
                place = self._place(run, number)
                yield self._aead.decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], place)
            except (InvalidTag, ValueError):
                why = "it does not open: it is damaged, or of another realm or key"
                raise SnapshotUnusable(why) from None
            number += 1
