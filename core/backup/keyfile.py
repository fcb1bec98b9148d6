"""The realm's keys in one file that opens only with the passphrases of two persons together."""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from core.backup.copying import appearing, unfinished
from core.backup.manifest import BackupInvalid
from core.errors import KeyFileError, SettingsError
from core.files import sync_directory
from core.keys import write_new_key

PERSONS: Final = 2
PASSPHRASE_MIN: Final = 12
_MAGIC: Final = b"jinku keys v1\n"
# scrypt: 128 MiB and a good part of a second for each guess.
_COST: Final = 17
_BLOCK_SIZE: Final = 8
_SALT: Final = 16
_NONCE: Final = 12
_HEADER: Final = struct.Struct(f">{len(_MAGIC)}sB{_SALT * PERSONS}s{_NONCE}s")


def seal_keys(directory: Path, output: Path, passphrases: Sequence[str]) -> list[str]:
    """Write every file of the key directory, sealed, to the new file `output`; which they are.

    Whole and durable on return, or not there. SettingsError if the passphrases are too short or the
    same, or `output` is there; KeyFileError if there are no keys, OSError if there is no room.
    """
    _check(passphrases)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    if not files:
        raise KeyFileError(f"{directory}: has no keys")
    places = [path.relative_to(directory).as_posix() for path in files]
    content = {
        place: base64.b64encode(path.read_bytes()).decode()
        for place, path in zip(places, files, strict=True)
    }
    salts, nonce = os.urandom(_SALT * PERSONS), os.urandom(_NONCE)
    header = _HEADER.pack(_MAGIC, _COST, salts, nonce)
    sealed = AESGCM(_derive(passphrases, salts, _COST)).encrypt(
        nonce, json.dumps(content).encode(), header
    )
    with unfinished(output) as partial:
        whole = partial / output.name
        write_new_key(whole, header + sealed)
        _name(whole, output)
    sync_directory(output.parent)
    return places


def open_keys(source: Path, directory: Path, passphrases: Sequence[str]) -> list[str]:
    """Make the key directory of such a file; which files it has now.

    All of them are durable on return, or there is none. SettingsError if `directory` is not empty, or
    the passphrases are such as no file is made with; BackupInvalid if the file was altered or the
    passphrases are not its own, in the order in which they were given when it was made.
    """
    _check(passphrases)
    content = source.read_bytes()
    if len(content) < _HEADER.size or not content.startswith(_MAGIC):
        raise BackupInvalid(f"{source}: is not a file of `jinkud backup-keys`")
    _, cost, salts, nonce = _HEADER.unpack_from(content)
    if cost != _COST:
        raise BackupInvalid(f"{source}: was altered")
    header, sealed = content[: _HEADER.size], content[_HEADER.size :]
    try:
        opened = AESGCM(_derive(passphrases, salts, cost)).decrypt(nonce, sealed, header)
    except InvalidTag:
        raise BackupInvalid(
            f"{source}: does not open; a passphrase is wrong, or they came in the other order, or the "
            "file was altered"
        ) from None
    files: dict[str, str] = json.loads(opened)
    with appearing(directory) as partial:
        for place, encoded in files.items():
            if ".." in PurePosixPath(place).parts or PurePosixPath(place).is_absolute():
                raise BackupInvalid(f"{source}: names {place}, which is not below its directory")
            path = partial / place
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as target:
                target.write(base64.b64decode(encoded))
    return sorted(files)


def _name(whole: Path, output: Path) -> None:
    """Give a file its name, unless there is something under it."""
    try:
        os.link(whole, output)
    except OSError:
        # There is; or a memory stick's file system, in which a file has one name.
        if os.path.lexists(output):
            raise SettingsError(f"{output}: is there already, and is never overwritten") from None
        whole.rename(output)


def _check(passphrases: Sequence[str]) -> None:
    if len(passphrases) != PERSONS or len(set(passphrases)) != PERSONS:
        raise SettingsError(
            f"passphrases: {PERSONS} different ones are needed, of different persons"
        )
    if min(map(len, passphrases)) < PASSPHRASE_MIN:
        raise SettingsError(f"passphrases: each has at least {PASSPHRASE_MIN} characters")


def _derive(passphrases: Sequence[str], salts: bytes, cost: int) -> bytes:
    parts = [
        Scrypt(salt=salts[at * _SALT : (at + 1) * _SALT], length=32, n=1 << cost, r=_BLOCK_SIZE, p=1)
        .derive(passphrase.encode())
        for at, passphrase in enumerate(passphrases)
    ]  # fmt: skip
    return HKDF(SHA256(), 32, salt=None, info=b"jinku v1 key backup").derive(b"".join(parts))
