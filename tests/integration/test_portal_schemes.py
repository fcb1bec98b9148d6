"""Every scheme of tags over gRPC: genuine, forged, played again; batches that do not say what TAM2 read."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from core.keys import load_tag_masters
from grpc_api.personalise import diversify
from jinku.columns import Reads, Tam2Read, make_batch
from jinku.softtags import SoftTag, answer_tam1, answer_tam2, make_frame, make_sun
from jinku.type.v1.tag_pb2 import GateDecision, TagScheme
from jinku.v1.portal_pb2 import (
    Challenge,
    Hello,
    ReadBatch,
    StreamRequest,
    StreamResponse,
    Tam2Profile,
)
from registrar import container, institution, issue, portal, vault
from running import REGISTRY, Running, call_bytes, running_service

PATH = "/jinku.v1.PortalService/Stream"
HELLO = StreamRequest(hello=Hello(portal_epoch=1, antennas=[1, 2], frequencies_khz=[920_625]))
NONE = TagScheme.TAG_SCHEME_NONE
TAM1, TAM2 = TagScheme.TAG_SCHEME_TAM1, TagScheme.TAG_SCHEME_TAM2
SUN = TagScheme.TAG_SCHEME_SUN
COUNTER = TagScheme.TAG_SCHEME_COUNTER_CMAC
COUNTER_16 = TagScheme.TAG_SCHEME_COUNTER_CMAC_16
IDENTITIES = {
    TAM1: b"\xe2\x80tam1......",
    TAM2: b"\xe2\x80tam2......",
    SUN: b"\x04sun...",
    COUNTER: b"\x04count.8",
    COUNTER_16: b"\x04count16",
}
READ = Tam2Read(Tam2Profile.TAM2_PROFILE_TID, 3, 2)
MEMORY = bytes(range(32))
RELEASE, HOLD = GateDecision.GATE_DECISION_RELEASE, GateDecision.GATE_DECISION_HOLD


class Line:
    """One stream of the portal; answers are read when asked for."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.call: Any = channel.stream_stream(PATH)(iter(self._requests.get, None))
        self._requests.put(HELLO.SerializeToString())
        welcome = self.read("welcome")
        self.sequence = welcome.resume_sequence
        self.now_ns = welcome.service_time_ns
        self.challenge: Challenge = self.read("challenge")

    def send(self, batch: ReadBatch) -> None:
        batch.sequence = self.sequence
        self.sequence += 1
        self._requests.put(StreamRequest(batch=batch).SerializeToString())

    def end(self) -> None:
        self._requests.put(None)

    def read(self, kind: str) -> Any:
        """The next message of a kind; others before it are passed over."""
        for body in self.call:
            response = StreamResponse.FromString(body)
            if response.WhichOneof("message") == kind:
                return getattr(response, kind)
        raise AssertionError(f"the stream ended without {kind}")


class Gate:
    """The portal, and tags in software for every scheme."""

    def __init__(self, service: Running) -> None:
        registrar = service.registrar()
        requests: list[Any] = [institution(), vault(), portal("gate-1")]
        for scheme, identity in IDENTITIES.items():
            label = TagScheme.Name(scheme)
            requests += [container(label), issue(identity, label, scheme=scheme)]
        for request in requests:
            request.command_id.CopyFrom(service.command_id())
            method = type(request).__name__.removesuffix("Request")
            call_bytes(registrar, REGISTRY + method, request.SerializeToString())
        ((realm, _, master),) = load_tag_masters(service.settings.keys.directory)
        self.tags = {
            scheme: SoftTag(identity, scheme, diversify(bytes(master), identity, realm))
            for scheme, identity in IDENTITIES.items()
        }
        self.channel = service.portal("gate-1")

    def evidence(self, tag: SoftTag, scheme: int, challenge: bytes, counter: int) -> bytes:
        if scheme == TAM1:
            return answer_tam1(tag, challenge).tobytes()
        if scheme == TAM2:
            return answer_tam2(tag, challenge, MEMORY)
        if scheme == SUN:
            return make_sun(tag, counter)
        return make_frame(SoftTag(tag.identity, scheme, tag.key), counter)

    def batch(
        self, line: Line, scheme: int, counter: int = 1, *, of: int | None = None, flip: int = 0
    ) -> ReadBatch:
        """One read of the tag that has this scheme, or that of `of`; `flip` changes a byte of its proof."""
        tag = self.tags[of or scheme]
        evidence = bytearray(self.evidence(tag, scheme, line.challenge.challenge, counter))
        evidence[8] ^= flip
        reads = Reads(
            identity=np.frombuffer(tag.identity, np.uint8).reshape(1, -1),
            antenna=np.ones(1, np.uint8),
            channel=np.zeros(1, np.uint8),
            rssi_dbm=np.full(1, -45.0),
            time_ns=np.full(1, line.now_ns),
        )
        challenge_id = line.challenge.challenge_id if scheme in {TAM1, TAM2} else b""
        rows = np.frombuffer(bytes(evidence), np.uint8).reshape(1, -1)
        tam2 = READ if scheme == TAM2 else None
        return make_batch(reads, scheme, rows, challenge_id, tam2)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with running_service(tmp_path) as service:
        yield Gate(service)


