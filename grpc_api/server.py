"""The door: mutual TLS on one port, health, reflection, and limits on what a peer may cost us."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2

from core.errors import SettingsError
from core.settings import ServerSettings

from .errors import CallRefused, abort
from .limits import Context, read_first
from .loop import LoopThread
from .reflection import add_reflection

# Calls of one connection beyond the limits of calls and streams: health checks, reflection, and
# telling callers that a limit is reached.
SPARE_CALLS = 16
METADATA_BYTES_MAX = 16 << 10
# What a peer takes unless it says otherwise; no answer of ours comes near it.
SEND_BYTES_MAX = 4 << 20
HANDSHAKE_MS_MAX = 10_000
# Beyond the grace: cut calls end at once, so this is never reached unless gRPC itself hangs.
STOP_SECONDS_MAX = 5.0

Status = health_pb2.HealthCheckResponse


def channel_options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        # A second process on the same port would take half of the calls without a word.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        ("grpc.max_send_message_length", SEND_BYTES_MAX),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        # What one connection may have open; more wait at the client.
        ("grpc.max_concurrent_streams", settings.calls_max + settings.streams_max + SPARE_CALLS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS_MAX),
        # We notice a peer that is gone without a word; a peer may ask as often, not more often.
        ("grpc.keepalive_time_ms", int(settings.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout_seconds * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", int(settings.ping_seconds_min * 1000)),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.max_connection_idle_ms", int(settings.idle_seconds_max * 1000)),
    ]


class Door:
    """One gRPC server in the loop's thread. Opens on construction, answers after `start`."""

    def __init__(
        self,
        settings: ServerSettings,
        handlers: Iterable[grpc.GenericRpcHandler],
        services: Iterable[ServiceDescriptor],
        loop: LoopThread,
    ) -> None:
        """Raises:
        SettingsError: the address cannot be listened on.
        """
        served = list(services)
        self._loop = loop
        self._names = ["", *(service.full_name for service in served)]
        self.listen = loop.run(self._open(settings, tuple(handlers), served))

    async def _open(
        self,
        settings: ServerSettings,
        handlers: tuple[grpc.GenericRpcHandler, ...],
        served: list[ServiceDescriptor],
    ) -> str:
        self._server = grpc.aio.server(options=channel_options(settings))
        self._health = health.aio.HealthServicer()
        self._server.add_generic_rpc_handlers((*handlers, self._health_handler()))
        await self._set_health(Status.NOT_SERVING)
        add_reflection(self._server, served)
        return self._bind(settings)

    def _bind(self, settings: ServerSettings) -> str:
        credentials = grpc.ssl_server_credentials(
            [(settings.private_key.read_bytes(), settings.certificate.read_bytes())],
            root_certificates=settings.client_ca.read_bytes(),
            require_client_auth=True,
        )
        try:
            port = self._server.add_secure_port(settings.listen, credentials)
        except RuntimeError:
            port = 0
        if not port:
            raise SettingsError(
                f"server.listen: cannot listen on {settings.listen}; "
                "is another service using it, is the address one of this machine?"
            )
        return f"{settings.listen.rpartition(':')[0]}:{port}"

    def _health_handler(self) -> grpc.GenericRpcHandler:
        """The standard service, but a check that is opened and never sent ends."""

        async def check(_requests: object, context: Context) -> bytes:
            try:
                received = await read_first(context)
            except CallRefused as refused:
                return await abort(context, refused)
            request = health_pb2.HealthCheckRequest.FromString(received or b"")
            asked: Any = context
            answer = await self._health.Check(request, asked)
            return bytes(answer.SerializeToString())

        watch: dict[str, Any] = {
            "request_deserializer": health_pb2.HealthCheckRequest.FromString,
            "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
        }
        return grpc.method_handlers_generic_handler(
            health.SERVICE_NAME,
            {
                "Check": grpc.stream_unary_rpc_method_handler(check),
                "Watch": grpc.unary_stream_rpc_method_handler(self._health.Watch, **watch),
            },
        )

    def start(self) -> None:
        self._loop.run(self._start())

    async def _start(self) -> None:
        await self._server.start()
        await self._set_health(Status.SERVING)

    def report(self, name: str, serving: bool) -> None:
        """The health of something beside the services. Soon, and from any thread."""
        state = Status.SERVING if serving else Status.NOT_SERVING
        with suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(self._health.set(name, state), self._loop.loop)

    def stop_serving(self) -> None:
        """Health says NOT_SERVING for good; calls are still answered. Soon, and from any thread."""
        with suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(
                self._health.enter_graceful_shutdown(), self._loop.loop
            )

    def stop(self, grace_seconds: float) -> None:
        """Closes the port; calls that are left after the grace are cut. Returns when all ended."""
        self._loop.run(self._stop(grace_seconds))

    async def _stop(self, grace_seconds: float) -> None:
        await self._health.enter_graceful_shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds + STOP_SECONDS_MAX):
                await self._server.stop(grace_seconds)

    async def _set_health(self, status: int) -> None:
        for name in self._names:
            await self._health.set(name, status)
