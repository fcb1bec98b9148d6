"""A sequence that was taken stands for the batch it came with: nothing of another one is taken for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from core.portal.columns import Columns
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import ReadBatch
from portals import INNER, OUTER, START_NS, Read, Site, eventually, site_in, tam1_identity

BOX, OTHER = tam1_identity(0), tam1_identity(1)
SENT: dict[str, Any] = {
    "scheme": TagScheme.TAG_SCHEME_TAM2, "challenge_id": b"\x01" * 9, "identity": BOX,
    "evidence": bytes(range(32)), "antenna": bytes([OUTER]), "channel": b"\0",
    "rssi_cdbm": b"\0\1", "phase": b"\0\1", "doppler_chz": b"\0\1", "time_us": bytes(4),
    "tam2_profile": 1, "tam2_offset": 0, "tam2_block_count": 1,
}  # fmt: skip
# For each field of Columns, the same batch with another value of it.
OTHERS: dict[str, dict[str, Any]] = {
    "scheme": {"scheme": TagScheme.TAG_SCHEME_TAM1, "evidence": bytes(range(16)),
               "tam2_profile": None, "tam2_offset": None, "tam2_block_count": None},
    # Two ids of which one is the other with a zero behind.
    "challenge_id": {"challenge_id": b"\x01" * 9 + b"\0"},
    "base_time_ns": {"base_time_ns": START_NS - 1},
    "identity": {"identity": OTHER},
    "evidence": {"evidence": bytes(32)},
    "antenna": {"antenna": bytes([INNER])},
    "channel": {"channel": b"\1"},
    "rssi_cdbm": {"rssi_cdbm": b"\0\2"},
    "phase": {"phase": b""},
    "doppler_chz": {"doppler_chz": b""},
    "time_us": {"time_us": b"\1\0\0\0"},
    "tam2_profile": {"tam2_profile": 3},
    "tam2_offset": {"tam2_offset": 77},
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("name", [one.name for one in fields(Columns) if one.init])
def test_batch_that_differs_in_one_field_is_no_repetition(site: Site, name: str) -> None:
    stream = site.stream()
    sent = {"sequence": 1, "base_time_ns": site.now_ns} | SENT
    stream.session.receive(ReadBatch(**sent))
    stream.ear.wait_durable(1)
    stream.session.receive(ReadBatch(**sent))
    eventually(lambda: len(stream.ear.of("acknowledgement")) == 2)
    assert stream.ear.of("acknowledgement")[1].batches[0].duplicate
    stream.session.receive(ReadBatch(**(sent | OTHERS[name])))
    assert stream.ear.rejected() == ["BATCH_SEQUENCE_REUSED"]
    assert site.reads_kept() == {1: 1}


def test_a_read_more_is_no_repetition(site: Site) -> None:
    stream = site.stream()
    batch = stream.batch([Read(BOX, OUTER, 0)])
    stream.session.receive(batch)
    stream.session.receive(
        stream.batch([Read(BOX, OUTER, 0), Read(BOX, OUTER, 0)], base_time_ns=batch.base_time_ns)
    )
    assert stream.ear.rejected() == ["BATCH_SEQUENCE_REUSED"]
