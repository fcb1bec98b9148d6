"""Load on a service, through the real portal client: as fast as it goes, or at a rate.

Batches are made before the clock starts, because a real portal's tags make their answers; while it
runs, a batch costs the client what sending costs. Evidence answers one live challenge, which is
made anew in time if a run is longer than the challenge lives.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from jinku.columns import Reads, make_batch
from jinku.portal import Accounts, Handlers, PortalClient, PreparedBatch
from jinku.softtags import SoftTag, answer_many
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import Acknowledgement, Alarm, Challenge, Hello, ReadBatch

RENEW_MARGIN_NS = 5_000_000_000
SPREAD_NS = 50_000_000
FREQUENCIES_KHZ = (920_625, 921_125, 921_625, 922_125)


@dataclass(frozen=True, slots=True)
class Plan:
    """What each portal sends."""

    batch_reads: int
    seconds: float
    # Reads per second of each portal; 0: as fast as it goes.
    rate: float = 0.0
    # Different batches made beforehand, sent in turn.
    variety: int = 16
    # Tags in front of each portal, read again and again; 0: all. A tag that was not read for the
    # quiet time is judged and presented anew, which is other work than reading it.
    near: int = 0
    window: int = 32
    # Seconds between reads of an unregistered tag, each of which must be alarmed; 0: none.
    alarm_every_s: float = 0.0
    antennas: tuple[int, int] = (1, 2)
    # All portals send at the same instants, and alarm at them: no real ones do. Else each has its
    # own place within the period.
    in_step: bool = False


@dataclass
class Timings:
    """Of one portal; seconds by `time.monotonic`."""

    sent_at: dict[int, float] = field(default_factory=dict)
    acknowledged_s: list[float] = field(default_factory=list)
    alarmed_s: list[float] = field(default_factory=list)
    verdicts: dict[str, int] = field(default_factory=dict)
    alarm_due: dict[bytes, float] = field(default_factory=dict)

    def acknowledge(self, acknowledgement: Acknowledgement) -> None:
        now = time.monotonic()
        for batch in acknowledgement.batches:
            sent = self.sent_at.pop(batch.sequence, None)
            if sent is not None:
                self.acknowledged_s.append(now - sent)
            for verdict, count in batch.counts.ListFields():
                self.verdicts[verdict.name] = self.verdicts.get(verdict.name, 0) + count

    def alarm(self, alarm: Alarm) -> None:
        due = self.alarm_due.pop(alarm.identity, None)
        if due is not None:
            self.alarmed_s.append(time.monotonic() - due)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run showed. Times are of the client: from `send` to the answer in hand."""

    seconds: float
    accounts: Accounts
    verdicts: dict[str, int]
    acknowledged_s: tuple[float, ...]
    alarmed_s: tuple[float, ...]
    alarms_missing: int

    @property
    def reads_per_second(self) -> float:
        return self.accounts.acknowledged / self.seconds

    def percentile_ms(self, which: str, percent: float) -> float:
        values = getattr(self, which)
        return float(np.percentile(values, percent)) * 1000 if values else float("nan")


