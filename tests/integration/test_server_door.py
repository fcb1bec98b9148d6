"""Health, reflection, metrics, logs, the write watchdog."""

from __future__ import annotations

import io
import json
import logging
import queue
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from core.errors import SettingsError
from core.procedures.table import QUERIES, handlers
from core.store.v1 import rows_pb2
from grpc_api.limits import CallKind, Context
from grpc_api.logs import configure_logs
from grpc_api.service import STREAM_RPC
from grpc_api.table import Rpc, RpcKind, build_handlers, build_rpcs, public_services
from jinku.type.v1.place_pb2 import Antenna
from jinku.type.v1.tag_pb2 import AntennaSide
from jinku.v1.portal_pb2 import Hello, StreamRequest, StreamResponse
from jinku.v1.registry_pb2 import (
    GetContainerRequest,
    GetContainerResponse,
    RegisterInstitutionRequest,
    RegisterInstitutionResponse,
    RegisterPortalRequest,
    RegisterPortalResponse,
    RegisterVaultRequest,
    RegisterVaultResponse,
)
from running import (
    REGISTRY,
    Running,
    call,
    call_bytes,
    failure_of,
    running_service,
    serving,
    wait_until,
)

STREAM = f"/{STREAM_RPC}"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("door")
    with running_service(directory, SERVER__METRICS_LISTEN="127.0.0.1:0") as running:
        yield running


def check_health(channel: grpc.Channel, name: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=name)
    path = "/grpc.health.v1.Health/Check"
    return call(channel, path, request, health_pb2.HealthCheckResponse).status


def test_health_of_every_service(running: Running) -> None:
    channel = running.auditor()
    assert check_health(channel) == SERVING
    for service in public_services():
        assert check_health(channel, service.full_name) == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        check_health(channel, "core.store.v1")
    assert failure_of(caught.value).code == grpc.StatusCode.NOT_FOUND


def test_health_turns_while_draining_and_new_calls_are_told(tmp_path: Path) -> None:
    with running_service(tmp_path) as running:
        channel = running.registrar()
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
        states = (health_pb2.HealthCheckResponse.FromString(item).status for item in watch)
        assert next(states) == SERVING
        assert running.service.drain()
        assert next(states) == NOT_SERVING
        assert check_health(channel) == NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            call_bytes(channel, REGISTRY + "GetContainer", b"")
        failure = failure_of(caught.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


def reflect(channel: grpc.Channel, **request: Any) -> reflection_pb2.ServerReflectionResponse:
    asked = reflection_pb2.ServerReflectionRequest(**request).SerializeToString()
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    (answer,) = channel.stream_stream(path)(iter([asked]), timeout=20)
    return reflection_pb2.ServerReflectionResponse.FromString(answer)


def test_reflection_shows_what_is_public(running: Running) -> None:
    channel = running.auditor()
    listed = reflect(channel, list_services="").list_services_response.service
    names = {service.name for service in listed}
    assert {service.full_name for service in public_services()} <= names
    answer = reflect(channel, file_containing_symbol="jinku.v1.RegistryService")
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(proto)
        for proto in answer.file_descriptor_response.file_descriptor_proto
    ]
    packages = {file.package for file in files}
    assert packages == {"jinku.v1", "jinku.event.v1", "jinku.type.v1", "google.protobuf"}


@pytest.mark.parametrize(
    "asked",
    [
        {"file_containing_symbol": row.full_name}
        for row in rows_pb2.DESCRIPTOR.message_types_by_name.values()
    ]
    + [
        {"file_by_filename": "core/store/v1/rows.proto"},
        {"file_by_filename": "core/store/v1/commands.proto"},
        {"file_containing_symbol": "core.store.v1.FoundRealm"},
    ],
)
def test_reflection_does_not_show_rows(running: Running, asked: dict[str, str]) -> None:
    answer = reflect(running.auditor(), **asked)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_idle_reflections_are_few(running: Running) -> None:
    channel = running.auditor()
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    asked = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    sent: queue.Queue[bytes | None] = queue.Queue()
    idle = []
    for _ in range(4):
        own: queue.Queue[bytes | None] = queue.Queue()
        own.put(asked)
        idle.append((own, channel.stream_stream(path)(iter(own.get, None), timeout=20)))
        next(idle[-1][1])
    sent.put(asked)
    with pytest.raises(grpc.RpcError) as caught:
        next(channel.stream_stream(path)(iter(sent.get, None), timeout=20))
    assert failure_of(caught.value).reason == "TOO_MANY_REFLECTIONS"
    for own, responses in idle:
        own.put(None)
        assert list(responses) == []
    sent.put(None)


