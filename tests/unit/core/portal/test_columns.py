"""Columns and rows of a batch, and the same as the read log keeps them."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from core.errors import LedgerCorrupt
from core.portal.columns import BatchFault, Columns, read_columns
from core.readlog.layout import (  # fmt: skip
    Basis,
    Block,
    Position,
    pack_block,
    pack_position,
    unpack_block,
    unpack_position,
)
from jinku.v1.portal_pb2 import Read, ReadBatch

WIDTHS = {1: 0, 2: 16, 3: 12, 4: 48, 5: 11, 6: 20}
TAM1, TAM2, SUN = 2, 4, 5


@st.composite
def row_batches(draw: st.DrawFn) -> ReadBatch:
    """Batches as rows; phase and Doppler are given by all or by none."""
    scheme = draw(st.sampled_from(sorted(WIDTHS)))
    width = 7 if scheme == SUN else draw(st.sampled_from([7, 8, 12, 16]))
    phased = draw(st.booleans())
    rows = draw(
        st.lists(
            st.builds(
                Read,
                identity=st.binary(min_size=width, max_size=width),
                evidence=st.binary(min_size=WIDTHS[scheme], max_size=WIDTHS[scheme]),
                antenna=st.integers(0, 255),
                channel=st.integers(0, 255),
                rssi_cdbm=st.integers(-(2**15), 2**15 - 1),
                phase=st.integers(1, 2**16 - 1) if phased else st.just(0),
                doppler_chz=st.integers(1, 2**15 - 1) if phased else st.just(0),
                time_us=st.integers(0, 2**32 - 1),
            ),
            min_size=1,
            max_size=8,
        )
    )
    batch = ReadBatch(
        sequence=1, base_time_ns=1, scheme=scheme, rows=rows,
        challenge_id=b"x" * 9 if scheme in {TAM1, TAM2} else b"",
    )  # fmt: skip
    if scheme == TAM2:
        batch.tam2_profile = draw(st.sampled_from([1, 2, 3]))
        batch.tam2_offset = draw(st.integers(0, 4095))
        batch.tam2_block_count = 2
    return batch


def as_columns(batch: ReadBatch) -> ReadBatch:
    rows = batch.rows
    phased = any(row.phase for row in rows)
    columns = ReadBatch(
        sequence=1, base_time_ns=1, scheme=batch.scheme, challenge_id=batch.challenge_id,
        identity=b"".join(row.identity for row in rows),
        evidence=b"".join(row.evidence for row in rows),
        antenna=bytes(row.antenna for row in rows),
        channel=bytes(row.channel for row in rows),
        rssi_cdbm=np.array([row.rssi_cdbm for row in rows], "<i2").tobytes(),
        phase=np.array([row.phase for row in rows], "<u2").tobytes() if phased else b"",
        doppler_chz=np.array([r.doppler_chz for r in rows], "<i2").tobytes() if phased else b"",
        time_us=np.array([row.time_us for row in rows], "<u4").tobytes(),
    )  # fmt: skip
    for name in ("tam2_profile", "tam2_offset", "tam2_block_count"):
        if batch.HasField(name):
            setattr(columns, name, getattr(batch, name))
    return columns


def assert_same(left: Columns, right: Columns) -> None:
    for field in dataclasses.fields(Columns):
        mine, theirs = getattr(left, field.name), getattr(right, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype
            assert mine.flags.c_contiguous
            assert np.array_equal(mine, theirs)
        else:
            assert mine == theirs


@given(row_batches())
def test_rows_and_columns_are_the_same(batch: ReadBatch) -> None:
    assert_same(read_columns(batch, 8), read_columns(as_columns(batch), 8))


@given(row_batches(), st.data())
def test_blocks_come_back(batch: ReadBatch, data: st.DataObject) -> None:
    columns = read_columns(batch, 8)
    verdicts = np.array([data.draw(st.integers(1, 7)) for _ in batch.rows], np.uint8)
    known = np.zeros(256, np.uint8)
    known[data.draw(st.lists(st.integers(0, 255)))] = 1
    basis = Basis(7, 8, 9, bytes(range(32)), data.draw(st.booleans()))
    packed = pack_block(Block(columns, verdicts, 5, 2, known, 256, basis))
    block = unpack_block(packed)
    assert_same(block.columns, columns)
    assert np.array_equal(block.verdicts, verdicts)
    assert np.array_equal(block.known_antennas, known)
    assert (block.received_ns, block.challenge_state, block.channel_count) == (5, 2, 256)
    assert block.basis == basis
    for damaged in (packed[:-1], packed + b"x", b"\x01" + packed[1:], b""):
        with pytest.raises(LedgerCorrupt):
            unpack_block(damaged)


@given(st.binary(max_size=64), st.binary(max_size=64), st.binary(max_size=16), st.integers(0, 7))
def test_any_bytes_are_columns_or_a_reason(
    identity: bytes, evidence: bytes, antenna: bytes, scheme: int
) -> None:
    batch: Any = ReadBatch(
        sequence=1, base_time_ns=1, scheme=scheme, identity=identity, evidence=evidence,  # type: ignore[arg-type]
        antenna=antenna, channel=antenna, rssi_cdbm=antenna * 2, time_us=antenna * 4,
    )  # fmt: skip
    fault = None
    try:
        columns = read_columns(batch, 8)
    except BatchFault as raised:
        fault = raised.reason
    if fault is None:
        assert len(columns) == len(antenna)
    else:
        assert fault.item
        assert 501 <= fault.code <= 514


def test_position_comes_back() -> None:
    position = Position(2**64 - 1, 2, -3, 4, 5, 6, 7, 8, bytes(range(32)))
    assert unpack_position(pack_position(position)) == position
    with pytest.raises(LedgerCorrupt):
        unpack_position(b"\x01")
