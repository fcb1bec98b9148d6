"""What a backup says of itself: its files and their digests, the journal's end, and a MAC over it."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from core.errors import JinkuError

Progress = Callable[[str, int, int], None]

FILE: Final = "manifest.json"
FORMAT: Final = "jinku backup 1"
_PIECE: Final = 8 << 20
_MIB: Final = 1 << 20


class BackupInvalid(JinkuError):
    """A backup is not what was written; the message names the file."""


@dataclass(frozen=True)
class BackupFile:
    """One file of a backup: its place in it, its size in bytes and its SHA-256 in hexadecimal."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A whole backup."""

    format: str
    realm: int
    trust_domain: str
    # Everything acknowledged before this is in it. UTC, ISO 8601.
    begun_at: str
    # When the newest entry that is in it was decided.
    decided_at: str
    tree_size: int
    root_hash: str
    # The signed checkpoint over these.
    checkpoint: str
    files: tuple[BackupFile, ...]

    def write(self, backup: Path, key: bytes) -> None:
        """Write it into the backup, authenticated under the realm's 32-byte backup key."""
        fields = asdict(self)
        content = {**fields, "mac": _mac(fields, key)}
        text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        (backup / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, backup: Path, key: bytes) -> Manifest:
        """That of a backup. BackupInvalid if there is none, or these keys did not make it."""
        path = backup / FILE
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            mac = content.pop("mac")
            files = tuple(BackupFile(**file) for file in content.pop("files"))
            manifest = cls(**content, files=files)
            if manifest.format != FORMAT:
                raise BackupInvalid(
                    f"{path}: is {manifest.format!r}; this version reads {FORMAT!r}"
                )
            right = hmac.compare_digest(str(mac), _mac(asdict(manifest), key))
        except FileNotFoundError:
            raise BackupInvalid(f"{path}: is not there; is {backup} a finished backup?") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise BackupInvalid(f"{path}: is not the manifest of a backup") from None
        if not right:
            raise BackupInvalid(f"{path}: was altered, or made with other keys than these")
        for file in manifest.files:
            place = PurePosixPath(file.path)
            if place.is_absolute() or ".." in place.parts:
                raise BackupInvalid(f"{path}: names {file.path}, which is not in the backup")
        return manifest


class Digester:
    """Reads files once, telling how far it has come."""

    def __init__(self, stage: str, total_bytes: int, progress: Progress) -> None:
        self._stage = f"{stage} (MiB)"
        self._total = total_bytes
        self._done = 0
        self._progress = progress

    def digest(self, path: Path, place: str, copy: BinaryIO | None = None) -> BackupFile:
        """What a file is, its bytes written to `copy` on the way."""
        hashed, size = sha256(), 0
        with path.open("rb") as source:
            while piece := source.read(_PIECE):
                hashed.update(piece)
                size += len(piece)
                if copy is not None:
                    copy.write(piece)
                self._done += len(piece)
                self._progress(self._stage, self._done // _MIB, max(self._total, 1) // _MIB)
        return BackupFile(place, size, hashed.hexdigest())


def _mac(fields: dict[str, Any], key: bytes) -> str:
    content = json.dumps(fields, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hmac.new(key, b"jinku backup v1\x00" + content.encode(), "sha256").hexdigest()
