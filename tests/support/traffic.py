"""Callers that go on through a service's deaths and know exactly what they were told.

What they send follows from its number alone, so that what was not answered is sent again byte for
byte, and what was answered can be asked for again years later.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, NamedTuple

import grpc
import numpy as np

from jinku import receipts
from jinku.calls import path_of
from jinku.errors import from_rpc_error
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.type.v1.command_pb2 import ClientCommandId, DurabilityLevel
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1 import registry_pb2
from jinku.v1.common_pb2 import Outcome
from jinku.v1.portal_pb2 import Hello, ReadBatch, StreamRequest, StreamResponse
from lines import PATH
from registrar import container, freeze, issue, retire, unfreeze
from running import call_bytes
from tag_reference import counter_evidence, tag_key

WELCOME_SECONDS: Final = 20.0
BATCH_SECONDS: Final = 0.003
# Each tag of a gate is seen in so many batches, half of them on either side, then the next one.
VISIT: Final = 20
ACCEPTED: Final = ""
# How a call may end when the service dies, or has stopped itself.
GONE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class Found(AssertionError):
    """Something that must never be: what a campaign looks for."""


class Gone(Exception):
    """The service is not there any more."""


class Told(NamedTuple):
    """What an answer said: where its entry stands, what it holds, and the answer's own digest."""

    entry_index: int
    header_digest: bytes
    answer_digest: bytes


@dataclass
class Clerk:
    """Gives commands one after the other; each is sent until it is answered."""

    number: int
    verifier_key: str
    # The answer to each step.
    told: list[Told] = field(default_factory=list)

    def step(self, step: int) -> tuple[Any, str]:
        """The command of a step, and the reason that it must be refused with."""
        box, act = divmod(step, 8)
        label = f"{self.number}-{box}"
        identity = b"\xe2\x80" + (self.number << 40 | box).to_bytes(10, "big")
        command, reason = [
            (container(label), ACCEPTED),
            (issue(identity, label), ACCEPTED),
            (container(label), "CONTAINER_EXISTS"),
            (freeze(identity), ACCEPTED),
            (freeze(identity), "TAG_ALREADY_FROZEN"),
            (unfreeze(identity), ACCEPTED),
            (retire(identity), ACCEPTED),
            (freeze(identity), "TAG_RETIRED"),
        ][act]
        command.command_id.CopyFrom(ClientCommandId(epoch=1000 + self.number, sequence=step + 1))
        return command, reason

    def body(self, step: int) -> bytes:
        return self.step(step)[0].SerializeToString(deterministic=True)

    def ask(self, channel: grpc.Channel, step: int) -> Told:
        """Send a step. Gone if the service is; Found if the answer is not what it must be."""
        request, reason = self.step(step)
        body = request.SerializeToString(deterministic=True)
        try:
            answer = call_bytes(channel, path_of(request), body)
        except grpc.RpcError as error:
            raise gone(error, f"clerk {self.number}, step {step}") from None
        kind = getattr(registry_pb2, type(request).__name__.replace("Request", "Response"))
        header = self.check(kind.FromString(answer).outcome, body, reason)
        digest = sha256(header.SerializeToString(deterministic=True)).digest()
        return Told(header.index, digest, sha256(answer).digest())

    def check(self, outcome: Outcome, body: bytes, reason: str) -> EntryHeader:
        """The answer proves itself and says what it must."""
        what = f"clerk {self.number}: {body.hex()[:40]}"
        try:
            header = receipts.verify(outcome.receipt, self.verifier_key).header
        except receipts.ReceiptInvalid as error:
            raise Found(f"answered without proof: {what}: {error}") from None
        reasons = [one.name for one in outcome.refused.reasons]
        if reasons != [reason] * bool(reason):
            raise Found(f"decided otherwise: {what}: {reasons}, not {reason or 'accepted'}")
        if header.index != outcome.entry_index or header.request_digest != sha256(body).digest():
            raise Found(f"answered with another's entry: {what}")
        if outcome.level != DurabilityLevel.DURABILITY_LEVEL_LOCAL:
            raise Found(f"answered at another level: {what}")
        return header

    def work(self, channel: grpc.Channel, until: threading.Event) -> None:
        """Until told to stop, or the service is gone."""
        while not until.is_set():
            self.told.append(self.ask(channel, len(self.told)))

    def repeat(self, channel: grpc.Channel, steps: list[int]) -> None:
        """What was answered is answered the same."""
        for step in steps:
            if self.ask(channel, step) != self.told[step]:
                raise Found(f"answered otherwise: clerk {self.number}, step {step}")

    def some(self, chance: random.Random, count: int) -> list[int]:
        """Steps that were answered: the newest, and some of all."""
        answered = len(self.told)
        newest = range(max(0, answered - count), answered)
        return [*newest, *(chance.randrange(answered) for _ in range(count) if answered)]


