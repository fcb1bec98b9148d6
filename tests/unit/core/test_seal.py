"""Sealed rows open at their own place only, and natural identifiers are never keys."""

from __future__ import annotations

import pytest

from core.errors import LedgerCorrupt
from core.ledger.seal import Sealer

SEALER = Sealer(bytes(range(64)), bytes(32), 1)


def test_deterministic_and_bound_to_its_place() -> None:
    sealed = SEALER.seal(7, b"key", b"value")
    assert sealed == SEALER.seal(7, b"key", b"value")
    assert SEALER.open(7, b"key", sealed) == b"value"
    assert b"value" not in sealed
    for number, key in ((8, b"key"), (7, b"kez")):
        with pytest.raises(LedgerCorrupt, match=r"does not open"):
            SEALER.open(number, key, sealed)
    with pytest.raises(LedgerCorrupt):
        Sealer(bytes(range(64)), bytes(32), 2).open(7, b"key", sealed)


def test_every_flipped_bit_is_found() -> None:
    sealed = SEALER.seal(1, b"k", b"")
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(LedgerCorrupt):
            SEALER.open(1, b"k", bytes(changed))
    for cut in range(len(sealed)):
        with pytest.raises(LedgerCorrupt):
            SEALER.open(1, b"k", sealed[:cut])


def test_empty_values_are_values() -> None:
    assert SEALER.open(1, b"k", SEALER.seal(1, b"k", b"")) == b""


def test_blinding_depends_on_kind_and_key() -> None:
    assert SEALER.blind("a", b"x") != SEALER.blind("b", b"x")
    assert SEALER.blind("a", b"x") != Sealer(bytes(range(64)), bytes([1]) * 32, 1).blind("a", b"x")
    assert len(SEALER.blind("a", b"x")) == 32
