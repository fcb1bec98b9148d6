"""Where the service's keys come from. The first, plain store: files that only the service's user
may read.

One 32-byte realm secret, from which every key of the ledger is derived (HKDF-SHA-256, one label
per purpose, so that no key serves two), and the tag masters, one file per issuing realm and
version. Ceremonies, key blocks and PKCS#11 take this module's place behind the same two classes
(piece 4).
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors import KeyFileError
from core.files import naming, sync_directory, write_all
from core.ledger.note import NoteSigner

REALM_SECRET_FILE = "realm.key"
TAG_MASTER_DIRECTORY = "tag-masters"
REALM_SECRET_SIZE = 32
TAG_MASTER_SIZE = 16
_TAG_MASTER_NAME = re.compile(r"^(\d{1,10})-(\d{1,10})\.key$")


@dataclass(frozen=True)
class RealmKeys:
    """The keys of one realm's ledger. Never printed: repr shows none."""

    row_key: bytes = field(repr=False)
    journal_key: bytes = field(repr=False)
    index_key: bytes = field(repr=False)
    readlog_key: bytes = field(repr=False)
    challenge_key: bytes = field(repr=False)
    tag_index_key: bytes = field(repr=False)
    marks_key: bytes = field(repr=False)
    backup_key: bytes = field(repr=False)
    checkpoint_seed: bytes = field(repr=False)

    @classmethod
    def create(cls, directory: Path) -> RealmKeys:
        """Draw a new realm secret and store it. KeyFileError if there is one already."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_new_key(directory / REALM_SECRET_FILE, secrets.token_bytes(REALM_SECRET_SIZE))
        return cls.load(directory)

    @classmethod
    def load(cls, directory: Path) -> RealmKeys:
        """Derive the keys from the stored secret. KeyFileError names the file and what to do."""
        secret = read_key(directory / REALM_SECRET_FILE, REALM_SECRET_SIZE)
        try:
            return cls(
                row_key=_derive(secret, "rows", 64),
                journal_key=_derive(secret, "journal", 64),
                index_key=_derive(secret, "index", 32),
                readlog_key=_derive(secret, "read log", 32),
                challenge_key=_derive(secret, "challenges", 32),
                tag_index_key=_derive(secret, "tag index", 32),
                marks_key=_derive(secret, "marks", 32),
                backup_key=_derive(secret, "backup", 32),
                checkpoint_seed=_derive(secret, "checkpoints", 32),
            )
        finally:
            wipe(secret)

    def signer(self, trust_domain: str, realm: int) -> NoteSigner:
        """Signs this realm's checkpoints. The log's origin is trust domain and realm."""
        key = Ed25519PrivateKey.from_private_bytes(self.checkpoint_seed)
        return NoteSigner(f"{trust_domain}/jinku/{realm}", key)


def create_tag_master(directory: Path, realm: int, version: int) -> None:
    """Draw a tag master for `realm` and store it. KeyFileError if that version is there already."""
    masters = directory / TAG_MASTER_DIRECTORY
    masters.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_new_key(masters / f"{realm}-{version}.key", secrets.token_bytes(TAG_MASTER_SIZE))


def load_tag_masters(directory: Path) -> list[tuple[int, int, bytearray]]:
    """(issuing realm, version, 16-byte key) of every stored master.

    The caller moves each into the arena, which wipes it.
    """
    masters = directory / TAG_MASTER_DIRECTORY
    found = []
    if not masters.is_dir():
        raise KeyFileError(f"{masters}: no such directory; `jinkud init` makes it")
    for path in sorted(masters.iterdir()):
        name = _TAG_MASTER_NAME.match(path.name)
        if name is None:
            raise KeyFileError(f"{path}: not named <realm>-<version>.key; move it elsewhere")
        found.append((int(name[1]), int(name[2]), read_key(path, TAG_MASTER_SIZE)))
    return found


def wipe(secret: bytearray) -> None:
    """Overwrite with zeros."""
    secret[:] = bytes(len(secret))


def _derive(secret: bytearray, purpose: str, size: int) -> bytes:
    return HKDF(SHA256(), size, salt=None, info=b"jinku v1 " + purpose.encode()).derive(
        bytes(secret)
    )


def write_new_key(path: Path, content: bytes) -> None:
    """A key file that was not there, whole and durable on return. KeyFileError if it is there already,
    OSError if there is no room: then it is not there.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{path}: exists already and is never overwritten") from None
    try:
        with naming(path):
            write_all(descriptor, content)
            os.fsync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    # What is sealed under a key must not outlive it.
    sync_directory(path.parent)
    sync_directory(path.parent.parent)


def read_key(path: Path, size: int) -> bytearray:
    """A key file of this size that only its owner may read. KeyFileError says what is wrong."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise KeyFileError(f"{path}: others may read it; chmod 600 it")
        content = bytearray(size + 1)
        if os.readv(descriptor, [content]) != size:
            raise KeyFileError(f"{path}: must hold exactly {size} bytes")
        del content[size:]
        return content
    finally:
        os.close(descriptor)
