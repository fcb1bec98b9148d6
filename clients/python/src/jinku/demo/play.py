"""What happens at the doors: recorded boxes pass, and four things come that must not."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
import numpy as np

from jinku.columns import Reads, make_batch
from jinku.demo.bank import Bank, make_identity
from jinku.portal import Handlers, PortalClient
from jinku.recording import antennas_of, lay_out
from jinku.replay import Replayer
from jinku.softtags import SoftTag, TagCounters, answer_tam1
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import (
    Acknowledgement,
    Alarm,
    BatchRejected,
    Challenge,
    ChallengePurpose,
    Hello,
    Passage,
    Presentation,
    PresentedTag,
)

Message = TypeVar("Message")

LIVE = ChallengePurpose.CHALLENGE_PURPOSE_LIVE
TAM1 = TagScheme.TAG_SCHEME_TAM1
CASE_READS = 6
CASE_SPAN_NS = 250_000_000
UNKNOWN_NUMBER = 9_001
CHALLENGE_SECONDS_MAX = 25.0
# When nothing was heard for so long after the last read, all passages are decided.
QUIET_SECONDS = 2.5
PASSAGE_SECONDS_MAX = 10.0
BREAK_AT = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """Something that must not pass, when it comes, and the alarm that it must cause."""

    name_zh: str
    name_en: str
    identity: bytes
    reason: ReasonCode
    # Share of the reads after which it comes.
    at: float
    key: bytes
    # It answers the first challenge of the day instead of the newest.
    answers_old: bool = False


def make_cases(tags: Sequence[SoftTag]) -> list[Case]:
    """From three tags of boxes that stay in the vault: one to copy, to record, to freeze."""
    copied, recorded, frozen = tags
    return [
        Case(
            "未登记标签",
            "unknown tag",
            make_identity(UNKNOWN_NUMBER),
            ReasonCode.REASON_CODE_TAG_UNKNOWN,
            0.2,
            os.urandom(16),
        ),
        Case(
            "复制标签(编码正确, 密钥错误)",
            "cloned tag (right EPC, wrong key)",
            copied.identity,
            ReasonCode.REASON_CODE_TAG_EVIDENCE_FORGED,
            0.35,
            os.urandom(16),
        ),
        Case(
            "已冻结款箱",
            "frozen box",
            frozen.identity,
            ReasonCode.REASON_CODE_TAG_FROZEN,
            0.6,
            frozen.key,
        ),
        Case(
            "重放应答(应答旧挑战)",
            "replayed answer (to an older challenge)",
            recorded.identity,
            ReasonCode.REASON_CODE_TAG_EVIDENCE_REPLAYED,
            0.8,
            recorded.key,
            answers_old=True,
        ),
    ]


@dataclass
class Observed:
    """All that one portal was told. Written by the stream's thread, read after it ended."""

    presented: list[PresentedTag] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    rejected: list[BatchRejected] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    challenges: list[Challenge] = field(default_factory=list)
    heard_at: float = 0.0

    def handlers(self) -> Handlers:
        return Handlers(
            acknowledgement=self.acknowledge,
            rejected=self.rejected.append,
            presentation=self.present,
            passage=self.keep(self.passages),
            alarm=self.keep(self.alarms),
            challenge=self.challenges.append,
        )

    def acknowledge(self, acknowledgement: Acknowledgement) -> None:
        for batch in acknowledgement.batches:
            for verdict, count in batch.counts.ListFields():
                self.verdicts[verdict.name] += count

    def present(self, presentation: Presentation) -> None:
        self.heard_at = time.monotonic()
        self.presented.extend(presentation.tags)

    def keep(self, into: list[Message]) -> Callable[[Message], None]:
        def keep(message: Message) -> None:
            self.heard_at = time.monotonic()
            into.append(message)

        return keep


class Door:
    """One portal of the demonstration, from the Hello to the last passage."""

    def __init__(
        self,
        channel: grpc.Channel,
        bank: Bank,
        room: str,
        tags: dict[bytes, SoftTag],
        cases: Sequence[Case],
        counters: TagCounters,
    ) -> None:
        self.trials = bank.recording.of_room(room)
        self.reads_total = sum(map(len, self.trials))
        boxes = bank.of_room(room)
        self.labels = [box.label for box in boxes]
        self.tags = [tags[box.identity] for box in boxes]
        self.cases = sorted(cases, key=lambda case: case.at)
        self.observed = Observed()
        hello = Hello(
            portal_epoch=time.time_ns(),
            antennas=[antenna.port for antenna in antennas_of(room)],
            frequencies_khz=bank.recording.frequencies_khz,
        )
        self.client = PortalClient(channel, hello, self.observed.handlers())
        self.replayer = Replayer(self.client, self.tags, counters)

    def play(self, speed: float, on_reads: Callable[[int], None]) -> None:
        """Plays the room's trials side by side, the cases among them, the line broken once."""
        due = list(self.cases)
        sent = 0
        broken = False

        def after(count: int) -> None:
            nonlocal sent, broken
            sent += count
            on_reads(count)
            while due and sent >= due[0].at * self.reads_total:
                self.inject(due.pop(0))
            if not broken and sent >= BREAK_AT * self.reads_total:
                broken = True
                self.client.break_line()

        self.client.wait_challenge()
        start_ns = time.time_ns()
        tracks = lay_out(self.trials, [tag.identity for tag in self.tags], start_ns, speed)
        self.replayer.play(tracks, after)
        self.client.flush()
        self.wait_for_passages()
        self.client.close()

    def wait_for_passages(self) -> None:
        """Until the service has been silent for a while: tags that are gone were judged."""
        end = time.monotonic() + PASSAGE_SECONDS_MAX
        self.observed.heard_at = time.monotonic()
        while time.monotonic() < min(self.observed.heard_at + QUIET_SECONDS, end):
            time.sleep(0.05)

    def inject(self, case: Case) -> None:
        """A few reads of one tag, seen outside and then inside."""
        challenge = self.newer_challenge() if case.answers_old else self.client.wait_challenge()
        answered = self.first_challenge() if case.answers_old else challenge
        tag = SoftTag(case.identity, TAM1, case.key)
        now_ns = time.time_ns()
        sides = np.array([min(self.ports()), max(self.ports())], np.uint8)
        reads = Reads(
            identity=np.tile(np.frombuffer(case.identity, np.uint8), (CASE_READS, 1)),
            antenna=np.repeat(sides, CASE_READS // 2),
            channel=np.zeros(CASE_READS, np.uint8),
            rssi_dbm=np.full(CASE_READS, -55.0),
            time_ns=np.linspace(now_ns - CASE_SPAN_NS, now_ns, CASE_READS).astype(np.int64),
        )
        evidence = answer_tam1(tag, answered.challenge, CASE_READS)
        self.client.send(make_batch(reads, TAM1, evidence, challenge.challenge_id))

    def ports(self) -> set[int]:
        return {int(port) for trial in self.trials for port in set(trial.antenna.tolist())}

    def first_challenge(self) -> Challenge:
        return next(one for one in self.observed.challenges if one.purpose == LIVE)

    def newer_challenge(self) -> Challenge:
        """A live challenge that is not the first one; the service renews them by itself."""
        end = time.monotonic() + CHALLENGE_SECONDS_MAX
        while time.monotonic() < end:
            challenge = self.client.wait_challenge()
            if challenge.challenge_id != self.first_challenge().challenge_id:
                return challenge
            time.sleep(0.05)
        raise TimeoutError("the service issued no newer challenge")
