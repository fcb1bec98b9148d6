"""The per-portal tracks: what one holds, when it ends, and that it is bounded."""

from __future__ import annotations

import numpy as np
import pytest

from native.tracks import INNER, NO_PEAK, OUTER, TRACK, Tracks

SIDES = np.zeros(256, np.uint8)
SIDES[1], SIDES[2] = INNER, OUTER
Read = tuple[int, int, int, int]  # number, antenna, rssi, microseconds


def update(tracks: Tracks, reads: list[Read], base: int = 0, verdict: int = 1) -> list[int]:
    numbers, antennas, rssi, times = zip(*reads, strict=True) if reads else ((), (), (), ())
    return tracks.update(
        np.array(numbers, np.uint32),
        np.full(len(reads), verdict, np.uint8),
        np.array(antennas, np.uint8),
        SIDES,
        np.array(rssi, np.int16),
        np.array(times, np.uint32),
        base,
    ).tolist()


def test_one_track() -> None:
    tracks = Tracks(10)
    reads = [
        (5, 1, -6000, 10),
        (5, 2, -5000, 20),
        (5, 2, -5500, 5),
        (5, 0, -100, 90),
        (5, 1, -7000, 31),
    ]
    assert update(tracks, reads, base=1_000_000) == [0]
    assert len(tracks) == 1
    (row,) = tracks.finish(2_000_000)
    assert dict(zip(TRACK.names or (), row.item(), strict=True)) == {
        "first_ns": 1_005_000,
        "last_ns": 1_090_000,
        "mean_inner_ns": 1_020_500,
        "mean_outer_ns": 1_012_500,
        "number": 5,
        "reads_inner": 2,
        "reads_outer": 2,
        "peak_inner_cdbm": -6000,
        "peak_outer_cdbm": -5000,
        "first_side": OUTER,
        "last_side": INNER,
    }
    assert len(tracks) == 0


def test_only_genuine_reads_count() -> None:
    tracks = Tracks(10)
    for verdict in (0, 2, 3, 4, 5, 6, 7):
        assert update(tracks, [(1, 1, 0, 0)], verdict=verdict) == []
    assert len(tracks) == 0


def test_reads_without_a_side() -> None:
    tracks = Tracks(1)
    update(tracks, [(1, 0, -100, 7)])
    (row,) = tracks.finish(10**9)
    assert (row["first_side"], row["last_side"], row["first_ns"]) == (0, 0, 7000)
    assert (row["peak_inner_cdbm"], row["peak_outer_cdbm"]) == (NO_PEAK, NO_PEAK)


def test_equal_times_keep_the_order_of_the_rows() -> None:
    tracks = Tracks(1)
    update(tracks, [(1, 1, 0, 7), (1, 2, 0, 7)])
    (row,) = tracks.finish(10**9)
    assert (row["first_side"], row["last_side"]) == (INNER, OUTER)


def test_finish_takes_the_quiet_ones_in_order_of_appearance() -> None:
    tracks = Tracks(100)
    assert update(tracks, [(9, 1, 0, 1), (3, 1, 0, 2), (9, 1, 0, 50), (7, 1, 0, 3)]) == [0, 1, 3]
    assert tracks.finish(2000)["number"].tolist() == []
    assert tracks.finish(2001)["number"].tolist() == [3]
    assert update(tracks, [(3, 1, 0, 60), (9, 1, 0, 61)]) == [0]
    assert tracks.finish(10**9)["number"].tolist() == [9, 7, 3]
    assert update(tracks, [(3, 1, 0, 70)]) == [0]


def test_bounded() -> None:
    tracks = Tracks(3)
    reads = [(number, 1, 0, number) for number in range(5)]
    assert update(tracks, reads) == [0, 1, 2]
    assert update(tracks, reads) == []
    assert (len(tracks), tracks.overflow) == (3, 4)
    tracks.finish(1)
    assert update(tracks, [(4, 1, 0, 4)]) == [0]
    assert tracks.overflow == 4


def test_latest_times_do_not_overflow() -> None:
    tracks = Tracks(1)
    base = 0x7000000000000000
    update(tracks, [(1, 1, 0, 2**32 - 1)] * 1000, base=base)
    (row,) = tracks.finish(2**63 - 1)
    assert row["last_ns"] == row["mean_inner_ns"] == base + (2**32 - 1) * 1000


def test_arguments_that_do_not_fit() -> None:
    for capacity in (0, 2**28 + 1, 1.0, None):
        with pytest.raises(ValueError, match="^capacity: expected"):
            Tracks(capacity)  # type: ignore[arg-type]
    tracks = Tracks(1)
    good = {
        "numbers": np.zeros(2, np.uint32),
        "verdicts": np.zeros(2, np.uint8),
        "antennas": np.zeros(2, np.uint8),
        "sides": SIDES,
        "rssi_cdbm": np.zeros(2, np.int16),
        "time_us": np.zeros(2, np.uint32),
        "base_time_ns": 0,
    }
    tracks.update(**good)  # type: ignore[arg-type]
    for named, value in (
        ("numbers", np.zeros(2, np.int32)),
        ("verdicts", np.zeros(3, np.uint8)),
        ("antennas", np.zeros(2, np.uint16)),
        ("sides", np.full(256, 3, np.uint8)),
        ("sides", SIDES[:9]),
        ("rssi_cdbm", np.zeros(4, np.int16)[::2]),
        ("time_us", np.zeros(2, ">u4")),
        ("base_time_ns", -1),
        ("base_time_ns", 2**63),
    ):
        with pytest.raises(ValueError, match=f"^{named}: expected"):
            tracks.update(**{**good, named: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^quiet_before_ns: expected"):
        tracks.finish(2**63)
