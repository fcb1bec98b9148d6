"""What makes every file of the ledger unreadable to a plain LMDB tool.

AES-SIV (RFC 5297) is deterministic, so that replaying the journal gives byte-identical tables,
and takes table and key as associated data, so that a row moved elsewhere does not open. OpenSSL
keeps its own copies of these keys: the locked arena protects the tag masters, not them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from core.errors import LedgerCorrupt

_U16 = struct.Struct(">H")
# Natural identifiers come again and again: a command's caller, the vault of every box.
_BLINDED_MAX: Final = 16_384
# And so do the rows behind them. What the same bytes at the same place open to does not change.
_OPENED_MAX: Final = 4096


class RowOpener(Protocol):
    """What rows are read with: a sealer, or what looks at them besides."""

    @property
    def open_row(self) -> Callable[[int, bytes, bytes], bytes]: ...

    @property
    def open(self) -> Callable[[int, bytes, bytes], bytes]: ...

    @property
    def blind(self) -> Callable[[str, bytes], bytes]: ...


class Sealer:
    """Seals and opens the values of numbered LMDB databases, and blinds natural identifiers."""

    def __init__(self, row_key: bytes, index_key: bytes, realm: int) -> None:
        """`row_key` is 64 bytes (AES-256-SIV), `index_key` 32 bytes (HMAC-SHA-256)."""
        self._keys = (row_key, index_key, realm)
        self._siv = AESSIV(row_key)
        self._index_mac = HMAC(index_key, SHA256())
        self._realm = struct.pack(">I", realm)
        # As `open`, for short values that are read often.
        self.open_row: Callable[[int, bytes, bytes], bytes] = lru_cache(_OPENED_MAX)(self.open)
        # Keyed hash of a natural identifier, 32 bytes: the only form in which one is ever a key.
        self.blind: Callable[[str, bytes], bytes] = lru_cache(_BLINDED_MAX)(self._blind)

    def keys(self) -> tuple[bytes, bytes, int]:
        """What another process makes the same sealer of. Secret: for a pipe to it and nothing else."""
        return self._keys

    def seal(self, number: int, key: bytes, value: bytes) -> bytes:
        """The value sealed to its place. Deterministic; 16 bytes longer."""
        # An empty plaintext is not sealable: the length prefix of one byte keeps "present, no
        # fields" apart from absent.
        return self._siv.encrypt(b"\x01" + value, [self._realm, _U16.pack(number), key])

    def seal_many(
        self, number: int, rows: Iterable[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        """Key and sealed value of each key and value, as `seal` does it."""
        encrypt, realm, database = self._siv.encrypt, self._realm, _U16.pack(number)
        return [(key, encrypt(b"\x01" + value, [realm, database, key])) for key, value in rows]

    def open(self, number: int, key: bytes, sealed: bytes) -> bytes:
        """The value; LedgerCorrupt if it is not what was sealed at this place."""
        try:
            return self._siv.decrypt(sealed, [self._realm, _U16.pack(number), key])[1:]
        except (InvalidTag, ValueError):
            raise LedgerCorrupt(
                f"database {number}, key {key.hex()}", "the sealed value does not open"
            ) from None

    def _blind(self, label: str, natural: bytes) -> bytes:
        mac = self._index_mac.copy()
        mac.update(label.encode() + b"\x00" + natural)
        return mac.finalize()
