"""Starts of a service with many tags: from the snapshot or the tables, always the same answers; what
a tag has counted is never taken twice, whatever snapshot lies there."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from bench.large_realm import PORTAL, fill, identity_of, label_of
from core.keys import load_tag_masters
from core.settings import Settings
from grpc_api.certificates import CertificateFiles, DemonstrationCa
from grpc_api.config import load_settings
from grpc_api.founding import issue, tag_index_path
from grpc_api.personalise import diversify
from grpc_api.service import open_ledger
from jinku.channel import Connection
from jinku.columns import Reads, make_batch
from jinku.commands import CommandIds
from jinku.errors import JinkuError, require_accepted
from jinku.portal import Handlers, PortalClient
from jinku.registry import RegistryClient
from jinku.softtags import SoftTag, answer_tam1, make_frame, make_sun
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import Acknowledgement, Hello
from jinku.v1.registry_pb2 import FreezeTagRequest, IssueTagRequest
from process import Daemon, daemon
from running import found, wait_until
from soak import how_many

TAM1, SUN = TagScheme.TAG_SCHEME_TAM1, TagScheme.TAG_SCHEME_SUN
COUNTING = (TagScheme.TAG_SCHEME_COUNTER_CMAC, SUN, TagScheme.TAG_SCHEME_COUNTER_CMAC_16)
# More than a start reads row by row without leaving a snapshot.
TAGS = 5_000
HELLO = Hello(portal_epoch=1, antennas=[1, 2], frequencies_khz=[920_625])
# A round of frames: so many tags of each scheme that counts, three frames of each.
TOLD, FRAMES = 4, 3


def scheme_of(number: int) -> TagScheme:
    return COUNTING[number % 6] if number % 6 < len(COUNTING) else TAM1


class Realm:
    """A realm of many tags, the keys of which are known here."""

    def __init__(self, tmp_path: Path) -> None:
        self.directory = found(tmp_path)
        self.config = self.directory / "jinku.toml"
        self.settings: Settings = load_settings(self.config, {})
        ledger = open_ledger(self.settings)
        try:
            fill(ledger, TAGS, scheme_of)
        finally:
            ledger.close()
        ((self.realm, _, self.master),) = load_tag_masters(self.settings.keys.directory)
        self.snapshot = tag_index_path(self.settings)
        certificates = self.directory / "certificates"
        issue(DemonstrationCa(certificates), self.settings, "portal", PORTAL)

    def tag(self, number: int) -> SoftTag:
        identity = identity_of(number, scheme_of(number))
        return SoftTag(identity, scheme_of(number), self.key(identity))

    def key(self, identity: bytes) -> bytes:
        return diversify(bytes(self.master), identity, self.realm)

    def connect(self, target: str, name: str) -> Connection:
        certificates = self.directory / "certificates"
        files = CertificateFiles.named(certificates, name)
        return Connection(target, files.certificate, files.private_key, certificates / "ca.pem")

    @contextmanager
    def registry(self, target: str) -> Iterator[RegistryClient]:
        with self.connect(target, "service-registrar").open() as channel:
            yield RegistryClient(channel, CommandIds(self.directory / "commands.json"))


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    return Realm(tmp_path)


class Stream:
    """The portal's stream of one service, with the verdicts of each batch that is durable."""

    def __init__(self, realm: Realm, target: str) -> None:
        self.verdicts: dict[int, Counter[str]] = {}
        self.channel: grpc.Channel = realm.connect(target, f"portal-{PORTAL}").open()
        self.client = PortalClient(
            self.channel, HELLO, Handlers(acknowledgement=self.hear), backoff_s=60, backoff_max_s=60
        )

    def __enter__(self) -> Stream:
        self.challenge = self.client.wait_challenge()
        return self

    def __exit__(self, *failure: object) -> None:
        self.client.abandon()
        self.channel.close()

    def hear(self, acknowledgement: Acknowledgement) -> None:
        for batch in acknowledgement.batches:
            self.verdicts[batch.sequence] = Counter(
                {verdict.name: count for verdict, count in batch.counts.ListFields()}
            )

    def send(self, frames: list[tuple[SoftTag, int]]) -> dict[int, list[tuple[SoftTag, int]]]:
        """A batch for each scheme: what is in each, by its sequence. A counter of 0: TAM1."""
        sent = {}
        for scheme in sorted({tag.scheme for tag, _ in frames}):
            part = [one for one in frames if one[0].scheme == scheme]
            evidence = [self.evidence(tag, counter) for tag, counter in part]
            reads = Reads(
                identity=np.array([list(tag.identity) for tag, _ in part], np.uint8),
                antenna=np.ones(len(part), np.uint8),
                channel=np.zeros(len(part), np.uint8),
                rssi_dbm=np.full(len(part), -50.0),
                time_ns=np.full(len(part), time.time_ns()),
            )
            rows = np.frombuffer(b"".join(evidence), np.uint8).reshape(len(part), -1)
            challenge_id = self.challenge.challenge_id if scheme == TAM1 else b""
            sent[self.client.send(make_batch(reads, part[0][0].scheme, rows, challenge_id))] = part
        return sent

    def evidence(self, tag: SoftTag, counter: int) -> bytes:
        if tag.scheme == TAM1:
            return answer_tam1(tag, self.challenge.challenge).tobytes()
        return make_sun(tag, counter) if tag.scheme == SUN else make_frame(tag, counter)

    def judge(self, *frames: tuple[SoftTag, int]) -> Counter[str]:
        """What all of them are found to be."""
        sent = self.send(list(frames))
        wait_until(lambda: sent.keys() <= self.verdicts.keys())
        return sum((self.verdicts[sequence] for sequence in sent), Counter())


