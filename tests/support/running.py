"""A real service in this process: mutual TLS on an ephemeral port, a ledger with fsync."""

from __future__ import annotations

import datetime
import ipaddress
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from core.settings import Settings
from grpc_api.certificates import CertificateFiles, DemonstrationCa
from grpc_api.config import load_settings
from grpc_api.founding import Founding, initialise, issue
from grpc_api.service import Service
from jinku.type.v1.command_pb2 import ClientCommandId

M = TypeVar("M", bound=Message)
REGISTRY = "/jinku.v1.RegistryService/"
LEDGER = "/jinku.v1.LedgerService/"


@dataclass
class Running:
    """One service and what is needed to call it."""

    service: Service
    directory: Path
    channels: list[grpc.Channel] = field(default_factory=list)
    sequence: int = 0

    @property
    def settings(self) -> Settings:
        return self.service.settings

    @property
    def target(self) -> str:
        return self.service.target

    @property
    def certificates(self) -> Path:
        return self.directory / "certificates"

    @property
    def config(self) -> Path:
        return self.directory / "jinku.toml"

    def issue(self, kind: str, name: str) -> CertificateFiles:
        """A certificate of the service's own CA for a portal or a service of this name."""
        return issue(DemonstrationCa(self.certificates), self.settings, kind, name)

    def files(self, name: str) -> CertificateFiles:
        return CertificateFiles.named(self.certificates, name)

    def channel(
        self, files: CertificateFiles | None, options: Sequence[tuple[str, Any]] = ()
    ) -> grpc.Channel:
        """A channel with this certificate, or with none; closed with the service."""
        credentials = grpc.ssl_channel_credentials(
            (self.certificates / "ca.pem").read_bytes(),
            files.private_key.read_bytes() if files else None,
            files.certificate.read_bytes() if files else None,
        )
        channel = grpc.secure_channel(
            self.target, credentials, [("grpc.use_local_subchannel_pool", 1), *options]
        )
        self.channels.append(channel)
        return channel

    def registrar(self) -> grpc.Channel:
        return self.channel(self.files("service-registrar"))

    def auditor(self) -> grpc.Channel:
        return self.channel(self.files("service-auditor"))

    def portal(self, name: str) -> grpc.Channel:
        return self.channel(self.issue("portal", name))

    def command_id(self) -> ClientCommandId:
        self.sequence += 1
        return ClientCommandId(epoch=1, sequence=self.sequence)


@contextmanager
def running_service(tmp_path: Path, **environment: str) -> Iterator[Running]:
    """A new realm below `tmp_path`, running until the block ends.

    `environment` are settings as in the environment, without their prefix:
    `running_service(tmp_path, SERVER__CALLS_MAX="2")`.
    """
    directory = found(tmp_path)
    with serving(directory, **environment) as running:
        yield running


def found(tmp_path: Path) -> Path:
    """The directory of a founded realm with small maps on an ephemeral port."""
    directory = tmp_path / "realm"
    initialise(Founding(directory=directory, listen="127.0.0.1:0", map_gib=1))
    return directory


@contextmanager
def serving(directory: Path, **environment: str) -> Iterator[Running]:
    """The service of a founded realm."""
    variables = {f"JINKU_{name}": value for name, value in environment.items()}
    settings = load_settings(directory / "jinku.toml", variables)
    running = Running(Service.open(settings), directory)
    try:
        yield running
    finally:
        for channel in running.channels:
            channel.close()
        running.service.close()


def call_bytes(channel: grpc.Channel, path: str, request: bytes, seconds: float = 20.0) -> bytes:
    """One unary call, bytes in and bytes out."""
    answer: bytes = channel.unary_unary(path)(request, timeout=seconds)
    return answer


def call(channel: grpc.Channel, path: str, request: Message, response: type[M]) -> M:
    return response.FromString(call_bytes(channel, path, request.SerializeToString()))


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Until the condition holds; fails if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@dataclass(frozen=True)
class Failure:
    """How a call ended that got no answer."""

    code: grpc.StatusCode
    message: str
    details: list[Message]

    @property
    def reason(self) -> str:
        """Of the ErrorInfo; empty if there is none."""
        infos = [d for d in self.details if isinstance(d, error_details_pb2.ErrorInfo)]
        return infos[0].reason if infos else ""

    def find(self, kind: type[M]) -> M:
        (found,) = [detail for detail in self.details if isinstance(detail, kind)]
        return found


DETAIL_TYPES = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.LocalizedMessage,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
)


def failure_of(error: grpc.RpcError) -> Failure:
    call_error: Any = error
    status: status_pb2.Status | None = rpc_status.from_call(call_error)
    details: list[Message] = []
    for packed in status.details if status else ():
        for kind in DETAIL_TYPES:
            message = kind()
            if packed.Unpack(message):
                details.append(message)
    return Failure(call_error.code(), call_error.details(), details)


def make_ca(directory: Path, name: str = "another") -> tuple[CertificateFiles, Any]:
    """An unmarked CA, as a bank would have one; with its key."""
    directory.mkdir(exist_ok=True, parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
    certificate = (
        build_certificate(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return write_certificate(directory, "ca", certificate, key), key


def make_certificate(
    directory: Path,
    file_name: str,
    issuer: CertificateFiles,
    alternatives: Sequence[x509.GeneralName],
    common_name: str = "",
    days: float = 1.0,
) -> CertificateFiles:
    """A certificate with exactly these alternative names, signed by any CA whose key we have."""
    issuer_key: Any = serialization.load_pem_private_key(issuer.private_key.read_bytes(), None)
    issuer_certificate = x509.load_pem_x509_certificate(issuer.certificate.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = build_certificate(x509.Name(names), issuer_certificate.subject, key, days)
    if alternatives:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(alternatives), critical=not names
        )
    return write_certificate(directory, file_name, builder.sign(issuer_key, hashes.SHA256()), key)


def build_certificate(
    subject: x509.Name, issuer: x509.Name, key: Any, days: float = 1.0
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def write_certificate(
    directory: Path, name: str, certificate: x509.Certificate, key: Any
) -> CertificateFiles:
    files = CertificateFiles.named(directory, name)
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.private_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    files.private_key.chmod(0o600)
    return files


def server_names() -> list[x509.GeneralName]:
    return [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)