@dataclass
class Gate:
    """Streams reads of tags that count: in each batch the counter of the one before, and a new one."""

    name: str
    master: bytes
    realm: int
    identities: list[bytes]
    # Base time of each batch that was ever sent, in order; durable are the first so many.
    times: list[int] = field(default_factory=list)
    durable: int = 0
    replays_refused: int = 0

    def __post_init__(self) -> None:
        self._keys = [tag_key(self.master, one, self.realm) for one in self.identities]

    def tag_of(self, sequence: int) -> int:
        return sequence // VISIT % len(self.identities)

    def reads(self, sequence: int) -> list[tuple[int, int]]:
        """Tag and counter: the one of the batch before, which is a replay, then a new one."""
        new = (self.tag_of(sequence), sequence)
        return [(self.tag_of(sequence - 1), sequence - 1), new] if sequence > 1 else [new]

    def batch(self, sequence: int) -> ReadBatch:
        reads = self.reads(sequence)
        antenna = 1 + (sequence % VISIT < VISIT // 2)
        return ReadBatch(
            sequence=sequence,
            base_time_ns=self.times[sequence - 1],
            scheme=TagScheme.TAG_SCHEME_COUNTER_CMAC,
            identity=b"".join(self.identities[tag] for tag, _ in reads),
            evidence=b"".join(counter_evidence(self._keys[tag], count) for tag, count in reads),
            antenna=bytes([antenna] * len(reads)),
            channel=bytes(len(reads)),
            rssi_cdbm=np.full(len(reads), -4500, "<i2").tobytes(),
            time_us=np.arange(len(reads), dtype="<u4").tobytes(),
        )

    def ride(self, channel: grpc.Channel, until: threading.Event) -> None:
        """Stream from where the service wants it, until told to stop or the service is gone."""
        resume: list[int] = []
        welcome = threading.Event()
        over = threading.Event()

        def requests() -> Iterator[bytes]:
            hello = Hello(portal_epoch=1, antennas=[1, 2], frequencies_khz=[920_625])
            yield StreamRequest(hello=hello).SerializeToString()
            welcome.wait(WELCOME_SECONDS)
            sequence = resume[0] if resume else 0
            while sequence and not over.is_set() and not until.is_set():
                if sequence > len(self.times):
                    self.times.append(time.time_ns())
                yield StreamRequest(batch=self.batch(sequence)).SerializeToString()
                sequence += 1
                time.sleep(BATCH_SECONDS)

        open_stream: Any = channel.stream_stream(PATH)
        call = open_stream(requests())
        try:
            for body in call:
                self.hear(StreamResponse.FromString(body), resume)
                if resume:
                    welcome.set()
                if until.is_set():
                    call.cancel()
        except grpc.RpcError as error:
            raise gone(error, self.name) from None
        finally:
            over.set()
            welcome.set()

    def hear(self, response: StreamResponse, resume: list[int]) -> None:
        if response.HasField("welcome"):
            resume.append(response.welcome.resume_sequence)
            if not self.durable < resume[0] <= len(self.times) + 1:
                raise Found(f"lost: {self.name} had batch {self.durable}, resumes at {resume[0]}")
            self.durable = resume[0] - 1
        elif response.HasField("acknowledgement"):
            for one in response.acknowledgement.batches:
                expected = (1, len(self.reads(one.sequence)) - 1)
                if (one.counts.genuine, one.counts.replayed) != expected:
                    raise Found(f"counters: {self.name}, batch {one.sequence}: {one.counts}")
                self.replays_refused += one.counts.replayed
            self.durable = max(self.durable, response.acknowledgement.through_sequence)
        elif response.HasField("rejected"):
            raise Found(f"rejected: {self.name}: {response.rejected}")


def gone(error: grpc.RpcError, who: str) -> Exception:
    """What a broken call means."""
    failed: Any = error
    if failed.code() in GONE:
        return Gone(who)
    return Found(f"failed: {who}: {from_rpc_error(error)}")


def run_all(works: list[Callable[[threading.Event], None]], seconds: float) -> None:
    """Run these side by side until the time is over or the service is gone. Raises what one found."""
    until = threading.Event()
    found: list[BaseException] = []

    def run(work: Callable[[threading.Event], None]) -> None:
        try:
            work(until)
        except Gone:
            pass
        except BaseException as error:
            found.append(error)
        finally:
            until.set()

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    until.wait(seconds)
    until.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a caller hangs"
    if found:
        raise found[0]
