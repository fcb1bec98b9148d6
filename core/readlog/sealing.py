"""What makes the read log unreadable to a plain LMDB tool.

AES-256-GCM with a random nonce before each value; table and key are associated data, so that a row
moved elsewhere does not open. Blocks are sealed under a key per portal and epoch: 2³² values under
one key, the limit for random nonces, are then years of one portal's reads and not weeks of a site's.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import LedgerCorrupt
from core.kernels import leaf_hashes
from core.readlog.layout import BLOCKS, COUNTER_SIZE, SEAL_OVERHEAD
from core.sums import add_up

_NONCE: Final = 12
_DRAWN_BYTES: Final = 256 * _NONCE
_BLOCK_OWNER: Final = 24  # portal id ‖ epoch: the first bytes of a block's key
_BLIND_SIZE: Final = 16


class _Nonces(threading.local):
    """Random nonces, many drawn at a time: asking the system for them gives up the interpreter's lock."""

    def __init__(self) -> None:
        self._drawn = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """So many, behind each other; none is handed out twice."""
        begin, end = self._at, self._at + _NONCE * count
        if end > len(self._drawn):
            self._drawn = os.urandom(max(_NONCE * count, _DRAWN_BYTES))
            begin, end = 0, _NONCE * count
        self._at = end
        return self._drawn[begin:end]


class ReadLogSealer:
    """Seals, opens and blinds. Safe to use from many threads."""

    def __init__(self, key: bytes) -> None:
        """`key` is the realm's 32-byte read-log key; every key used is derived from it."""
        self._key = key
        self._blinding_key = self._derive(b"counter identities")
        self._sum_key = self._derive(b"sum of counters")
        self._aead = functools.lru_cache(maxsize=1024)(self._make_aead)
        self._nonces = _Nonces()

    def seal(self, table: int, key: bytes, value: bytes | memoryview) -> bytearray:
        """nonce ‖ ciphertext ‖ tag: 28 bytes more than `value`."""
        sealed = bytearray(len(value) + SEAL_OVERHEAD)
        sealed[:_NONCE] = self._nonces.take(1)
        view = memoryview(sealed)
        self._aead(_owner(table, key)).encrypt_into(
            view[:_NONCE], value, _associated(table, key), view[_NONCE:]
        )
        return sealed

    def seal_chunks(
        self, keys: Sequence[bytes], chunks: Sequence[memoryview]
    ) -> list[tuple[bytes, memoryview]]:
        """The chunks of one block with their keys, sealed into one piece of memory."""
        aead = self._aead(_owner(BLOCKS, keys[0]))
        nonces = self._nonces.take(len(chunks))
        room = np.empty(sum(map(len, chunks)) + SEAL_OVERHEAD * len(chunks), np.uint8).data
        sealed = []
        end = 0
        for number, (key, chunk) in enumerate(zip(keys, chunks, strict=True)):
            begin, end = end, end + len(chunk) + SEAL_OVERHEAD
            nonce = nonces[number * _NONCE : (number + 1) * _NONCE]
            room[begin : begin + _NONCE] = nonce
            aead.encrypt_into(nonce, chunk, _associated(BLOCKS, key), room[begin + _NONCE : end])
            sealed.append((key, room[begin:end]))
        return sealed

    def open(self, table: int, key: bytes, sealed: bytes | memoryview) -> bytes:
        """The value; LedgerCorrupt if it is not what was sealed at this place."""
        view = memoryview(sealed)
        try:
            return self._aead(_owner(table, key)).decrypt(
                view[:_NONCE], view[_NONCE:], _associated(table, key)
            )
        except (InvalidTag, ValueError):
            raise _corrupt(table, key) from None

    def open_all(self, table: int, rows: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
        """`open` for the rows of a table that has one key: half the time for very many of them."""
        decrypt, label = self._aead(_owner(table, b"")).decrypt, bytes((table,))
        for key, sealed in rows:
            try:
                yield decrypt(sealed[:_NONCE], sealed[_NONCE:], label + key)
            except (InvalidTag, ValueError):
                raise _corrupt(table, key) from None

    def blind(self, identity: bytes) -> bytes:
        """Keyed hash of a tag's identity, 16 bytes: the only form in which one is ever a key."""
        return hmac.digest(self._blinding_key, identity, "sha256")[:_BLIND_SIZE]

    def sum_counters(self, packed: bytes) -> int:
        """The sum of the keyed hashes of counters that stand behind each other, as they were packed.

        Of each: SHA-256(00 ‖ key (32) ‖ SHA-256(counter)), as a little-endian number.
        """
        count, key_size = len(packed) // COUNTER_SIZE, len(self._sum_key)
        fields = np.empty((count, 2, 2), np.uint64)
        fields[:, 0] = 0, key_size
        fields[:, 1, 0] = np.arange(count, dtype=np.uint64) * COUNTER_SIZE + key_size
        fields[:, 1, 1] = fields[:, 1, 0] + COUNTER_SIZE
        return add_up(leaf_hashes(self._sum_key + packed, fields.reshape(-1, 2))) if count else 0

    def hash_counter(self, packed: bytes) -> int:
        """`sum_counters` of one."""
        inner = hashlib.sha256(packed).digest()
        return int.from_bytes(hashlib.sha256(b"\0" + self._sum_key + inner).digest(), "little")

    def _derive(self, label: bytes) -> bytes:
        return hmac.digest(self._key, b"jinku read log v1\x00" + label, "sha256")

    def _make_aead(self, owner: bytes) -> AESGCM:
        return AESGCM(self._derive(owner))


def _corrupt(table: int, key: bytes) -> LedgerCorrupt:
    return LedgerCorrupt(
        f"read log, table {table}, key {key.hex()}", "the sealed value does not open"
    )


def _owner(table: int, key: bytes) -> bytes:
    """Whose key seals this row."""
    return b"table %d\x00" % table + (key[:_BLOCK_OWNER] if table == BLOCKS else b"")


def _associated(table: int, key: bytes) -> bytes:
    return bytes((table,)) + key
