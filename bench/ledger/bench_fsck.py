"""Claims ledger.fsck_verify and ledger.fsck_replay: how quickly a whole ledger is proved.

Verifying is all that `jinkud fsck --hashes-only` does with an opened ledger: entries, nodes,
checkpoints and signatures. Replaying is what the whole check does besides: the tables made again, row
by row, and compared with the stored ones.
"""

from __future__ import annotations

import time

from bench.ledger.realm import REALM, TRUST_DOMAIN, opened
from bench.results import Row, make_row
from core.fsck import Report, fsck
from core.ledger.environment import probe
from core.ledger.ledger import Ledger
from native import cpu

VERIFY, REPLAY = "ledger.fsck_verify", "ledger.fsck_replay"
COMMANDS, COMMANDS_QUICK = 150_000, 600
BATCH = 256


class Stages:
    """Seconds of each stage, told as progress is."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, stage: str, _done: int, _total: int) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def measure(*, quick: bool = False) -> list[Row]:
    with opened() as realm:
        day = realm.day(COMMANDS_QUICK if quick else COMMANDS)
        for at in range(0, len(day), BATCH):
            realm.commit(day[at : at + BATCH])
        realm.close()
        path = realm.directory / "ledger"
        began = time.perf_counter()
        probe(path)
        probed = time.perf_counter() - began
        ledger = Ledger(path, realm.keys, REALM, TRUST_DOMAIN)
        try:
            stages = Stages()
            report = fsck(ledger, stages)
        finally:
            ledger.close()
    return rows_of(report, stages.seconds, probed)


def rows_of(report: Report, seconds: dict[str, float], probed: float) -> list[Row]:
    listed = ", ".join(f"{stage} {spent:.2f} s" for stage, spent in seconds.items())
    note = (
        f"{report.entries:,} entries in {report.checkpoints:,} commits, {report.rows:,} rows: {listed}; "
        f"every page read beforehand by a process of its own: {probed:.2f} s"
    )
    verify = seconds["hashes"] + seconds["checkpoints"]
    replay = seconds["replay"] + seconds["compare"]
    kernel = cpu.best("sha256")
    return [
        make_row(VERIFY, report.entries / verify, "entries/s", note=note, kernel=kernel),
        make_row(REPLAY, report.entries / replay, "entries/s", note=note, kernel=kernel),
    ]
