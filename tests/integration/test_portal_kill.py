"""A service killed while a portal streams: no read lost or doubled, each passage recorded once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from core.fsck import fsck
from core.keys import RealmKeys
from core.ledger.tables import IndexKind
from core.readlog.log import ReadLog
from grpc_api.founding import read_log_path
from grpc_api.service import open_ledger
from jinku.event.v1.event_pb2 import Events
from jinku.type.v1.tag_pb2 import Direction
from jinku.v1.portal_pb2 import Challenge, ReadBatch, StreamRequest, StreamResponse
from lines import HELLO, PATH, open_channel
from portals import tam1_identity
from process import daemon
from registrar import container, institution, issue, portal, vault
from running import REGISTRY, call_bytes, found, serving
from soak import how_many
from tag_reference import tag_key, tam1_response

TAGS = 6
BATCHES = 240
BATCH_NS = 100_000_000
# A tag crosses in one second and is away for three.
PERIOD, CROSSING = 40, 10


class Walks:
    """The same reads for a sequence, however often it is asked: evidence answers one challenge."""

    def __init__(self, master: bytes, realm: int, challenge: Challenge, start_ns: int) -> None:
        self.challenge = challenge
        self.start_ns = start_ns
        self.identities = [tam1_identity(number) for number in range(TAGS)]
        self.evidence = [
            tam1_response(tag_key(master, identity, realm), challenge.challenge)
            for identity in self.identities
        ]

    def reads(self, sequence: int) -> list[tuple[int, int, int]]:
        """Tag, antenna, µs."""
        found = []
        for tag in range(TAGS):
            crossing, phase = divmod(sequence - 1 + 5 * tag, PERIOD)
            if phase < CROSSING:
                early = phase < CROSSING // 2
                antenna = 1 + (early == bool(crossing % 2))
                found += [(tag, antenna, tag), (tag, antenna, 50_000 + tag)]
        # A bare read that says which batch it is of.
        return found or [(0, 255, sequence)]

    def batch(self, sequence: int) -> bytes:
        reads = self.reads(sequence)
        batch = ReadBatch(
            sequence=sequence,
            base_time_ns=self.start_ns + sequence * BATCH_NS,
            scheme="TAG_SCHEME_TAM1",
            challenge_id=self.challenge.challenge_id,
            identity=b"".join(self.identities[tag] for tag, _, _ in reads),
            evidence=b"".join(self.evidence[tag] for tag, _, _ in reads),
            antenna=bytes(antenna for _, antenna, _ in reads),
            channel=bytes(len(reads)),
            rssi_cdbm=np.full(len(reads), -4500, "<i2").tobytes(),
            time_us=np.array([us for _, _, us in reads], "<u4").tobytes(),
        )
        return StreamRequest(batch=batch).SerializeToString()

    def passages(self) -> int:
        """How many crossings there are, the last of them cut off by the end of the walk or not."""
        seen = {
            (tag, (sequence - 1 + 5 * tag) // PERIOD)
            for sequence in range(1, BATCHES + 1)
            for tag, antenna, _ in self.reads(sequence)
            if antenna != 255
        }
        return len(seen)


@pytest.fixture
def realm(tmp_path: Path) -> tuple[Path, Any]:
    """A founded realm with a portal and boxes; its directory and settings."""
    directory = found(tmp_path)
    with serving(directory) as running:
        channel = running.registrar()
        requests: list[Any] = [institution(), vault(), portal("gate-1")]
        for number in range(TAGS):
            requests += [container(f"K-{number}"), issue(tam1_identity(number), f"K-{number}")]
        for request in requests:
            request.command_id.CopyFrom(running.command_id())
            method = type(request).__name__.removesuffix("Request")
            call_bytes(channel, REGISTRY + method, request.SerializeToString())
        running.issue("portal", "gate-1")
        return directory, running.settings


class Journey:
    """A portal that lives through many services."""

    def __init__(self, directory: Path, settings: Any) -> None:
        self.directory = directory
        self.realm = settings.realm.number
        keys = settings.keys.directory / "tag-masters"
        (self.master,) = [path.read_bytes() for path in keys.iterdir()]
        self.walks: Walks | None = None
        self.durable = 0

    def ride(self, target: str, until: threading.Event) -> None:
        """Stream from where the service wants it, until all is sent or the service is gone."""
        with open_channel(target, self.directory) as channel:
            started = threading.Event()
            resume = [0]

            def requests() -> Iterator[bytes]:
                yield HELLO.SerializeToString()
                started.wait(10)
                assert self.walks is not None
                for sequence in range(resume[0], BATCHES + 1):
                    yield self.walks.batch(sequence)
                    time.sleep(0.002)

            call = channel.stream_stream(PATH)(requests())
            try:
                for body in call:
                    self.hear(StreamResponse.FromString(body), resume, started)
                until.set()
            except grpc.RpcError:
                started.set()

    def hear(self, response: StreamResponse, resume: list[int], started: threading.Event) -> None:
        if response.HasField("welcome"):
            resume[0] = response.welcome.resume_sequence
            assert resume[0] > self.durable
            if self.walks is not None:
                started.set()
        elif response.HasField("challenge") and response.challenge.purpose == 2:
            if self.walks is None:
                start_ns = time.time_ns() - 3_600_000_000_000
                self.walks = Walks(self.master, self.realm, response.challenge, start_ns)
            started.set()
        elif response.HasField("acknowledgement"):
            self.durable = max(self.durable, response.acknowledgement.through_sequence)
        assert not response.HasField("rejected")


def campaign(directory: Path, settings: Any, seed: int) -> Journey:
    chance = random.Random(seed)
    journey = Journey(directory, settings)
    over = threading.Event()
    kills = 0
    while not over.is_set():
        with daemon(directory / "jinku.toml") as service:
            if kills < 5:
                seconds = chance.uniform(0.05, 0.35)
                killer = threading.Timer(seconds, service.process.kill)
                killer.start()
            journey.ride(service.target, over)
        kills += 1
        assert kills < 12
    return journey


def check(directory: Path, settings: Any, journey: Journey) -> None:
    keys = RealmKeys.load(settings.keys.directory)
    ledger = open_ledger(settings, keys)
    log = ReadLog(read_log_path(settings), keys.readlog_key, map_gib=1)
    walks = journey.walks
    assert walks is not None
    try:
        with ledger.read() as state:
            portal_id = state.find(IndexKind.PORTAL_NAME, b"gate-1")
        assert portal_id is not None
        kept = dict(log.batches(portal_id, 1))
        assert list(kept) == list(range(1, BATCHES + 1))
        for sequence, block in kept.items():
            reads = walks.reads(sequence)
            assert block.columns.antenna.tolist() == [antenna for _, antenna, _ in reads]
            assert block.columns.time_us.tolist() == [us for _, _, us in reads]
            assert block.verdicts.tolist() == [7 if a == 255 else 1 for _, a, _ in reads]
        events = [
            event
            for _, entry in ledger.entries()
            for event in Events.FromString(entry.events).events
        ]
        recorded = [
            event.passage_recorded for event in events if event.HasField("passage_recorded")
        ]
        times = Counter((one.tag_id, one.first_read_ns) for one in recorded)
        assert max(times.values()) == 1
        assert len(recorded) == walks.passages()
        whole = [one for one in recorded if one.reads_inner == one.reads_outer == CROSSING]
        assert {one.direction for one in whole} == {
            Direction.DIRECTION_IN, Direction.DIRECTION_OUT,
        }  # fmt: skip
        assert fsck(ledger).entries == ledger.size
    finally:
        log.start()
        log.close()
        ledger.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_while_streaming(realm: tuple[Path, Any], seed: int) -> None:
    directory, settings = realm
    check(directory, settings, campaign(directory, settings, seed))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 100 + how_many(20)))
def test_killed_while_streaming_often(realm: tuple[Path, Any], seed: int) -> None:
    directory, settings = realm
    check(directory, settings, campaign(directory, settings, seed))
