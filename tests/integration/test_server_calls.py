"""Calls to a real service: what is answered, what is refused before anything is journalled."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from core.errors import LedgerStopped
from grpc_api.limits import CallKind
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.type.v1.command_pb2 import ClientCommandId, DurabilityLevel, Extra
from jinku.type.v1.place_pb2 import InstitutionKind
from jinku.v1.ledger_pb2 import (
    GetCheckpointRequest,
    GetCheckpointResponse,
    GetEntryRequest,
    GetEntryResponse,
)
from jinku.v1.registry_pb2 import (
    GetContainerRequest,
    GetContainerResponse,
    RegisterInstitutionRequest,
    RegisterInstitutionResponse,
)
from running import (
    LEDGER,
    REGISTRY,
    Running,
    call,
    call_bytes,
    failure_of,
    running_service,
    wait_until,
)

REGISTER = REGISTRY + "RegisterInstitution"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_service(tmp_path_factory.mktemp("calls")) as running:
        yield running


@pytest.fixture(scope="module")
def registrar(running: Running) -> grpc.Channel:
    return running.registrar()


def institution(running: Running, code: str, **fields: Any) -> RegisterInstitutionRequest:
    return RegisterInstitutionRequest(
        command_id=running.command_id(),
        code=code,
        name="Head office 总行",
        kind=InstitutionKind.INSTITUTION_KIND_HEAD_OFFICE,
        **fields,
    )


def refused_call(channel: grpc.Channel, path: str, request: bytes) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call_bytes(channel, path, request)
    return failure_of(caught.value)


def test_service_starts_within_a_second(tmp_path: Path) -> None:
    started = time.monotonic()
    with running_service(tmp_path):
        # Founding included; generous, because a loaded machine syncs slowly.
        assert time.monotonic() - started < 3.0


def test_command_is_answered_from_its_durable_entry(
    running: Running, registrar: grpc.Channel
) -> None:
    request = institution(running, "A1")
    received = request.SerializeToString()
    answer = RegisterInstitutionResponse.FromString(call_bytes(registrar, REGISTER, received))
    outcome = answer.outcome
    assert outcome.WhichOneof("outcome") == "accepted"
    assert outcome.level == DurabilityLevel.DURABILITY_LEVEL_LOCAL
    header = EntryHeader.FromString(outcome.receipt.header)
    assert header.index == outcome.entry_index
    assert header.request_digest == hashlib.sha256(received).digest()
    assert header.principal.endswith("/1/service/registrar")
    assert list(header.made_ids) == [answer.institution_id]
    assert outcome.receipt.checkpoint.startswith(f"{running.settings.realm.trust_domain}/jinku/1\n")


def test_repetition_gets_the_same_bytes_and_no_entry(
    running: Running, registrar: grpc.Channel
) -> None:
    received = institution(running, "A2").SerializeToString()
    first = call_bytes(registrar, REGISTER, received)
    size = running.service.ledger.size
    assert call_bytes(registrar, REGISTER, received) == first
    assert running.service.ledger.size == size


def test_digest_is_of_the_received_bytes(running: Running, registrar: grpc.Channel) -> None:
    """Fields in another order are another request: nothing is serialised again to compare."""
    request = institution(running, "A3")
    code = RegisterInstitutionRequest(code=request.code).SerializeToString()
    rest = RegisterInstitutionRequest()
    rest.CopyFrom(request)
    rest.ClearField("code")
    received = rest.SerializeToString() + code
    answer = RegisterInstitutionResponse.FromString(call_bytes(registrar, REGISTER, received))
    header = EntryHeader.FromString(answer.outcome.receipt.header)
    assert header.request_digest == hashlib.sha256(received).digest()
    again = RegisterInstitutionResponse.FromString(
        call_bytes(registrar, REGISTER, request.SerializeToString())
    )
    assert [r.name for r in again.outcome.refused.reasons] == ["COMMAND_ID_REUSED"]


def test_refusal_is_an_answer_in_two_languages(running: Running, registrar: grpc.Channel) -> None:
    call(registrar, REGISTER, institution(running, "A4"), RegisterInstitutionResponse)
    answer = call(registrar, REGISTER, institution(running, "A4"), RegisterInstitutionResponse)
    (reason,) = answer.outcome.refused.reasons
    assert reason.name == "INSTITUTION_EXISTS"
    assert reason.text_en
    assert reason.text_zh
    assert reason.requirement
    assert answer.outcome.receipt.header


def test_queries(running: Running, registrar: grpc.Channel) -> None:
    auditor = running.auditor()
    found = call(
        registrar, REGISTRY + "GetContainer", GetContainerRequest(label="none"),
        GetContainerResponse,
    )  # fmt: skip
    assert not found.found
    entry = call(auditor, LEDGER + "GetEntry", GetEntryRequest(entry_index=0), GetEntryResponse)
    assert EntryHeader.FromString(entry.receipt.header).command == "core.store.v1.FoundRealm"
    newest = call(auditor, LEDGER + "GetCheckpoint", GetCheckpointRequest(), GetCheckpointResponse)
    assert newest.tree_size == running.service.ledger.size
    missing = GetEntryRequest(entry_index=1 << 40).SerializeToString()
    failure = refused_call(auditor, LEDGER + "GetEntry", missing)
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = failure.find(error_details_pb2.BadRequest).field_violations
    assert violation.field == "entry_index"


def test_role_that_lacks_the_rpc(running: Running) -> None:
    """Refused before it is parsed: the request is no message at all."""
    failure = refused_call(running.auditor(), REGISTER, b"\xff\xff")
    assert failure.code == grpc.StatusCode.PERMISSION_DENIED
    assert failure.reason == "ROLE_LACKS_RPC"
    info = failure.find(error_details_pb2.ErrorInfo)
    assert (info.domain, info.metadata["rpc"]) == ("jinku", "jinku.v1.RegistryService/"
                                                   "RegisterInstitution")  # fmt: skip
    locales = {d.locale for d in failure.details if hasattr(d, "locale")}
    assert locales == {"en", "zh-CN"}


def test_portal_may_not_register(running: Running, registrar: grpc.Channel) -> None:
    failure = refused_call(running.portal("unknown-portal"), REGISTER, b"")
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "NOT_REGISTERED",
    )


def test_nothing_ill_formed_reaches_the_journal(running: Running, registrar: grpc.Channel) -> None:
    size = running.service.ledger.size
    good = institution(running, "B1").SerializeToString()
    wrong_kind = institution(running, "B2")
    wrong_kind.kind = 77  # type: ignore[assignment]
    no_id = institution(running, "B3")
    no_id.ClearField("command_id")
    too_many = institution(running, "B4", extras=[Extra(name="n", number=1)] * 17)
    for received, field in (
        (good + b"\xfa\x3f\x01x", "jinku.v1.RegisterInstitutionRequest"),
        (wrong_kind.SerializeToString(), "kind"),
        (no_id.SerializeToString(), "command_id"),
        (too_many.SerializeToString(), "extras"),
        (institution(running, "C" * 65).SerializeToString(), "code"),
    ):
        failure = refused_call(registrar, REGISTER, received)
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "FIELDS_INVALID",
        )
        violations = failure.find(error_details_pb2.BadRequest).field_violations
        assert [violation.field for violation in violations] == [field]
    malformed = refused_call(registrar, REGISTER, b"\x0a\xff\xff\xff")
    assert (malformed.code, malformed.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_MALFORMED",
    )
    assert running.service.ledger.size == size


def test_many_violations_still_fit_in_the_trailers(
    running: Running, registrar: grpc.Channel
) -> None:
    request = institution(running, "B9" * 40, extras=[Extra(text="x" * 1025)] * 16)
    failure = refused_call(registrar, REGISTER, request.SerializeToString())
    violations = failure.find(error_details_pb2.BadRequest).field_violations
    assert 2 <= len(violations) <= 16


def test_oversized_message(tmp_path: Path) -> None:
    with running_service(tmp_path, SERVER__MESSAGE_BYTES_MAX="8192") as running:
        registrar = running.registrar()
        failure = refused_call(registrar, REGISTER, b"\x0a" * 10_000)
        assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        call(registrar, REGISTER, institution(running, "A1"), RegisterInstitutionResponse)


def test_unknown_method(registrar: grpc.Channel) -> None:
    failure = refused_call(registrar, REGISTRY + "DropEverything", b"")
    assert failure.code == grpc.StatusCode.UNIMPLEMENTED


def test_queue_full_is_said_with_a_time_to_retry(tmp_path: Path) -> None:
    """One command held in the writer, one waiting: the third is turned away and nothing is lost."""
    with running_service(tmp_path, SEQUENCER__QUEUE_MAX="1", SEQUENCER__BATCH_MAX="1") as running:
        holding, release = threading.Event(), threading.Event()
        decide = running.service.handlers[RegisterInstitutionRequest]

        def slow(request: Any, state: Any, context: Any) -> Any:
            holding.set()
            release.wait(10)
            return decide.decide(request, state, context)

        running.service.handlers[RegisterInstitutionRequest] = type(decide)(
            decide.request, slow, decide.answer
        )
        registrar = running.registrar()
        requests = [institution(running, f"Q{i}").SerializeToString() for i in range(3)]
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(call_bytes, registrar, REGISTER, requests[0])
            assert holding.wait(10)
            second = pool.submit(call_bytes, registrar, REGISTER, requests[1])
            wait_until(lambda: running.service.sequencer.waiting == 1)
            failure = refused_call(registrar, REGISTER, requests[2])
            release.set()
            first.result(10)
            second.result(10)
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "QUEUE_FULL",
        )
        assert failure.find(error_details_pb2.RetryInfo).retry_delay.ToNanoseconds() > 0
        call_bytes(registrar, REGISTER, requests[2])
        assert running.service.ledger.size == 4


def decide_by(running: Running, decide: Callable[[Any, Any, Any], Any]) -> None:
    """Institutions are registered by this procedure from now on."""
    handler = running.service.handlers[RegisterInstitutionRequest]
    running.service.handlers[RegisterInstitutionRequest] = type(handler)(
        handler.request, decide, handler.answer
    )


def test_cancelled_call_is_still_decided(tmp_path: Path) -> None:
    with running_service(tmp_path) as running:
        release = threading.Event()
        handler = running.service.handlers[RegisterInstitutionRequest]

        def slow(request: Any, state: Any, context: Any) -> Any:
            release.wait(10)
            return handler.decide(request, state, context)

        decide_by(running, slow)
        registrar = running.registrar()
        received = institution(running, "X1").SerializeToString()
        with pytest.raises(grpc.RpcError) as caught:
            call_bytes(registrar, REGISTER, received, seconds=0.3)
        assert failure_of(caught.value).code == grpc.StatusCode.DEADLINE_EXCEEDED
        release.set()
        answer = RegisterInstitutionResponse.FromString(call_bytes(registrar, REGISTER, received))
        assert answer.outcome.WhichOneof("outcome") == "accepted"
        assert running.service.ledger.size == 2


def test_error_in_a_procedure_is_told_of_when_nobody_waits_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str] = []
    monkeypatch.setattr("grpc_api.calls.note_incident", lambda _, rpc: noted.append(rpc))
    with running_service(tmp_path) as running:
        entered, release = threading.Event(), threading.Event()

        def broken(request: Any, _state: Any, _context: Any) -> Any:
            entered.set()
            release.wait(60)
            raise KeyError(request.code)

        decide_by(running, broken)
        received = institution(running, "X1").SerializeToString()
        registrar = running.registrar()
        # Again if it did not get as far as the procedure within its time.
        while not entered.is_set():
            with pytest.raises(grpc.RpcError):
                call_bytes(registrar, REGISTER, received, seconds=2)
        release.set()
        wait_until(lambda: bool(noted))
        assert set(noted) == {"jinku.v1.RegistryService/RegisterInstitution"}


def test_error_that_comes_with_the_end_of_the_waiting_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str] = []
    monkeypatch.setattr("grpc_api.calls.note_incident", lambda _, rpc: noted.append(rpc))
    with running_service(tmp_path) as running:
        asleep = threading.Event()

        def sleep() -> None:
            asleep.set()
            time.sleep(2)

        def broken(request: Any, _state: Any, _context: Any) -> Any:
            # The loop finds the error and the end of the caller's time in one turn.
            running.service.loop.loop.call_soon_threadsafe(sleep)
            assert asleep.wait(10)
            raise KeyError(request.code)

        decide_by(running, broken)
        received = institution(running, "X1").SerializeToString()
        registrar = running.registrar()
        grpc.channel_ready_future(registrar).result(30)
        with pytest.raises(grpc.RpcError):
            call_bytes(registrar, REGISTER, received, seconds=1)
        wait_until(lambda: bool(noted))


def test_error_in_a_procedure_is_an_incident_and_changes_nothing(
    running: Running, registrar: grpc.Channel, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = running.service.handlers[RegisterInstitutionRequest]
    size = running.service.ledger.size

    def broken(request: Any, _state: Any, _context: Any) -> Any:
        raise KeyError(request.code)

    running.service.handlers[RegisterInstitutionRequest] = type(handler)(
        handler.request, broken, handler.answer
    )
    try:
        received = institution(running, "SECRET-CODE").SerializeToString()
        failure = refused_call(registrar, REGISTER, received)
    finally:
        running.service.handlers[RegisterInstitutionRequest] = handler
    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "SECRET-CODE" not in failure.message
    assert failure.find(error_details_pb2.ErrorInfo).metadata["incident"] in failure.message
    assert running.service.ledger.size == size
    captured = capfd.readouterr()
    assert "SECRET-CODE" not in captured.out + captured.err


def test_calls_and_streams_are_limited_and_health_is_not(tmp_path: Path) -> None:
    with running_service(tmp_path, SERVER__CALLS_MAX="1") as running:
        registrar = running.registrar()
        # A call that is open and whose request has not come takes the only place.
        sent: queue.Queue[bytes | None] = queue.Queue()
        slow = registrar.stream_unary(REGISTER)
        pending = slow.future(iter(sent.get, None), timeout=20)
        wait_until(lambda: running.service.gate.count(CallKind.CALL) == 1)
        failure = refused_call(registrar, REGISTER, institution(running, "L1").SerializeToString())
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_CALLS",
        )
        health = call(
            registrar, "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(),
            health_pb2.HealthCheckResponse,
        )  # fmt: skip
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        sent.put(institution(running, "L2").SerializeToString())
        sent.put(None)
        answer = RegisterInstitutionResponse.FromString(pending.result())
        assert answer.outcome.WhichOneof("outcome") == "accepted"


def test_call_without_a_request_is_cut(
    running: Running, registrar: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpc_api.limits.REQUEST_SECONDS_MAX", 0.2)
    sent: queue.Queue[bytes | None] = queue.Queue()
    pending = registrar.stream_unary(REGISTER).future(iter(sent.get, None), timeout=20)
    with pytest.raises(grpc.RpcError) as caught:
        pending.result()
    failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "REQUEST_LATE",
    )
    sent.put(None)
    wait_until(lambda: running.service.gate.count(CallKind.CALL) == 0)


def test_health_check_without_a_request_is_cut(
    registrar: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpc_api.limits.REQUEST_SECONDS_MAX", 0.2)
    sent: queue.Queue[bytes | None] = queue.Queue()
    check = registrar.stream_unary("/grpc.health.v1.Health/Check")
    pending = check.future(iter(sent.get, None), timeout=20)
    with pytest.raises(grpc.RpcError) as caught:
        pending.result()
    failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "REQUEST_LATE",
    )
    sent.put(None)


def test_call_that_ends_without_a_request(registrar: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        registrar.stream_unary(REGISTER)(iter([]), timeout=20)
    failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_MISSING",
    )


def test_stopped_ledger_answers_unavailable(tmp_path: Path) -> None:
    """A commit whose outcome is unknown: its caller hears UNAVAILABLE, and so does everyone after."""
    with running_service(tmp_path) as running:
        registrar = running.registrar()
        service = running.service

        def no_disk(_: Any) -> None:
            raise OSError("no space left")

        service.directory.on_committed = no_disk  # type: ignore[method-assign,assignment]
        received = institution(running, "S1").SerializeToString()
        failure = refused_call(registrar, REGISTER, received)
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "LEDGER_STOPPED",
        )
        wait_until(lambda: service.failure is not None)
        assert isinstance(service.failure, OSError)
        later = refused_call(registrar, REGISTRY + "GetContainer", b"")
        assert (later.code, later.reason) == (grpc.StatusCode.UNAVAILABLE, "LEDGER_STOPPED")
        health = call(
            registrar, "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(),
            health_pb2.HealthCheckResponse,
        )  # fmt: skip
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(LedgerStopped):
            service.sequencer.submit(None)  # type: ignore[arg-type]


def test_command_ids_are_of_the_caller(running: Running, registrar: grpc.Channel) -> None:
    """Nobody reads another's answer: the auditor may not even ask, a portal has ids of its own."""
    request = institution(running, "P1")
    assert request.command_id == ClientCommandId(epoch=1, sequence=running.sequence)
    call(registrar, REGISTER, request, RegisterInstitutionResponse)
    failure = refused_call(running.auditor(), REGISTER, request.SerializeToString())
    assert failure.code == grpc.StatusCode.PERMISSION_DENIED
