"""Tags that count: where they begin and end, and what becomes of counters that come too late."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from core.errors import LedgerCorrupt
from core.readlog.layout import COUNTERS, MARKS
from jinku.type.v1.tag_pb2 import TagScheme
from portals import INNER, OUTER, Read, Site, counter_identity, found_site, site_in

TAG = counter_identity(0)
COUNTER = TagScheme.TAG_SCHEME_COUNTER_CMAC


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("counters", "genuine"),
    [([0], 0), ([1], 1), ([0xFFFFFFFF, 0xFFFFFFFF, 0, 1], 1), ([0xFFFFFFFE, 0xFFFFFFFF], 2)],
)
def test_counters_begin_at_one_and_end(site: Site, counters: list[int], genuine: int) -> None:
    stream = site.stream()
    reads = [Read(TAG, OUTER, at, counter=counter) for at, counter in enumerate(counters)]
    counts = stream.send_durable(reads, scheme=COUNTER).counts
    assert (counts.genuine, counts.replayed) == (genuine, len(counters) - genuine)


def test_spooled_counters_of_a_tag_that_was_read_elsewhere_are_alarmed_as_of_then(
    site: Site,
) -> None:
    """By the counter alone they are no better than a recorded frame: docs/portal-protocol.md."""
    spooling, other = site.stream("gate-1"), site.stream("gate-2")
    then_ns = site.now_ns
    site.pass_time(60)
    assert other.send_durable([Read(TAG, OUTER, 0, counter=7)], scheme=COUNTER).counts.genuine == 1
    spooled = [Read(TAG, OUTER, 0, counter=5), Read(TAG, INNER, 500_000, counter=6)]
    told = spooling.send_durable(spooled, scheme=COUNTER, base_time_ns=then_ns)
    assert told.counts.replayed == 2
    (alarm,) = spooling.ear.wait("alarm")
    assert [reason.name for reason in alarm.reasons] == ["TAG_EVIDENCE_REPLAYED"]
    assert alarm.seen_at_ns == then_ns
    site.pass_time(60)
    spooling.send_durable([Read(TAG, OUTER, 0, counter=8)], scheme=COUNTER)
    assert spooling.ear.of("passage") == []


def test_counters_put_back_with_their_sum_do_not_fit_the_batches(tmp_path: Path) -> None:
    """Whoever puts counters back puts their sum back too, and has the batches against him."""
    found_site(tmp_path, counter_tags=1)
    path = tmp_path / "readlog"

    def live(counter: int) -> dict[int, list[tuple[bytes, bytes]]]:
        site = Site(tmp_path).open()
        read = [Read(TAG, OUTER, 0, counter=counter)]
        stream = site.stream(epoch=1)
        assert stream.send_durable(read, scheme=COUNTER).counts.genuine == 1
        site.close()
        with lmdb.open(str(path), max_dbs=16) as env, env.begin() as txn:
            tables = {number: env.open_db(b"%d" % number, txn) for number in (COUNTERS, MARKS)}
            return {number: list(txn.cursor(table)) for number, table in tables.items()}

    before = live(5)
    live(900)
    with lmdb.open(str(path), max_dbs=16) as env:
        for number, rows in before.items():
            table = env.open_db(b"%d" % number)
            with env.begin(write=True, db=table) as txn:
                for key, value in rows:
                    txn.put(key, value)
    site = Site(tmp_path)
    try:
        with pytest.raises(LedgerCorrupt, match="batch 2: is newer than the counters"):
            site.open().stream(epoch=1)
    finally:
        site.close()
