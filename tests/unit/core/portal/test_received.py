"""A batch taken apart where it was received is the batch that the parser reads, or is left to it."""

from __future__ import annotations

import dataclasses
import random

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from core.portal.columns import COLUMNS, Columns, read_columns
from core.portal.received import take_apart
from jinku.v1.portal_pb2 import Hello, Read, ReadBatch, StreamRequest, Tam2Profile

WIDTHS = {1: 0, 2: 16, 3: 12, 4: 48, 5: 11, 6: 20}
TAM1, TAM2, SUN = 2, 4, 5


def make_batch(scheme: int, count: int, seed: int, *, phased: bool = True) -> ReadBatch:
    draw = random.Random(seed).randbytes
    batch = ReadBatch(
        sequence=seed + 1, base_time_ns=10**18 + seed, scheme=scheme,
        challenge_id=draw(9) if scheme in {TAM1, TAM2} else b"",
        identity=draw(count * (7 if scheme == SUN else 12)), evidence=draw(count * WIDTHS[scheme]),
        antenna=draw(count), channel=draw(count), rssi_cdbm=draw(2 * count),
        phase=draw(2 * count) if phased else b"", doppler_chz=draw(2 * count) if phased else b"",
        time_us=draw(4 * count),
    )  # fmt: skip
    if scheme == TAM2:
        batch.tam2_profile = Tam2Profile.TAM2_PROFILE_EPC
        batch.tam2_offset, batch.tam2_block_count = 0, 2
    return batch


def pack(batch: ReadBatch) -> bytes:
    return StreamRequest(batch=batch).SerializeToString()


batches = st.builds(
    make_batch, st.sampled_from(sorted(WIDTHS)), st.integers(1, 300), st.integers(0, 2**16),
    phased=st.booleans(),
)  # fmt: skip


def assert_same(one: Columns, other: Columns) -> None:
    for field in dataclasses.fields(Columns):
        before, after = getattr(one, field.name), getattr(other, field.name)
        if isinstance(before, np.ndarray):
            assert np.array_equal(before, after), field.name
            assert after.dtype == before.dtype
            assert after.flags.aligned
            assert after.flags.c_contiguous
        else:
            assert before == after, field.name


@given(batches)
def test_taken_apart_it_is_the_batch_that_the_parser_reads(batch: ReadBatch) -> None:
    received = pack(batch)
    parted = take_apart(received)
    assert parted is not None
    assert parted.size == parted.batch.ByteSize() < 64
    assert not any(getattr(parted.batch, name) for name in COLUMNS)
    taken = read_columns(parted.batch, 1 << 17, parted.columns)
    assert_same(read_columns(batch, 1 << 17), taken)
    # Nothing was copied that lies where it may be read.
    assert np.shares_memory(taken.identity, np.frombuffer(received, np.uint8))


def assert_no_other_reading(received: bytes) -> None:
    """Either the parser has to look, or it would have read the same."""
    parted = take_apart(received)
    if parted is None:
        return
    whole = ReadBatch()
    whole.CopyFrom(parted.batch)
    for name, column in parted.columns.items():
        setattr(whole, name, bytes(column))
    assert StreamRequest.FromString(received) == StreamRequest(batch=whole)


@given(batches, st.data())
def test_whatever_was_changed_it_is_read_as_the_parser_reads_it(
    batch: ReadBatch, data: st.DataObject
) -> None:
    received = bytearray(pack(batch))
    # Where fields begin there is most to get wrong.
    edges = [0, 1, 2, 3, 4, 10, 20, 30, len(received) - 1]
    at = data.draw(st.sampled_from(edges) | st.integers(0, len(received) - 1))
    received[at % len(received)] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(received)))
    assert_no_other_reading(bytes(received[:cut]))


@given(st.lists(batches, min_size=2, max_size=3))
def test_more_than_one_batch_is_left_to_the_parser(several: list[ReadBatch]) -> None:
    assert take_apart(b"".join(map(pack, several))) is None


def field(key: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes((key, len(body))) + body


def wrap(batch: bytes) -> bytes:
    size = len(batch)
    return bytes((0x12, size & 0x7F | 0x80, size >> 7)) + batch if size > 127 else field(18, batch)


SMALL = make_batch(TAM1, 2, 1).SerializeToString()


@pytest.mark.parametrize(
    "received",
    [
        b"", b"\x12", b"\x12\x80",
        StreamRequest(hello=Hello(portal_epoch=1)).SerializeToString(),
        pack(ReadBatch(sequence=1, rows=[Read(identity=b"1" * 12)])),
        wrap(SMALL + field(0x3A, b"12")),  # antenna twice
        wrap(SMALL + b"\x8a\x01\x01x"),  # a field of a number that there is not
        wrap(SMALL + b"\x08" * 40),  # more numbers than a batch has
        wrap(SMALL + b"\x3a\x05abc"),  # cut off within a column
        wrap(SMALL + b"\x08"),  # cut off within a number
        wrap(SMALL)[:-1],
        wrap(SMALL) + b"\x08\x01",  # something beside the batch
        pack(ReadBatch(antenna=bytes(131_073))),  # more than the schema lets it have
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_the_parser(received: bytes) -> None:
    assert take_apart(wrap(SMALL)) is not None
    assert take_apart(received) is None


@given(st.binary(max_size=200))
def test_other_bytes_are_read_as_the_parser_reads_them(received: bytes) -> None:
    assert_no_other_reading(received)
    assert_no_other_reading(wrap(received))
