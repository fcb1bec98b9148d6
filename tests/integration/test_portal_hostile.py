"""Portals that send what they should not: each gets its own answer, and the service goes on."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from grpc_api.certificates import CertificateFiles
from grpc_api.founding import read_log_path
from jinku.v1.portal_pb2 import Read, ReadBatch, StreamRequest
from lines import BOX, HELLO, Line, batch, open_channel, register
from process import daemon
from running import Running, found, make_certificate, running_service, serving, uri
from soak import how_many

SECOND = 1_000_000_000
READS_TOO_MANY = 65_537


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with running_service(tmp_path) as service:
        register(service)
        yield service


def tam1(number: int, now_ns: int, **fields: Any) -> StreamRequest:
    columns: dict[str, Any] = {
        "sequence": number, "base_time_ns": now_ns, "scheme": "TAG_SCHEME_TAM1",
        "challenge_id": b"\x01" + bytes(8), "identity": BOX * 2, "evidence": b"\x05" * 32,
        "antenna": b"\x01\x02", "channel": bytes(2), "rssi_cdbm": bytes(4), "time_us": bytes(8),
    }  # fmt: skip
    return StreamRequest(batch=ReadBatch(**(columns | fields)))


def many(count: int) -> dict[str, Any]:
    return {
        "identity": BOX * count, "evidence": bytes(16 * count), "antenna": b"\x01" * count,
        "channel": bytes(count), "rssi_cdbm": bytes(2 * count), "time_us": bytes(4 * count),
    }  # fmt: skip


NOTHING = many(0)
REJECTED: list[tuple[dict[str, Any], str]] = [
    ({"rssi_cdbm": b"x" * 3}, "BATCH_COLUMNS_DISAGREE"),
    ({"time_us": b""}, "BATCH_COLUMNS_DISAGREE"),
    (NOTHING, "BATCH_EMPTY"),
    (many(READS_TOO_MANY), "BATCH_TOO_LARGE"),
    ({"sequence": 9}, "BATCH_SEQUENCE_JUMPED"),
    ({"sequence": 0}, "BATCH_SEQUENCE_JUMPED"),
    ({"sequence": 1}, "BATCH_SEQUENCE_REUSED"),
    ({"base_time_ns": -1}, "BATCH_MALFORMED"),
    ({"base_time_ns": 2**62}, "BATCH_TIME_AHEAD"),
    ({"base_time_ns": 5}, "BATCH_TIME_BACKWARDS"),
    ({"scheme": 77}, "BATCH_SCHEME_UNKNOWN"),
    ({"scheme": 0}, "BATCH_SCHEME_UNKNOWN"),
    ({"evidence": b"\x05" * 24}, "BATCH_EVIDENCE_WIDTH"),
    ({"identity": b"\x05" * 20}, "BATCH_IDENTITY_WIDTH"),
    ({"challenge_id": b""}, "BATCH_CHALLENGE_MISSING"),
    ({"rows": [Read(identity=BOX)]}, "BATCH_ROWS_AND_COLUMNS"),
    (NOTHING | {"rows": [Read(identity=BOX, antenna=300)]}, "BATCH_MALFORMED"),
]


def test_every_bad_batch_has_its_answer(running: Running) -> None:
    line = Line(running.portal("gate-1"), HELLO.SerializeToString())
    now_ns = line.read("welcome").service_time_ns
    line.send(batch(1, now_ns))
    assert line.read("acknowledgement").through_sequence == 1
    for fields, name in REJECTED:
        line.send(tam1(2, now_ns, **fields))
        rejected = line.read("rejected")
        (reason,) = rejected.refused.reasons
        assert (reason.name, rejected.expected_sequence) == (name, 2)
        assert reason.text_en
        assert reason.text_zh
    unknown = StreamRequest(batch=tam1(2, now_ns).batch)
    body = unknown.batch.SerializeToString() + b"\xf8\x07\x01"
    line.send(b"\x12" + bytes([len(body) & 127 | 128, len(body) >> 7]) + body)
    assert [one.name for one in line.read("rejected").refused.reasons] == ["BATCH_UNKNOWN_FIELDS"]
    # Challenges that are not ours, or not any more, are answered by verdicts.
    expired = b"\x01" + (now_ns - 3600 * SECOND).to_bytes(8, "big")
    for sequence, (challenge_id, state) in enumerate([(b"foreign", 5), (expired, 4)], 2):
        line.send(tam1(sequence, now_ns, challenge_id=challenge_id))
        (one,) = line.read("acknowledgement").batches
        assert (one.sequence, one.challenge_state, one.counts.genuine) == (sequence, state, 0)


def test_message_beyond_the_limit_ends_the_stream_and_nothing_else(running: Running) -> None:
    channel = running.portal("gate-1")
    line = Line(channel, HELLO.SerializeToString())
    line.read("welcome")
    line.send(b"\x12" + b"\x00" * (5 << 20))
    assert line.failure().code in {
        grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED,
    }  # fmt: skip
    again = Line(channel, HELLO.SerializeToString())
    assert again.read("welcome").resume_sequence == 1


def test_stream_ends_when_its_certificate_has_expired(running: Running, tmp_path: Path) -> None:
    settings = running.settings.realm
    name = uri(f"spiffe://{settings.trust_domain}/{settings.number}/portal/gate-1")
    files = make_certificate(
        tmp_path, "short", CertificateFiles.named(running.certificates, "ca"), [name],
        days=4 / 86_400,
    )  # fmt: skip
    line = Line(running.channel(files), HELLO.SerializeToString())
    line.read("welcome")
    failure = line.failure()
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_NOT_ACCEPTED",
    )  # fmt: skip


def mutate(chance: random.Random, body: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(changed))
        way = chance.randrange(4)
        if way == 0:
            changed[at] = chance.randrange(256)
        elif way == 1:
            changed[at] ^= 1 << chance.randrange(8)
        elif way == 2:
            del changed[at : at + chance.randrange(1, 8)]
        else:
            changed[at:at] = chance.randbytes(chance.randrange(1, 8))
        if not changed:
            return b""
    return bytes(changed)


def fuzz(running: Running, seed: int, seconds: float) -> int:
    """Mutated requests on one stream after another; how many were sent."""
    chance, sent = random.Random(seed), 0
    channel = running.portal("gate-1")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        hello = HELLO.SerializeToString()
        line = Line(channel, mutate(chance, hello) if chance.random() < 0.2 else hello)
        for _ in range(chance.randrange(20)):
            now_ns = time.time_ns()
            request = chance.choice([batch, tam1])(chance.randrange(1, 9), now_ns)
            line.send(mutate(chance, request.SerializeToString()))
            sent += 1
        line.end()
        try:
            for _ in line.call:
                continue
        except grpc.RpcError as error:
            failed: Any = error
            assert failed.code() in {
                grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION,
            }, failed  # fmt: skip
    return sent


def check_fuzz(running: Running, seed: int, seconds: float) -> None:
    with structlog.testing.capture_logs() as logs:
        assert fuzz(running, seed, seconds) > 20
    assert [line for line in logs if line["log_level"] in {"error", "critical"}] == []
    other = Line(running.portal("gate-2"), HELLO.SerializeToString())
    other.send(batch(1, other.read("welcome").service_time_ns))
    assert other.read("acknowledgement").through_sequence == 1


def test_mutated_requests(running: Running) -> None:
    check_fuzz(running, 1, 4)


@pytest.mark.soak
def test_mutated_requests_for_a_minute(running: Running) -> None:
    check_fuzz(running, 2, how_many(60))


def test_full_disk_ends_the_service_and_nothing_is_acknowledged_after(tmp_path: Path) -> None:
    directory = found(tmp_path)
    with serving(directory) as running:
        register(running)
        running.issue("portal", "gate-1")
        settings = running.settings
    acknowledged = 0
    with daemon(directory / "jinku.toml") as service:
        used = (read_log_path(settings) / "data.mdb").stat().st_size
        limit = used + (2 << 20)
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        with open_channel(service.target, directory) as channel:
            line = Line(channel, HELLO.SerializeToString())
            now_ns = line.read("welcome").service_time_ns
            try:
                for sequence in range(1, 200):
                    # An identity that is nobody's and an antenna not in use: no alarms.
                    request = batch(sequence, now_ns, 5000)
                    request.batch.antenna = b"\x09" * 5000
                    line.send(request)
                    acknowledged = line.read("acknowledgement").through_sequence
            except grpc.RpcError as error:
                failed: Any = error
                assert failed.code() == grpc.StatusCode.UNAVAILABLE
        assert service.wait() == 70
    assert 0 < acknowledged < 199
    with daemon(directory / "jinku.toml") as service, open_channel(service.target, directory) as ch:
        line = Line(ch, HELLO.SerializeToString())
        welcome = line.read("welcome")
        assert welcome.resume_sequence in {acknowledged + 1, acknowledged + 2}
        line.send(batch(welcome.resume_sequence, welcome.service_time_ns))
        line.read("acknowledgement")