def filled(service: Daemon) -> tuple[str, str, int]:
    """Where the index came from at the start, why, and how many entries it looked at."""
    (line,) = [line for line in service.events() if line["event"] == "tag index filled"]
    return line["where"], line["reason"], line["count"]


def wait_saved(service: Daemon) -> None:
    wait_until(lambda: any(line["event"] == "tag index saved" for line in service.events()))


def test_from_the_tables_then_from_the_snapshot(realm: Realm) -> None:
    frozen, known, fresh = realm.tag(3), realm.tag(4), b"\xee" * 12
    counting = realm.tag(1)
    with daemon(realm.config) as service:
        assert filled(service) == ("tables", "there is none", 0)
        wait_saved(service)
        with Stream(realm, service.target) as stream:
            assert stream.judge((frozen, 0), (known, 0), (counting, 5)) == {"genuine": 3}
        service.process.kill()
    with daemon(realm.config) as service:
        assert filled(service)[:2] == ("snapshot", "")
        with realm.registry(service.target) as registry:
            freeze = FreezeTagRequest(identity=frozen.identity, note="lost")
            require_accepted(registry.freeze_tag(freeze).outcome)
            replace = IssueTagRequest(
                container_label=label_of(9), identity=fresh, scheme=TAM1, replaces=True
            )
            require_accepted(registry.issue_tag(replace).outcome)
        service.process.kill()
    sound = realm.snapshot.read_bytes()
    for damaged in (False, True):
        if damaged:
            realm.snapshot.write_bytes(sound[:1_000] + bytes([sound[1_000] ^ 1]) + sound[1_001:])
        with daemon(realm.config) as service:
            where, why, entries = filled(service)
            if damaged:
                assert (where, "does not open" in why) == ("tables", True)
            else:
                assert (where, why) == ("snapshot", "")
                assert entries >= 2
            with Stream(realm, service.target) as stream:
                judged = stream.judge(
                    (SoftTag(fresh, TAM1, realm.key(fresh)), 0), (known, 0), (frozen, 0),
                    (realm.tag(9), 0), (counting, 5), (counting, 6 + damaged),
                )  # fmt: skip
            assert judged == {"genuine": 3, "not_active": 2, "replayed": 1}
            service.process.kill()


