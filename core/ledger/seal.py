"""What makes every file of the ledger unreadable to a plain LMDB tool.

AES-SIV (RFC 5297) is deterministic, so that replaying the journal gives byte-identical tables,
and takes table and key as associated data, so that a row moved elsewhere does not open. OpenSSL
keeps its own copies of these keys: the locked arena protects the tag masters, not them.
"""

from __future__ import annotations

import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from core.errors import LedgerCorrupt

_U16 = struct.Struct(">H")


class Sealer:
    """Seals and opens the values of numbered LMDB databases, and blinds natural identifiers."""

    def __init__(self, row_key: bytes, index_key: bytes, realm: int) -> None:
        """`row_key` is 64 bytes (AES-256-SIV), `index_key` 32 bytes (HMAC-SHA-256)."""
        self._siv = AESSIV(row_key)
        self._index_key = index_key
        self._realm = struct.pack(">I", realm)

    def seal(self, number: int, key: bytes, value: bytes) -> bytes:
        """The value sealed to its place. Deterministic; 16 bytes longer."""
        # An empty plaintext is not sealable: the length prefix of one byte keeps "present, no
        # fields" apart from absent.
        return self._siv.encrypt(b"\x01" + value, [self._realm, _U16.pack(number), key])

    def open(self, number: int, key: bytes, sealed: bytes) -> bytes:
        """The value; LedgerCorrupt if it is not what was sealed at this place."""
        try:
            return self._siv.decrypt(sealed, [self._realm, _U16.pack(number), key])[1:]
        except (InvalidTag, ValueError):
            raise LedgerCorrupt(
                f"database {number}, key {key.hex()}", "the sealed value does not open"
            ) from None

    def blind(self, label: str, natural: bytes) -> bytes:
        """Keyed hash of a natural identifier, 32 bytes.

        The only form in which one is ever a key.
        """
        return hmac.digest(self._index_key, label.encode() + b"\x00" + natural, "sha256")