each_scheme = pytest.mark.parametrize("scheme", list(IDENTITIES), ids=TagScheme.Name)


@each_scheme
def test_genuine_forged_and_played_again(gate: Gate, scheme: int) -> None:
    line = Line(gate.channel)
    line.send(gate.batch(line, scheme))
    presented = line.read("presentation")
    assert (presented.decision, presented.tags[0].container_label) == (
        RELEASE,
        TagScheme.Name(scheme),
    )
    line.send(gate.batch(line, scheme, 2, flip=1))
    alarm = line.read("alarm")
    assert [reason.name for reason in alarm.reasons] == ["TAG_EVIDENCE_FORGED"]
    assert alarm.identity == IDENTITIES[scheme]
    assert alarm.receipt.checkpoint
    again = gate.batch(line, scheme)
    if scheme in {TAM1, TAM2}:  # an answer to a challenge that the service never issued
        again.challenge_id = again.challenge_id[:-1] + bytes([again.challenge_id[-1] ^ 1])
    line.send(again)
    alarm = line.read("alarm")
    assert [reason.name for reason in alarm.reasons] == ["TAG_EVIDENCE_REPLAYED"]
    line.end()


@each_scheme
def test_another_scheme_does_not_stand_in(gate: Gate, scheme: int) -> None:
    """Each tag answers rightly under every other scheme that its identity allows."""
    line = Line(gate.channel)
    for other in IDENTITIES:
        if other == scheme or (other == SUN and len(IDENTITIES[scheme]) != 7):
            continue
        line.send(gate.batch(line, other, 5, of=scheme))
        acknowledged = line.read("acknowledgement").batches[0]
        assert (acknowledged.counts.genuine, acknowledged.counts.bad_evidence) == (0, 1)
    line.end()


def rejection(gate: Gate, batch: ReadBatch, line: Line) -> list[tuple[str, str]]:
    line.send(batch)
    rejected = line.read("rejected")
    line.end()
    return [(reason.name, reason.item) for reason in rejected.refused.reasons]


@pytest.mark.parametrize(
    ("field", "value", "name", "item"),
    [
        ("tam2_profile", None, "BATCH_MALFORMED", "tam2_profile: missing"),
        ("tam2_offset", None, "BATCH_MALFORMED", "tam2_offset: missing"),
        ("tam2_block_count", None, "BATCH_MALFORMED", "tam2_block_count: missing"),
        ("tam2_profile", 0, "BATCH_MALFORMED", "tam2_profile: 0 is outside 1 to 3"),
        ("tam2_offset", 4096, "BATCH_MALFORMED", "tam2_offset: 4096 is outside 0 to 4095"),
        ("tam2_block_count", 0, "BATCH_MALFORMED", "tam2_block_count: 0 is outside 1 to 4"),
        ("tam2_block_count", 5, "BATCH_MALFORMED", "tam2_block_count: 5 is outside 1 to 4"),
        ("tam2_block_count", 1, "BATCH_EVIDENCE_WIDTH", "evidence: 48 / 1"),
        ("challenge_id", b"", "BATCH_CHALLENGE_MISSING", "challenge_id"),
    ],
)
def test_batches_that_do_not_say_what_tam2_read(
    gate: Gate, field: str, value: int | None, name: str, item: str
) -> None:
    line = Line(gate.channel)
    batch = gate.batch(line, TAM2)
    if value is None:
        batch.ClearField(field)  # type: ignore[arg-type]
    else:
        setattr(batch, field, value)
    assert rejection(gate, batch, line) == [(name, item)]


def test_batches_with_what_their_scheme_has_not(gate: Gate) -> None:
    line = Line(gate.channel)
    batch = gate.batch(line, COUNTER_16)
    batch.tam2_offset = 0
    assert rejection(gate, batch, line) == [("BATCH_MALFORMED", "tam2_offset: the scheme has none")]
    line = Line(gate.channel)
    batch = gate.batch(line, SUN)
    batch.identity = IDENTITIES[TAM1]
    assert rejection(gate, batch, line) == [("BATCH_IDENTITY_WIDTH", "identity: 12 / 1")]
