"""Portals of a served realm that read tags of every scheme, the same tags at all of them, through the
lives of its service; a registrar who freezes and registers tags meanwhile.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from core.keys import load_tag_masters
from core.settings import Settings
from grpc_api.certificates import CertificateFiles
from grpc_api.personalise import diversify
from jinku.columns import Reads, Tam2Read, make_batch
from jinku.softtags import SoftTag, answer_tam1, answer_tam2, make_frame, make_sun
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import (
    Challenge,
    Hello,
    ReadBatch,
    StreamRequest,
    StreamResponse,
    Tam2Profile,
)
from registrar import container, freeze, institution, issue, portal, unfreeze, vault
from running import REGISTRY, Running, call_bytes

PATH = "/jinku.v1.PortalService/Stream"
PORTALS = ("gate-1", "gate-2", "gate-3")
TAM1, TAM2 = TagScheme.TAG_SCHEME_TAM1, TagScheme.TAG_SCHEME_TAM2
SUN, COUNTER = TagScheme.TAG_SCHEME_SUN, TagScheme.TAG_SCHEME_COUNTER_CMAC
COUNTER_16 = TagScheme.TAG_SCHEME_COUNTER_CMAC_16
IDENTITIES = {
    TAM1: b"\xe2\x80tam1......",
    TAM2: b"\xe2\x80tam2......",
    SUN: b"\x04sun...",
    COUNTER: b"\x04count.8",
    COUNTER_16: b"\x04count16",
}
LATER = b"\x04later.."
READ = Tam2Read(Tam2Profile.TAM2_PROFILE_TID, 3, 2)
MEMORY = bytes(range(32))


def send(running_channel: grpc.Channel, request: Any, sequence: int) -> None:
    request.command_id.epoch, request.command_id.sequence = 1, sequence
    method = type(request).__name__.removesuffix("Request")
    call_bytes(running_channel, REGISTRY + method, request.SerializeToString())


def register(running: Running) -> int:
    """Portals and tags; how many commands the registrar has given."""
    channel = running.registrar()
    requests: list[Any] = [institution(), vault(), *map(portal, PORTALS), container("LATER")]
    for scheme, identity in IDENTITIES.items():
        label = TagScheme.Name(scheme)
        requests += [container(label), issue(identity, label, scheme=scheme)]
    for sequence, request in enumerate(requests, 1):
        send(channel, request, sequence)
    for name in PORTALS:
        running.issue("portal", name)
    return len(requests)


@dataclass
class Site:
    """What lives longer than a service: tags with their counters, and what was acknowledged."""

    directory: Path
    settings: Settings
    commands: int
    counters: dict[int, int] = field(
        default_factory=lambda: dict.fromkeys((SUN, COUNTER, COUNTER_16), 0)
    )
    acknowledged: dict[str, int] = field(default_factory=dict)
    # Of all portals together, by number of the verdict.
    verdicts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        ((realm, _, master),) = load_tag_masters(self.settings.keys.directory)
        self.tags = {
            scheme: SoftTag(identity, scheme, diversify(bytes(master), identity, realm))
            for scheme, identity in IDENTITIES.items()
        }
        self.later = SoftTag(LATER, COUNTER, diversify(bytes(master), LATER, realm))

    def channel(self, target: str, name: str) -> grpc.Channel:
        own = CertificateFiles.named(self.directory / "certificates", name)
        ca = (self.directory / "certificates" / "ca.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(
            ca, own.private_key.read_bytes(), own.certificate.read_bytes()
        )
        return grpc.secure_channel(target, credentials, [("grpc.use_local_subchannel_pool", 1)])

    def live(self, target: str, seconds: float, seed: int) -> None:
        """All portals stream and the registrar works, for so long or until the service is gone."""
        until = time.monotonic() + seconds
        works = [
            threading.Thread(target=self._ride, args=(target, name, until, seed + at))
            for at, name in enumerate(PORTALS)
        ]
        works.append(threading.Thread(target=self._register, args=(target, until)))
        for work in works:
            work.start()
        for work in works:
            work.join()

    def _register(self, target: str, until: float) -> None:
        requests: list[Any] = [
            freeze(IDENTITIES[COUNTER]), freeze(IDENTITIES[TAM1]),
            issue(LATER, "LATER", scheme=COUNTER),
            unfreeze(IDENTITIES[COUNTER]), unfreeze(IDENTITIES[TAM1]),
        ]  # fmt: skip
        with self.channel(target, "service-registrar") as channel:
            at = 0
            while time.monotonic() < until:
                self.commands += 1
                try:
                    send(channel, requests[at % len(requests)], self.commands)
                except grpc.RpcError:
                    return
                at += 1
                time.sleep(0.02)

    def _ride(self, target: str, name: str, until: float, seed: int) -> None:
        chance = random.Random(seed)
        requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        hello = Hello(portal_epoch=1, antennas=[1, 2], frequencies_khz=[920_625])
        requests.put(StreamRequest(hello=hello).SerializeToString())
        with self.channel(target, "portal-" + name) as channel:
            call: Any = channel.stream_stream(PATH)(iter(requests.get, None))
            sequence, challenge = 0, None
            try:
                for body in call:
                    heard = StreamResponse.FromString(body)
                    kind = heard.WhichOneof("message")
                    assert kind != "rejected", heard
                    if kind == "welcome":
                        sequence = heard.welcome.resume_sequence
                    elif kind == "challenge" and heard.challenge.purpose == 1:
                        challenge = heard.challenge
                    elif kind == "acknowledgement":
                        self._acknowledged(name, heard)
                    waits = kind == "challenge" and heard.challenge.purpose == 2
                    if challenge is None or not (waits or kind == "acknowledgement"):
                        continue
                    if time.monotonic() > until:
                        requests.put(None)
                        continue
                    batch = self._batch(chance, challenge)
                    batch.sequence, sequence = sequence, sequence + 1
                    requests.put(StreamRequest(batch=batch).SerializeToString())
            except grpc.RpcError:
                requests.put(None)

    def _acknowledged(self, name: str, heard: StreamResponse) -> None:
        for one in heard.acknowledgement.batches:
            self.acknowledged[name] = max(one.sequence, self.acknowledged.get(name, 0))
            self.verdicts.update(field.name for field, count in one.counts.ListFields() if count)

    def _batch(self, chance: random.Random, challenge: Challenge) -> ReadBatch:
        """Some reads of one tag: right, forged, or played again."""
        scheme = chance.choice(list(IDENTITIES))
        tag = self.tags[scheme]
        if scheme == COUNTER and chance.random() < 0.3:
            tag = self.later
        if scheme == COUNTER and chance.random() < 0.1:
            tag = SoftTag(b"\x04nobody.", COUNTER, tag.key)
        count = chance.choice([1, 3, 8])
        evidence = [self._evidence(chance, tag, scheme, challenge) for _ in range(count)]
        reads = Reads(
            identity=np.tile(np.frombuffer(tag.identity, np.uint8), (count, 1)),
            antenna=np.array([chance.choice([1, 1, 2, 9]) for _ in range(count)], np.uint8),
            channel=np.zeros(count, np.uint8),
            rssi_dbm=np.full(count, -45.0),
            time_ns=time.time_ns() + np.arange(count, dtype=np.int64),
        )
        rows = np.frombuffer(b"".join(evidence), np.uint8).reshape(count, -1)
        challenge_id = challenge.challenge_id if scheme in {TAM1, TAM2} else b""
        return make_batch(reads, scheme, rows, challenge_id, READ if scheme == TAM2 else None)

    def _evidence(
        self, chance: random.Random, tag: SoftTag, scheme: int, challenge: Challenge
    ) -> bytes:
        if scheme in self.counters:
            self.counters[scheme] += chance.choice([0, 1, 2])
            counter = max(1, self.counters[scheme] - chance.choice([0, 0, 0, 1]))
            made = (
                make_sun(tag, counter)
                if scheme == SUN
                else make_frame(SoftTag(tag.identity, scheme, tag.key), counter)
            )
        elif scheme == TAM1:
            made = answer_tam1(tag, challenge.challenge).tobytes()
        else:
            made = answer_tam2(tag, challenge.challenge, MEMORY)
        evidence = bytearray(made)
        evidence[8] ^= chance.random() < 0.1
        return bytes(evidence)
