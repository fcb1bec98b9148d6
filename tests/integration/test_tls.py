"""Who gets in: chains, names, realms. Every certificate here is really presented over TLS."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from google.rpc import error_details_pb2

from grpc_api.certificates import CertificateFiles
from grpc_api.identity import parse_certificate
from running import (
    LEDGER,
    Failure,
    Running,
    call_bytes,
    failure_of,
    make_ca,
    make_certificate,
    running_service,
    uri,
)

CHECKPOINT = LEDGER + "GetCheckpoint"
DOMAIN = "demonstration.jinku.example"
AUDITOR = f"spiffe://{DOMAIN}/1/service/auditor"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_service(tmp_path_factory.mktemp("tls")) as running:
        yield running


def present(running: Running, files: CertificateFiles | None) -> Failure | None:
    """What a caller with this certificate is told; None if it is answered."""
    try:
        call_bytes(running.channel(files), CHECKPOINT, b"", seconds=5)
    except grpc.RpcError as error:
        return failure_of(error)
    return None


def forge(running: Running, tmp_path: Path, *names: x509.GeneralName, **how: object) -> Failure:
    """Presents a certificate with these names, signed by the service's own CA."""
    files = make_certificate(tmp_path, "forged", running.files("ca"), names, **how)  # type: ignore[arg-type]
    failure = present(running, files)
    assert failure is not None, "was answered"
    return failure


def test_own_certificate_is_answered(running: Running) -> None:
    assert present(running, running.files("service-auditor")) is None


def test_same_name_of_another_ca(running: Running, tmp_path: Path) -> None:
    other, _ = make_ca(tmp_path)
    files = make_certificate(tmp_path, "auditor", other, [uri(AUDITOR)])
    failure = present(running, files)
    assert failure is not None
    assert failure.code == grpc.StatusCode.UNAVAILABLE


def test_no_certificate(running: Running) -> None:
    failure = present(running, None)
    assert failure is not None
    assert failure.code == grpc.StatusCode.UNAVAILABLE


def test_expired_certificate(running: Running, tmp_path: Path) -> None:
    failure = forge(running, tmp_path, uri(AUDITOR), days=-0.01)
    assert failure.code == grpc.StatusCode.UNAVAILABLE


def test_plain_text_gets_nothing(running: Running) -> None:
    with grpc.insecure_channel(running.target) as channel, pytest.raises(grpc.RpcError) as caught:
        call_bytes(channel, CHECKPOINT, b"", seconds=5)
    assert failure_of(caught.value).code == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "names",
    [
        [AUDITOR, f"spiffe://{DOMAIN}/1/service/registrar"],
        [AUDITOR, AUDITOR],
        [],
        ["https://demonstration.jinku.example/1/service/auditor"],
        [f"spiffe://{DOMAIN}/1/service"],
        [f"spiffe://{DOMAIN}/1/service/auditor/more"],
        [f"spiffe://{DOMAIN}/01/service/auditor"],
        [f"spiffe://{DOMAIN}/1/service/Auditor"],
        [f"spiffe://{DOMAIN}/1/person/auditor"],
        [f"spiffe://{DOMAIN}/4294967296/service/auditor"],
        [f"{AUDITOR}?x=1"],
        [f"{AUDITOR}%00"],
    ],
)
def test_name_that_is_no_principal(running: Running, tmp_path: Path, names: list[str]) -> None:
    """Also with the right name as common name, which is never looked at."""
    dns = x509.DNSName("auditor.example")
    failure = forge(running, tmp_path, dns, *map(uri, names), common_name="auditor")
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "CERTIFICATE_NOT_ACCEPTED",
    )


def test_no_alternative_name_at_all(running: Running, tmp_path: Path) -> None:
    failure = forge(running, tmp_path, common_name=AUDITOR[:64])
    assert failure.code == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"spiffe://{DOMAIN}/2/service/auditor", "OTHER_REALM"),
        ("spiffe://elsewhere.example/1/service/auditor", "OTHER_TRUST_DOMAIN"),
        (f"spiffe://{DOMAIN}/1/service/cashier", "NOT_REGISTERED"),
        (f"spiffe://{DOMAIN}/1/portal/auditor", "NOT_REGISTERED"),
    ],
)
def test_principal_that_is_not_let_in(
    running: Running, tmp_path: Path, name: str, reason: str
) -> None:
    failure = forge(running, tmp_path, uri(name))
    assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)
    assert failure.find(error_details_pb2.ErrorInfo).domain == "jinku"


def test_certificate_that_expires_while_connected(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = running.auditor()
    call_bytes(channel, CHECKPOINT, b"")
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=8)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Later:
            return cls.fromtimestamp(later.timestamp(), tz)

    monkeypatch.setattr("grpc_api.identity.datetime.datetime", Later)
    with pytest.raises(grpc.RpcError) as caught:
        call_bytes(channel, CHECKPOINT, b"")
    assert failure_of(caught.value).code == grpc.StatusCode.UNAUTHENTICATED


def test_garbage_is_no_certificate() -> None:
    assert isinstance(parse_certificate(b"-----BEGIN CERTIFICATE-----\nAAAA\n"), str)
