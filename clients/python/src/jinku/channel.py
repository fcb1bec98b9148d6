"""A mutual-TLS channel to the service, from PEM files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from jinku.errors import JinkuError

MESSAGE_BYTES_MAX = 16 << 20
# A line that died without a word is noticed by the kernel's unacknowledged-data timeout, so idle
# pings need be no more frequent than a server allows by default (five minutes).
OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Each channel its own connection: portals in one process must not share one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Retries are ours: they resend stored bytes and are counted.
    ("grpc.enable_retries", 0),
)


class ConnectionIncomplete(JinkuError):
    """A file or the address needed for a connection is missing."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the service is and who we are: PEM files, read when the channel is opened."""

    target: str
    certificate: Path
    key: Path
    ca: Path
    # Name in the server's certificate, where it is not the target's host.
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            root_certificates=read_pem(self.ca, "CA"),
            private_key=read_pem(self.key, "private key"),
            certificate_chain=read_pem(self.certificate, "certificate"),
        )

    def options(self) -> list[tuple[str, int | str]]:
        named = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        return [*OPTIONS, *named]

    def open(self) -> grpc.Channel:
        """A channel; nothing is sent before the first call."""
        return grpc.secure_channel(self.target, self.credentials(), options=self.options())

    def open_aio(self) -> grpc.aio.Channel:
        """The same for asyncio."""
        return grpc.aio.secure_channel(self.target, self.credentials(), options=self.options())


def read_pem(path: Path, what: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConnectionIncomplete(f"{what} {path}: {error.strerror}") from error
    if b"-----BEGIN" not in content:
        raise ConnectionIncomplete(f"{what} {path}: not a PEM file")
    return content
