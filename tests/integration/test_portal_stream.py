"""Portal streams over gRPC and mutual TLS: bad openings, bad bytes, clients that leave or do not read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from grpc_api.limits import CallKind
from jinku.type.v1.tag_pb2 import GateDecision
from jinku.v1.portal_pb2 import Hello, StreamRequest
from lines import HELLO, Line, batch, register
from running import Running, running_service, wait_until


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with running_service(tmp_path, SERVER__WRITE_DEADLINE_SECONDS="1") as service:
        register(service)
        yield service


def test_a_batch_is_answered(running: Running) -> None:
    line = Line(running.portal("gate-1"), HELLO.SerializeToString())
    welcome = line.read("welcome")
    assert welcome.resume_sequence == 1
    line.send(batch(1, welcome.service_time_ns))
    assert line.read("acknowledgement").through_sequence == 1
    presented = line.read("presentation")
    assert presented.decision == GateDecision.GATE_DECISION_HOLD
    assert [one.name for one in presented.tags[0].reasons] == ["TAG_NO_EVIDENCE"]
    assert line.read("alarm").receipt.checkpoint
    line.end()
    assert list(line.call) == []
    assert line.call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("first", "field"),
    [
        (b"\xff\xff", "message"),
        (b"", "message"),
        (StreamRequest(hello=Hello()).SerializeToString(), "hello.antennas"),
        (batch(1, 1).SerializeToString(), "hello"),
        (HELLO.SerializeToString() + b"\xf8\x07\x01", "message"),
        (StreamRequest(hello=Hello(portal_epoch=1, antennas=[9], frequencies_khz=[1]))
         .SerializeToString(), "hello.antennas"),
        (StreamRequest(hello=Hello(antennas=[1], frequencies_khz=[1])).SerializeToString(),
         "hello.portal_epoch"),
    ],
)  # fmt: skip
def test_bad_openings(running: Running, first: bytes, field: str) -> None:
    failure = Line(running.portal("gate-1"), first).failure()
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    violations = failure.find(error_details_pb2.BadRequest).field_violations
    assert field in [violation.field for violation in violations]


@pytest.mark.parametrize("second", [b"\xff\xff", HELLO.SerializeToString(), b""])
def test_bad_bytes_end_the_stream_after_what_was_taken(running: Running, second: bytes) -> None:
    line = Line(running.portal("gate-1"), HELLO.SerializeToString())
    line.send(batch(1, line.read("welcome").service_time_ns))
    line.send(second)
    assert line.read("acknowledgement").through_sequence == 1
    failure = line.failure()
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    assert failure.find(error_details_pb2.BadRequest).field_violations


def test_who_may_not_stream(running: Running) -> None:
    for channel in (running.registrar(), running.portal("nobody")):
        failure = Line(channel, HELLO.SerializeToString()).failure()
        assert failure.code == grpc.StatusCode.PERMISSION_DENIED


def test_a_portal_is_whom_its_certificate_names(running: Running) -> None:
    ids = {
        Line(running.portal(name), HELLO.SerializeToString()).read("welcome").portal_id
        for name in ("gate-1", "gate-2")
    }
    assert len(ids) == 2


def test_older_epoch(running: Running) -> None:
    newer = StreamRequest(hello=Hello(portal_epoch=9, antennas=[1], frequencies_khz=[1]))
    channel = running.portal("gate-1")
    Line(channel, newer.SerializeToString()).read("welcome")
    failure = Line(channel, HELLO.SerializeToString()).failure()
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION, "PORTAL_EPOCH_OLDER",
    )  # fmt: skip


def test_newer_stream_supersedes(running: Running) -> None:
    channel = running.portal("gate-1")
    older = Line(channel, HELLO.SerializeToString())
    older.send(batch(1, older.read("welcome").service_time_ns))
    older.read("acknowledgement")
    newer = Line(channel, HELLO.SerializeToString())
    assert newer.read("welcome").resume_sequence == 2
    failure = older.failure()
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "STREAM_SUPERSEDED")


def test_client_that_never_reads_is_cut_and_may_return(running: Running) -> None:
    channel = running.portal("gate-1")
    line = Line(channel, HELLO.SerializeToString())
    now_ns = line.read("welcome").service_time_ns
    # Each answer lists every row; nobody takes them.
    for sequence in range(1, 60):
        line.send(batch(sequence, now_ns, 60_000))
    gate = running.service.gate
    wait_until(lambda: gate.count(CallKind.STREAM) == 0, 30)
    cut = running.service.metrics.registry.get_sample_value("jinku_calls_cut_total")
    assert cut == 1
    again = Line(channel, HELLO.SerializeToString())
    resume = again.read("welcome").resume_sequence
    assert 1 < resume < 60
    again.send(batch(resume, now_ns))
    assert again.read("acknowledgement").through_sequence == resume


def test_draining_settles_first(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        register(service)
        line = Line(service.portal("gate-1"), HELLO.SerializeToString())
        now_ns = line.read("welcome").service_time_ns
        for sequence in range(1, 4):
            line.send(batch(sequence, now_ns))
        line.read("acknowledgement")
        closing = threading.Thread(target=service.service.drain)
        closing.start()
        failure = line.failure()
        assert failure.code == grpc.StatusCode.UNAVAILABLE
        assert failure.reason == "DRAINING"
        closing.join()
