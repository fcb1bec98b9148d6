"""One portal's stream over gRPC, message by message."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from grpc_api.certificates import CertificateFiles
from jinku.v1.portal_pb2 import Hello, ReadBatch, StreamRequest, StreamResponse
from portals import tam1_identity
from registrar import container, institution, issue, portal, vault
from running import REGISTRY, Running, call_bytes, failure_of

PATH = "/jinku.v1.PortalService/Stream"
BOX = tam1_identity(0)
HELLO = StreamRequest(hello=Hello(portal_epoch=1, antennas=[1, 2], frequencies_khz=[920_625]))


class Line:
    """One stream; requests are given one by one, answers are read when asked for."""

    def __init__(self, channel: grpc.Channel, *first: bytes) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        for body in first:
            self._requests.put(body)
        self.call: Any = channel.stream_stream(PATH)(iter(self._requests.get, None))

    def send(self, request: Message | bytes) -> None:
        self._requests.put(request if isinstance(request, bytes) else request.SerializeToString())

    def end(self) -> None:
        self._requests.put(None)

    def read(self, kind: str) -> Any:
        """The next message of a kind; others before it are passed over."""
        for body in self.call:
            response = StreamResponse.FromString(body)
            if response.WhichOneof("message") == kind:
                return getattr(response, kind)
        raise AssertionError(f"the stream ended without {kind}")

    def failure(self) -> Any:
        """How the stream failed."""
        with pytest.raises(grpc.RpcError) as failed:
            for _ in self.call:
                continue
        return failure_of(failed.value)


def register(service: Running) -> None:
    channel = service.registrar()
    for request in (institution(), vault(), portal("gate-1"), portal("gate-2"), container(),
                    issue(BOX)):  # fmt: skip
        request.command_id.CopyFrom(service.command_id())
        method = type(request).__name__.removesuffix("Request")
        call_bytes(channel, REGISTRY + method, request.SerializeToString())


def batch(sequence: int, now_ns: int, reads: int = 1, identity: bytes = BOX) -> StreamRequest:
    return StreamRequest(
        batch=ReadBatch(
            sequence=sequence, base_time_ns=now_ns, scheme="TAG_SCHEME_NONE",
            identity=identity * reads, antenna=b"\x01" * reads, channel=bytes(reads),
            rssi_cdbm=bytes(2 * reads), time_us=bytes(4 * reads),
        )
    )  # fmt: skip


def open_channel(target: str, directory: Path) -> grpc.Channel:
    files = CertificateFiles.named(directory / "certificates", "portal-gate-1")
    credentials = grpc.ssl_channel_credentials(
        (directory / "certificates" / "ca.pem").read_bytes(),
        files.private_key.read_bytes(),
        files.certificate.read_bytes(),
    )
    return grpc.secure_channel(target, credentials, [("grpc.use_local_subchannel_pool", 1)])