def test_every_rpc_has_one_row(running: Running) -> None:
    rpcs = build_rpcs(public_services(), running.service.handlers, QUERIES)
    kinds = {rpc.name: rpc.kind for rpc in rpcs}
    assert kinds[STREAM_RPC] is RpcKind.STREAM
    assert kinds["jinku.v1.RegistryService/IssueTag"] is RpcKind.COMMAND
    assert kinds["jinku.v1.RegistryService/GetContainer"] is RpcKind.QUERY


def test_rpc_without_a_handler_is_an_error_at_the_start() -> None:
    with pytest.raises(ValueError, match="RegistryService/RegisterInstitution"):
        build_rpcs(public_services(), [], [])


def scrape(running: Running) -> str:
    with urllib.request.urlopen(f"http://{running.service.metrics_listen}/metrics") as answer:
        text: str = answer.read().decode()
    return text


def test_metrics(running: Running) -> None:
    registrar = running.registrar()
    for _ in range(2):
        request = RegisterInstitutionRequest(
            command_id=running.command_id(), code="METRIC-CODE", name="METRIC-NAME", kind=1
        )
        call(registrar, REGISTRY + "RegisterInstitution", request, RegisterInstitutionResponse)
    with pytest.raises(grpc.RpcError):
        call_bytes(running.auditor(), REGISTRY + "IssueTag", b"")
    wait_until(lambda: 'code="PERMISSION_DENIED"' in scrape(running))
    text = scrape(running)
    name = "jinku.v1.RegistryService/RegisterInstitution"
    assert f'jinku_calls_total{{code="OK",rpc="{name}"}} 2.0' in text
    assert 'jinku_refused_total{reason="INSTITUTION_EXISTS"} 1.0' in text
    assert 'jinku_calls_rejected_total{reason="ROLE_LACKS_RPC"} 1.0' in text
    assert "jinku_ledger_entries 3.0" in text
    assert "jinku_sequencer_queue_depth 0.0" in text
    assert "jinku_serving 1.0" in text
    assert "jinku_sequencer_batch_commands_count 2.0" in text
    assert "METRIC" not in text


def test_logs_hold_no_identities(tmp_path: Path) -> None:
    """Everything a full exchange logs at the lowest level: no label, no name, no principal."""
    lines = io.StringIO()
    configure_logs("debug", "json", lines)
    try:
        with running_service(tmp_path) as running:
            registrar = running.registrar()
            request = RegisterInstitutionRequest(
                command_id=running.command_id(), code="LABEL-7", name="名称-7", kind=1
            )
            for _ in range(2):
                call_bytes(registrar, REGISTRY + "RegisterInstitution", request.SerializeToString())
            call(
                registrar, REGISTRY + "GetContainer", GetContainerRequest(label="LABEL-8"),
                GetContainerResponse,
            )  # fmt: skip
            with pytest.raises(grpc.RpcError):
                call_bytes(running.portal("portal-9"), REGISTRY + "GetContainer", b"LABEL-9")
            structlog.get_logger().info("seen", label="LABEL-10", rpc={"label": "LABEL-11"})
    finally:
        structlog.reset_defaults()
    text = lines.getvalue()
    parsed = [json.loads(line) for line in text.splitlines()]
    assert {"serving", "call", "seen"} <= {line["event"] for line in parsed}
    (seen,) = [line for line in parsed if line["event"] == "seen"]
    assert seen["dropped_keys"] == "label,rpc"
    for secret in ("LABEL", "名称", "spiffe:", "registrar", "portal-9", str(tmp_path)):
        assert secret not in text


def test_foreign_lines_lose_their_arguments() -> None:
    lines = io.StringIO()
    configure_logs("info", "json", lines)
    try:
        library = logging.getLogger("a.library")
        try:
            raise ValueError("LABEL-12")
        except ValueError:
            library.exception("Failed for %s", "LABEL-13")
            library.exception(f"Exception calling application: {'LABEL-15'}")
        library.error("formatted LABEL-14")
    finally:
        structlog.reset_defaults()
    text = lines.getvalue()
    assert "Failed for %s" in text
    assert "builtins.ValueError" in text
    assert "LABEL" not in text


