"""The bytes of personal values, held to a second reading of docs/formats.md with other libraries."""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import replace
from hashlib import sha256

import pytest
from Crypto.Cipher import AES
from hypothesis import given
from hypothesis import strategies as st

from core.errors import LedgerCorrupt
from core.personal.format import (
    BLOCK,
    SIV_KEY_SIZE,
    Opened,
    Place,
    commit,
    derive_wrapping_keys,
    key_check,
    open_value,
    open_wrap_set,
    seal_value,
    seal_wrap_set,
    unwrap,
    wrap,
)
from core.personal.locked import LockedBytes

REALM, SUBJECT, OTHER = 7, b"S" * 16, b"T" * 16
PLACE = Place(REALM, SUBJECT, 5, 1)
KEY = bytes(range(32))
SECRET = bytearray(range(32, 64))
OPENED = Opened("欧阳娜娜".encode(), b"o" * 32)
COMMITMENT = commit(OPENED.opening, SUBJECT, 1, OPENED.value)


def read_hmac(key: bytes, message: bytes) -> bytes:
    """RFC 2104."""
    block = key.ljust(64, b"\x00")
    inner = sha256(bytes(byte ^ 0x36 for byte in block) + message).digest()
    return sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()


def read_hkdf(secret: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    made, last = b"", b""
    for counter in range(1, 255):
        last = hmac.digest(extracted, last + info + bytes([counter]), "sha256")
        made += last
        if len(made) >= size:
            break
    return made[:size]


def read_siv(key: bytes, associated: list[bytes], sealed: bytes) -> bytes:
    """RFC 5297."""
    cipher = AES.new(key, AES.MODE_SIV)
    for one in associated:
        cipher.update(one)
    return bytes(cipher.decrypt_and_verify(sealed[16:], sealed[:16]))


def test_commitment_is_as_written_down() -> None:
    message = b"jinku commitment v1\x00" + SUBJECT + struct.pack(">I", 1) + OPENED.value
    assert read_hmac(OPENED.opening, message) == COMMITMENT


def test_commitment_binds_to_all_of_it() -> None:
    others = {
        commit(b"p" * 32, SUBJECT, 1, OPENED.value),
        commit(OPENED.opening, OTHER, 1, OPENED.value),
        commit(OPENED.opening, SUBJECT, 2, OPENED.value),
        commit(OPENED.opening, SUBJECT, 1, OPENED.value + b"\x00"),
        commit(OPENED.opening, SUBJECT, 1, b""),
        COMMITMENT,
    }
    assert len(others) == 6


@pytest.mark.parametrize(
    ("opening", "subject"), [(b"o" * 31, SUBJECT), (b"o" * 33, SUBJECT), (b"o" * 32, b"S" * 15)]
)
def test_a_commitment_of_other_sizes_is_none(opening: bytes, subject: bytes) -> None:
    """HMAC pads a short key with zeros: an opening that ends in 00 would have a twin."""
    with pytest.raises(ValueError, match="32 bytes"):
        commit(opening, subject, 1, b"x")


def test_sealed_value_is_as_written_down() -> None:
    sealed = seal_value(KEY, PLACE, OPENED)
    info = b"jinku v1 personal value\x00" + SUBJECT + struct.pack(">I", 1)
    key = read_hkdf(KEY, sealed[:16], info, 64)
    place = SUBJECT + struct.pack(">QI", 5, 1)
    associated = [b"jinku personal value v1", struct.pack(">I", REALM), place]
    plain = read_siv(key, associated, sealed[16:])
    size = struct.pack(">I", len(OPENED.value))
    assert plain.rstrip(b"\x00") == OPENED.opening + size + OPENED.value
    assert len(plain) % BLOCK == 0


@given(st.binary(max_size=400))
def test_what_is_sealed_opens_and_tells_its_blocks_alone(value: bytes) -> None:
    opened = Opened(value, os.urandom(32))
    sealed = seal_value(KEY, PLACE, opened)
    assert open_value(KEY, PLACE, sealed, commit(opened.opening, SUBJECT, 1, value)) == opened
    assert (len(sealed) - 32) % BLOCK == 0
    assert seal_value(KEY, PLACE, opened) != sealed


@pytest.mark.parametrize(
    "place",
    [
        replace(PLACE, realm=8),
        replace(PLACE, subject_id=OTHER),
        replace(PLACE, entry_index=6),
        replace(PLACE, field=2),
    ],
)
def test_a_value_moved_elsewhere_does_not_open(place: Place) -> None:
    sealed = seal_value(KEY, PLACE, OPENED)
    with pytest.raises(LedgerCorrupt, match="does not open"):
        open_value(KEY, place, sealed, COMMITMENT)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 159])
