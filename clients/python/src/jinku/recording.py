"""Recorded reads, made into what a portal would send: boxes, antennas, times.

A recording is a CSV (plain or .gz) with the columns `trial_id, room, time_s, antenna, rssi_dbm,
phase_rad, frequency_mhz`. Each trial is one tag's presence; whose tag it is, the caller says.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jinku.columns import Reads
from jinku.errors import JinkuError
from jinku.type.v1.place_pb2 import Antenna
from jinku.type.v1.tag_pb2 import AntennaSide

COLUMNS = {"trial_id", "room", "time_s", "antenna", "rssi_dbm", "phase_rad", "frequency_mhz"}
DEMONSTRATION = "recorded_reads.csv.gz"
INNER, OUTER = AntennaSide.ANTENNA_SIDE_INNER, AntennaSide.ANTENNA_SIDE_OUTER
# The antenna by the chair looks out, those by the bed look in (see demo/ATTRIBUTION.md).
SIDES: Mapping[str, Mapping[int, AntennaSide]] = {
    "S1": {1: INNER, 2: OUTER, 3: INNER, 4: INNER},
    "S2": {1: OUTER, 2: INNER, 3: INNER},
}


class RecordingInvalid(JinkuError):
    """The file is not such a recording; names the line."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One tag's reads, in time order."""

    name: str
    room: str
    time_s: NDArray[np.float64]
    antenna: NDArray[np.uint8]
    channel: NDArray[np.uint8]
    rssi_dbm: NDArray[np.float64]
    phase_turns: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.time_s)


@dataclass(frozen=True, slots=True)
class Recording:
    """Trials and the frequency table that their channels index."""

    trials: tuple[Trial, ...]
    frequencies_khz: tuple[int, ...]

    def rooms(self) -> tuple[str, ...]:
        return tuple(sorted({trial.room for trial in self.trials}))

    def of_room(self, room: str) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.room == room)


@dataclass(frozen=True, slots=True)
class Tracks:
    """Reads of several tags in time order; `which[i]` numbers the tag of read i."""

    reads: Reads
    which: NDArray[np.intp]


def load_demonstration() -> Recording:
    """The excerpt that comes with this package; its attribution is in demo/ATTRIBUTION.md."""
    return parse(resources.files("jinku.demo").joinpath(DEMONSTRATION).read_bytes(), DEMONSTRATION)


def load(path: Path) -> Recording:
    return parse(path.read_bytes(), str(path))


def parse(content: bytes, name: str) -> Recording:
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    rows = csv.DictReader(io.StringIO(content.decode("utf-8")))
    missing = COLUMNS - set(rows.fieldnames or ())
    if missing:
        raise RecordingInvalid(f"{name}: columns missing: {', '.join(sorted(missing))}")
    by_trial: dict[str, list[tuple[float, ...]]] = {}
    rooms: dict[str, str] = {}
    for row in rows:
        try:
            values = (
                float(row["time_s"]),
                int(row["antenna"]),
                round(float(row["frequency_mhz"]) * 1000),
                float(row["rssi_dbm"]),
                float(row["phase_rad"]),
            )
        except (TypeError, ValueError) as error:
            raise RecordingInvalid(f"{name}:{rows.line_num}: {error}") from error
        by_trial.setdefault(row["trial_id"], []).append(values)
        rooms[row["trial_id"]] = row["room"]
    if not by_trial:
        raise RecordingInvalid(f"{name}: no reads")
    table = tuple(sorted({int(row[2]) for reads in by_trial.values() for row in reads}))
    return Recording(
        tuple(make_trial(trial, rooms[trial], by_trial[trial], table) for trial in by_trial), table
    )


def make_trial(
    name: str, room: str, rows: Sequence[tuple[float, ...]], table: tuple[int, ...]
) -> Trial:
    columns = np.array(rows, np.float64)
    columns = columns[np.argsort(columns[:, 0], kind="stable")]
    return Trial(
        name=name,
        room=room,
        time_s=columns[:, 0],
        antenna=columns[:, 1].astype(np.uint8),
        channel=np.searchsorted(np.array(table), columns[:, 2]).astype(np.uint8),
        rssi_dbm=columns[:, 3],
        phase_turns=columns[:, 4] / (2 * math.pi),
    )


def antennas_of(room: str) -> list[Antenna]:
    """The room's antennas as the portal registers them."""
    return [Antenna(port=port, side=side) for port, side in SIDES[room].items()]


def lay_out(
    trials: Sequence[Trial], identities: Sequence[bytes], start_ns: int, speed: float
) -> Tracks:
    """All trials side by side from `start_ns`, `speed` times as fast as they were recorded.

    Identities of several widths are filled up with zeros to the widest.
    """
    counts = [len(trial) for trial in trials]
    which = np.repeat(np.arange(len(trials)), counts)
    seconds = np.concatenate([trial.time_s for trial in trials]) / speed
    order = np.argsort(seconds, kind="stable")
    width = max(map(len, identities))
    padded = b"".join(identity.ljust(width, b"\0") for identity in identities)
    table = np.frombuffer(padded, np.uint8).reshape(len(identities), width)
    which = which[order]
    reads = Reads(
        identity=table[which],
        antenna=np.concatenate([trial.antenna for trial in trials])[order],
        channel=np.concatenate([trial.channel for trial in trials])[order],
        rssi_dbm=np.concatenate([trial.rssi_dbm for trial in trials])[order],
        phase_turns=np.concatenate([trial.phase_turns for trial in trials])[order],
        time_ns=start_ns + np.rint(seconds[order] * 1e9).astype(np.int64),
    )
    return Tracks(reads, which)


def cut(tracks: Tracks, period_ns: int, reads_max: int) -> Iterator[tuple[int, slice]]:
    """Pieces of at most `reads_max` reads within periods, each with the instant it is complete."""
    times = tracks.reads.time_ns
    start = int(times[0])
    last = int(times[-1])
    for begin in range(start, last + 1, period_ns):
        low, high = np.searchsorted(times, [begin, begin + period_ns])
        for first in range(int(low), int(high), reads_max):
            yield begin + period_ns, slice(first, min(first + reads_max, int(high)))