def test_handlers_have_no_serialisers() -> None:
    """Bytes in, bytes out: what was received is what is digested."""
    rpcs = build_rpcs(public_services(), handlers(frozenset), QUERIES)
    built = build_handlers(rpcs, Nobody().unary, Nobody().stream)
    assert len(built) == len(public_services())
    for rpc in rpcs:
        details = Details(f"/{rpc.name}")
        (method,) = [found for h in built if (found := h.service(details)) is not None]
        assert method.request_deserializer is None
        assert method.response_serializer is None


class Nobody:
    """Answers nothing."""

    async def unary(self, rpc: Rpc, context: Context) -> bytes:
        return b""

    async def stream(self, rpc: Rpc, context: Context) -> None: ...


class Details(grpc.HandlerCallDetails):
    """What gRPC tells a handler of a call."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


def test_second_service_on_the_same_port(running: Running, tmp_path: Path) -> None:
    started = time.monotonic()
    with (
        pytest.raises(SettingsError, match=r"server\.listen: cannot listen on"),
        running_service(tmp_path, SERVER__LISTEN=running.target),
    ):
        pytest.fail("was opened")
    assert time.monotonic() - started < 5
    # Nothing is left open: the same realm starts on another port.
    with serving(tmp_path / "realm"):
        pass


def open_portal(running: Running, name: str) -> grpc.Channel:
    """A registered portal with an antenna on each side, and its channel."""
    registrar = running.registrar()
    for path, request, response in (
        ("RegisterInstitution", RegisterInstitutionRequest(code="I", name="I", kind=1),
         RegisterInstitutionResponse),
        ("RegisterVault", RegisterVaultRequest(institution_code="I", code="V", name="V", kind=1,
         time_zone="Asia/Shanghai"), RegisterVaultResponse),
        ("RegisterPortal", RegisterPortalRequest(vault_code="V", name=name, antennas=[
            Antenna(port=1, side=AntennaSide.ANTENNA_SIDE_INNER),
            Antenna(port=2, side=AntennaSide.ANTENNA_SIDE_OUTER)]), RegisterPortalResponse),
    ):  # fmt: skip
        request.command_id.CopyFrom(running.command_id())  # type: ignore[attr-defined]
        answer: Any = call(registrar, REGISTRY + path, request, response)
        assert answer.outcome.WhichOneof("outcome") == "accepted"
    return running.portal(name)


def test_idle_stream_is_told_and_does_not_hold_up_the_drain(tmp_path: Path) -> None:
    with running_service(tmp_path) as running:
        channel = open_portal(running, "door-1")
        hello = Hello(portal_epoch=1, antennas=[1, 2], frequencies_khz=[920_625])
        sent: queue.Queue[bytes | None] = queue.Queue()
        sent.put(StreamRequest(hello=hello).SerializeToString())
        responses = channel.stream_stream(STREAM)(iter(sent.get, None), timeout=20)
        first = StreamResponse.FromString(next(responses))
        assert first.welcome.resume_sequence == 1
        assert running.service.gate.count(CallKind.STREAM) == 1
        started = time.monotonic()
        assert running.service.drain()
        assert time.monotonic() - started < 5
        with pytest.raises(grpc.RpcError) as caught:
            for _ in responses:
                pass
        failure = failure_of(caught.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        sent.put(None)


def test_stream_of_nobody(running: Running) -> None:
    responses = running.registrar().stream_stream(STREAM)(iter([b"\xff"]), timeout=20)
    with pytest.raises(grpc.RpcError) as caught:
        next(responses)
    failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_LACKS_RPC")


def test_streams_are_limited(tmp_path: Path) -> None:
    with running_service(tmp_path, SERVER__STREAMS_MAX="1") as running:
        channel = open_portal(running, "door-1")
        sent: queue.Queue[bytes | None] = queue.Queue()
        held = channel.stream_stream(STREAM)(iter(sent.get, None), timeout=20)
        wait_until(lambda: running.service.gate.count(CallKind.STREAM) == 1)
        second = channel.stream_stream(STREAM)(iter([]), timeout=20)
        with pytest.raises(grpc.RpcError) as caught:
            next(second)
        assert failure_of(caught.value).reason == "TOO_MANY_STREAMS"
        # Unary calls are counted apart.
        call(
            running.registrar(), REGISTRY + "GetContainer", GetContainerRequest(label="x"),
            GetContainerResponse,
        )  # fmt: skip
        assert held.is_active()
        sent.put(None)