class Campaign:
    """Tags count on, services are killed, and old snapshots are put back."""

    def __init__(self, realm: Realm, seed: int) -> None:
        self.realm = realm
        self.chance = random.Random(seed)
        self.tags = [
            realm.tag(number)
            for scheme in range(len(COUNTING))
            for number in range(scheme, 6 * TOLD, 6)
        ]
        # By tag: the last counter given out, and the last one that a service acknowledged.
        self.given = {tag.identity: 0 for tag in self.tags}
        self.durable = dict(self.given)
        self.kept: list[bytes] = []
        self.starts: Counter[str] = Counter()

    def next_frames(self) -> list[tuple[SoftTag, int]]:
        frames = []
        for tag in self.tags * FRAMES:
            self.given[tag.identity] += self.chance.choice((1, 1, 7))
            frames.append((tag, self.given[tag.identity]))
        return frames

    def ride(self, stream: Stream) -> None:
        """Until the service is gone."""
        sent: dict[int, list[tuple[SoftTag, int]]] = {}
        over = time.monotonic() + 20
        try:
            while time.monotonic() < over:
                sent |= stream.send(self.next_frames())
                stream.client.flush(0.5)
        except JinkuError:
            pass
        for sequence, frames in sent.items():
            if sequence in stream.verdicts:
                assert stream.verdicts[sequence] == {"genuine": len(frames)}
                for tag, counter in frames:
                    self.durable[tag.identity] = counter

    def run(self, kills: int) -> None:
        for _ in range(kills):
            with daemon(self.realm.config) as service:
                self.starts[filled(service)[0]] += 1
                with Stream(self.realm, service.target) as stream:
                    self.check(stream)
                    seconds = self.chance.uniform(0.02, 0.4)
                    killer = threading.Timer(seconds, service.process.kill)
                    killer.start()
                    self.ride(stream)
                    killer.join()
            self.choose_snapshot()
        with (
            daemon(self.realm.config) as service,
            Stream(self.realm, service.target) as stream,
        ):
            self.check(stream)

    def check(self, stream: Stream) -> None:
        """What was acknowledged is refused, and what is above all that was given is not."""
        used = [
            (tag, self.durable[tag.identity]) for tag in self.tags if self.durable[tag.identity]
        ]
        if used:
            assert stream.judge(*used) == {"replayed": len(used)}
        frames = self.next_frames()
        assert stream.judge(*frames) == {"genuine": len(frames)}
        for tag, counter in frames:
            self.durable[tag.identity] = counter

    def choose_snapshot(self) -> None:
        """The one there is, an older one, or none: with none the next service writes another."""
        if self.realm.snapshot.exists():
            self.kept.append(self.realm.snapshot.read_bytes())
        choice = self.chance.random()
        if choice < 0.3:
            self.realm.snapshot.unlink(missing_ok=True)
        elif choice < 0.7 and self.kept:
            self.realm.snapshot.write_bytes(self.chance.choice(self.kept))


def campaign(realm: Realm, seed: int, kills: int) -> None:
    ridden = Campaign(realm, seed)
    ridden.run(kills)
    assert ridden.starts["snapshot"] > 0
    assert min(ridden.durable.values()) > 0


def test_no_counter_is_taken_twice(realm: Realm) -> None:
    campaign(realm, 4, 4)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(200, 200 + how_many(10)))
def test_no_counter_is_taken_twice_however_often(realm: Realm, seed: int) -> None:
    campaign(realm, seed, 25)


def test_another_realms_snapshot_is_not_taken(realm: Realm, tmp_path: Path) -> None:
    """Copied from a realm of the same number, with keys of its own."""
    other = Realm(tmp_path / "other")
    with daemon(other.config) as service:
        wait_saved(service)
    shutil.copy(other.snapshot, realm.snapshot)
    with daemon(realm.config) as service:
        where, why, _ = filled(service)
        assert (where, "another realm or key" in why) == ("tables", True)
        assert json.dumps(service.events()).count("tag index filled") == 1
