"""The bytes of personal values: commitments, sealed values, wrapped keys. No files, no tables.

docs/formats.md says the same byte by byte. Keys are taken as buffers, so that those that last lie in
locked memory; what is derived for one value lives as long as one call.
"""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors import LedgerCorrupt
from core.ids import ID_SIZE
from core.ledger.tables import personal_value_key

OPENING_SIZE: Final = 32
SALT_SIZE: Final = 16
SUBJECT_KEY_SIZE: Final = 32
SIV_KEY_SIZE: Final = 64
KEY_CHECK_SIZE: Final = 16
# A ciphertext tells how many blocks its value has, and not how many bytes.
BLOCK: Final = 128
VALUE_SIZE_MAX: Final = 1 << 24

Key = bytes | bytearray | memoryview

_U32 = struct.Struct(">I")


@dataclass(frozen=True)
class Opened:
    """A value and what its commitment is opened with. Never printed: repr shows neither."""

    value: bytes = field(repr=False)
    opening: bytes = field(repr=False)


@dataclass(frozen=True)
class Place:
    """Whose value, which one, and the entry that commits to it."""

    realm: int
    subject_id: bytes
    entry_index: int
    field: int

    @property
    def key(self) -> bytes:
        """Where its ciphertext lies."""
        return personal_value_key(self.subject_id, self.entry_index, self.field)

    def __str__(self) -> str:
        subject = self.subject_id.hex()
        return f"personal value {self.field} of {subject}, entry {self.entry_index}"


def commit(opening: bytes, subject_id: bytes, number: int, value: bytes) -> bytes:
    """The commitment to a value, 32 bytes: hiding while the opening is secret, binding always.

    ValueError unless opening and id have their sizes: a shorter HMAC key is another one with zeros
    behind it, and would open two ways.
    """
    if len(opening) != OPENING_SIZE or len(subject_id) != ID_SIZE:
        raise ValueError("an opening is 32 bytes and a subject's id 16")
    message = b"jinku commitment v1\x00" + subject_id + _U32.pack(number) + value
    return hmac.digest(opening, message, "sha256")


def seal_value(subject_key: Key, place: Place, opened: Opened) -> bytes:
    """Salt ‖ ciphertext of opening and value, for its place alone."""
    if len(opened.value) > VALUE_SIZE_MAX:
        raise ValueError(f"a personal value is at most {VALUE_SIZE_MAX} bytes")
    salt = os.urandom(SALT_SIZE)
    plain = opened.opening + _U32.pack(len(opened.value)) + opened.value
    padded = plain.ljust(-(-len(plain) // BLOCK) * BLOCK, b"\x00")
    return salt + _value_cipher(subject_key, salt, place).encrypt(padded, _bound_to(place))


def open_value(subject_key: Key, place: Place, sealed: bytes, commitment: bytes) -> Opened:
    """The value. LedgerCorrupt if it is not what was sealed there and committed to."""
    salt, ciphertext = sealed[:SALT_SIZE], sealed[SALT_SIZE:]
    try:
        plain = _value_cipher(subject_key, salt, place).decrypt(ciphertext, _bound_to(place))
    except (InvalidTag, ValueError):
        raise LedgerCorrupt(str(place), "the sealed value does not open") from None
    (size,) = _U32.unpack_from(plain, OPENING_SIZE)
    begin = OPENING_SIZE + _U32.size
    opened = Opened(value=plain[begin : begin + size], opening=plain[:OPENING_SIZE])
    made = commit(opened.opening, place.subject_id, place.field, opened.value)
    if not hmac.compare_digest(made, commitment):
        raise LedgerCorrupt(str(place), "is not the value that the journal commits to")
    return opened


def derive_wrapping_keys(secret: Key, wrapping: memoryview, wrap_set: memoryview) -> None:
    """Write the two 64-byte keys that a wrapping key's 32 bytes stand for."""
    _hkdf(b"wrapping", None, SIV_KEY_SIZE).derive_into(secret, wrapping)
    _hkdf(b"wrap set", None, SIV_KEY_SIZE).derive_into(secret, wrap_set)


def key_check(secret: Key, realm: int, generation: int) -> bytes:
    """What tells this wrapping key from any other, and nothing about it."""
    info = b"wrapping key check\x00" + struct.pack(">II", realm, generation)
    return _hkdf(info, None, KEY_CHECK_SIZE).derive(secret)


def wrap(wrapping_key: Key, realm: int, generation: int, subject_id: bytes, key: Key) -> bytes:
    """A subject's key under a wrapping key, bound to the subject."""
    bound = _wrapped_for(realm, generation, subject_id)
    return AESSIV(wrapping_key).encrypt(key, bound)


def unwrap(
    wrapping_key: Key, realm: int, generation: int, subject_id: bytes, wrapped: bytes
) -> bytes:
    """The subject's key. LedgerCorrupt if it is another's, another generation's or altered."""
    try:
        bound = _wrapped_for(realm, generation, subject_id)
        return AESSIV(wrapping_key).decrypt(wrapped, bound)
    except (InvalidTag, ValueError):
        raise LedgerCorrupt(
            f"key of {subject_id.hex()}", f"does not open under wrapping key {generation}"
        ) from None


def seal_wrap_set(key: Key, realm: int, generation: int, packed: bytes) -> bytes:
    """The wrap set of a wrapping key, as its file holds it."""
    return AESSIV(key).encrypt(packed, _set_of(realm, generation))


def open_wrap_set(key: Key, realm: int, generation: int, sealed: bytes) -> bytes | None:
    """The wrap set, or None if this wrapping key did not make it."""
    try:
        return AESSIV(key).decrypt(sealed, _set_of(realm, generation))
    except (InvalidTag, ValueError):
        return None


def _value_cipher(subject_key: Key, salt: bytes, place: Place) -> AESSIV:
    info = b"personal value\x00" + place.subject_id + _U32.pack(place.field)
    key = bytearray(SIV_KEY_SIZE)
    try:
        _hkdf(info, salt, SIV_KEY_SIZE).derive_into(subject_key, key)
        return AESSIV(key)
    finally:
        key[:] = bytes(SIV_KEY_SIZE)


def _hkdf(info: bytes, salt: bytes | None, size: int) -> HKDF:
    return HKDF(SHA256(), size, salt=salt, info=b"jinku v1 " + info)


def _bound_to(place: Place) -> list[bytes]:
    return [b"jinku personal value v1", _U32.pack(place.realm), place.key]


def _wrapped_for(realm: int, generation: int, subject_id: bytes) -> list[bytes]:
    return [b"jinku subject key v1", struct.pack(">II", realm, generation), subject_id]


def _set_of(realm: int, generation: int) -> list[bytes]:
    return [b"jinku wrap set v1", struct.pack(">II", realm, generation)]