def test_a_value_that_was_cut_off_does_not_open(size: int) -> None:
    sealed = seal_value(KEY, PLACE, OPENED)
    assert len(sealed) == 160
    with pytest.raises(LedgerCorrupt, match="does not open"):
        open_value(KEY, PLACE, sealed[:size], COMMITMENT)


def test_no_bit_of_a_sealed_value_can_be_changed() -> None:
    sealed = seal_value(KEY, PLACE, OPENED)
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(LedgerCorrupt):
            open_value(KEY, PLACE, bytes(changed), COMMITMENT)


def test_a_value_that_the_journal_does_not_commit_to_is_never_given() -> None:
    """Whoever has the subject's key can seal another value: the commitment tells."""
    other = Opened("李四".encode(), OPENED.opening)
    with pytest.raises(LedgerCorrupt, match="not the value that the journal commits to"):
        open_value(KEY, PLACE, seal_value(KEY, PLACE, other), COMMITMENT)


def keys() -> tuple[memoryview, memoryview]:
    view = LockedBytes(2 * SIV_KEY_SIZE).view
    wrapping, wrap_set = view[:SIV_KEY_SIZE], view[SIV_KEY_SIZE:]
    derive_wrapping_keys(SECRET, wrapping, wrap_set)
    return wrapping, wrap_set


def test_wrapped_key_is_as_written_down() -> None:
    wrapping, wrap_set = keys()
    assert bytes(wrapping) == read_hkdf(bytes(SECRET), b"", b"jinku v1 wrapping", 64)
    assert bytes(wrap_set) == read_hkdf(bytes(SECRET), b"", b"jinku v1 wrap set", 64)
    numbers = struct.pack(">II", REALM, 3)
    associated = [b"jinku subject key v1", numbers, SUBJECT]
    assert read_siv(bytes(wrapping), associated, wrap(wrapping, REALM, 3, SUBJECT, KEY)) == KEY
    sealed = seal_wrap_set(wrap_set, REALM, 3, b"packed")
    assert read_siv(bytes(wrap_set), [b"jinku wrap set v1", numbers], sealed) == b"packed"
    info = b"jinku v1 wrapping key check\x00" + numbers
    assert key_check(SECRET, REALM, 3) == read_hkdf(bytes(SECRET), b"", info, 16)


@pytest.mark.parametrize(
    ("realm", "generation", "subject"), [(8, 3, SUBJECT), (REALM, 4, SUBJECT), (REALM, 3, OTHER)]
)
def test_a_key_wrapped_for_another_does_not_open(
    realm: int, generation: int, subject: bytes
) -> None:
    wrapping, wrap_set = keys()
    wrapped = wrap(wrapping, REALM, 3, SUBJECT, KEY)
    with pytest.raises(LedgerCorrupt, match=f"does not open under wrapping key {generation}"):
        unwrap(wrapping, realm, generation, subject, wrapped)
    with pytest.raises(LedgerCorrupt):
        unwrap(wrap_set, REALM, 3, SUBJECT, wrapped)
    sealed = seal_wrap_set(wrap_set, REALM, 3, b"packed")
    if subject == SUBJECT:
        assert open_wrap_set(wrap_set, realm, generation, sealed) is None
    assert open_wrap_set(wrap_set, REALM, 3, sealed[:-1]) is None


def test_nothing_secret_is_printed() -> None:
    assert "欧" not in repr(OPENED)
    assert repr(OPENED.value) not in repr(OPENED)
    assert repr(OPENED.opening) not in repr(OPENED)


def test_locked_memory_is_locked_and_wiped() -> None:
    before = locked_kib()
    memory = LockedBytes(SIV_KEY_SIZE)
    memory.view[:] = b"k" * SIV_KEY_SIZE
    assert locked_kib() > before
    view = memory.view
    memory.wipe()
    assert bytes(view) == bytes(SIV_KEY_SIZE)


def locked_kib() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        (line,) = [line for line in status if line.startswith("VmLck")]
    return int(line.split()[1])