class LoadPortal:
    """One portal that sends batches made beforehand."""

    def __init__(
        self,
        channel: grpc.Channel,
        tags: Sequence[SoftTag],
        plan: Plan,
        first_tag: int = 0,
    ) -> None:
        self.tags = tags
        self.plan = plan
        self.timings = Timings()
        self.challenge = Challenge()
        count = plan.batch_reads
        near = min(plan.near or len(tags), len(tags))
        # Each batch reads the next tags, so that all of them are read before one is read again.
        self.picks = [
            (first_tag + (number * count + np.arange(count)) % near) % len(tags)
            for number in range(plan.variety)
        ]
        self.table = np.frombuffer(b"".join(tag.identity for tag in tags), np.uint8).reshape(
            len(tags), -1
        )
        hello = Hello(
            portal_epoch=time.time_ns(),
            antennas=plan.antennas,
            frequencies_khz=FREQUENCIES_KHZ,
        )
        handlers = Handlers(acknowledgement=self.timings.acknowledge, alarm=self.timings.alarm)
        self.client = PortalClient(channel, hello, handlers, window_max=plan.window)
        self.batches: list[ReadBatch] = []
        # The same, serialised.
        self.prepared: list[PreparedBatch] = []
        self.next = 0

    def prepare(self) -> None:
        """Answers the newest live challenge, for every batch."""
        self.challenge = self.client.wait_challenge()
        self.batches = [self.make(pick) for pick in self.picks]
        self.prepared = [PreparedBatch(batch) for batch in self.batches]
        if not self.next and self.client.limits is not None:
            self.next = self.client.limits.resume_sequence

    def make(self, pick: np.ndarray) -> ReadBatch:
        count = len(pick)
        scheme = self.tags[0].scheme
        reads = Reads(
            identity=self.table[pick],
            antenna=np.resize(np.array(self.plan.antennas, np.uint8), count),
            channel=np.resize(np.arange(len(FREQUENCIES_KHZ), dtype=np.uint8), count),
            rssi_dbm=np.full(count, -60.0),
            time_ns=np.linspace(0, SPREAD_NS, count, endpoint=False).astype(np.int64) + 1,
        )
        if scheme == TagScheme.TAG_SCHEME_TAM1:
            evidence = answer_many(self.tags, pick, self.challenge.challenge)
            return make_batch(reads, scheme, evidence, self.challenge.challenge_id)
        raise ValueError(f"load is made with TAM1 tags, not {TagScheme.Name(scheme)}")

    def is_stale(self) -> bool:
        return time.time_ns() > self.challenge.expires_at_ns - RENEW_MARGIN_NS

    def run(self, start: threading.Barrier, phase: float = 0.0) -> None:
        """Sends from the barrier until the time is over, then waits for the last answer. `phase`,
        from 0 to 1, is its place within the period of batches and of alarms.
        """
        start.wait()
        period = self.plan.batch_reads / self.plan.rate if self.plan.rate else 0.0
        alarm_at = time.monotonic() + self.plan.alarm_every_s * (1 + phase)
        began = time.monotonic() + phase * period
        number = 0
        while (now := time.monotonic()) < began + self.plan.seconds:
            if period:
                wait = began + number * period - now
                if wait > 0:
                    time.sleep(wait)
            if self.is_stale():
                self.prepare()
            place = number % len(self.batches)
            batch = self.prepared[place]
            if self.plan.alarm_every_s and time.monotonic() >= alarm_at:
                alarm_at += self.plan.alarm_every_s
                batch = PreparedBatch(self.with_stranger(self.batches[place]))
            self.send(batch)
            number += 1
        self.client.flush()

    def send(self, batch: PreparedBatch) -> None:
        # Before it goes: the answer may be here before `send` returns.
        self.timings.sent_at[self.next] = time.monotonic()
        self.next = self.client.send_prepared(batch, time.time_ns() - SPREAD_NS) + 1

    def with_stranger(self, batch: ReadBatch) -> ReadBatch:
        """The batch with its last read taken by a tag that nobody registered."""
        changed = ReadBatch()
        changed.CopyFrom(batch)
        stranger = os.urandom(self.table.shape[1])
        changed.identity = batch.identity[: -len(stranger)] + stranger
        self.timings.alarm_due[stranger] = time.monotonic()
        return changed


def measure(portals: Sequence[LoadPortal]) -> Measured:
    """Runs all portals at once; the seconds are from the common start to the last answer."""
    for portal in portals:
        portal.prepare()
    start = threading.Barrier(len(portals) + 1)
    failures: list[BaseException] = []

    def run(portal: LoadPortal, phase: float) -> None:
        try:
            portal.run(start, 0.0 if portal.plan.in_step else phase)
        except Exception as error:
            failures.append(error)

    threads = [
        threading.Thread(target=run, args=(portal, place / len(portals)), daemon=True)
        for place, portal in enumerate(portals)
    ]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    if failures:
        raise failures[0]
    if any(portal.timings.alarm_due for portal in portals):
        time.sleep(1.0)
    return gather(portals, seconds)


def gather(portals: Sequence[LoadPortal], seconds: float) -> Measured:
    accounts = [portal.client.accounts for portal in portals]
    verdicts: dict[str, int] = {}
    for portal in portals:
        for name, count in portal.timings.verdicts.items():
            verdicts[name] = verdicts.get(name, 0) + count
    return Measured(
        seconds=seconds,
        accounts=Accounts(
            taken=sum(one.taken for one in accounts),
            acknowledged=sum(one.acknowledged for one in accounts),
            rejected=sum(one.rejected for one in accounts),
            in_window=sum(one.in_window for one in accounts),
            unheard=sum(one.unheard for one in accounts),
            batches_resent=sum(one.batches_resent for one in accounts),
            streams=sum(one.streams for one in accounts),
        ),
        verdicts=verdicts,
        acknowledged_s=tuple(s for portal in portals for s in portal.timings.acknowledged_s),
        alarmed_s=tuple(s for portal in portals for s in portal.timings.alarmed_s),
        alarms_missing=sum(len(portal.timings.alarm_due) for portal in portals),
    )
