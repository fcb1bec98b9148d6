"""The door: mutual TLS on one port, health, reflection, and limits on what a peer may cost us."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from core.errors import SettingsError
from core.settings import ServerSettings

from .reflection import add_reflection

# Threads beyond the limits of calls and streams: health checks, reflection, and telling callers
# that a limit is reached.
SPARE_THREADS = 16
HEALTH_THREADS = 2
METADATA_BYTES_MAX = 16 << 10
HANDSHAKE_MS_MAX = 10_000

Status = health_pb2.HealthCheckResponse


def channel_options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        # A second process on the same port would take half of the calls without a word.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        ("grpc.max_send_message_length", settings.message_bytes_max),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        # What one connection may have open; more wait at the client.
        ("grpc.max_concurrent_streams", settings.calls_max + settings.streams_max + SPARE_THREADS),
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
    """One gRPC server. Opens on construction, answers after `start`."""

    def __init__(
        self,
        settings: ServerSettings,
        handlers: Iterable[grpc.GenericRpcHandler],
        services: Iterable[ServiceDescriptor],
    ) -> None:
        """Raises:
        SettingsError: the address cannot be listened on.
        """
        served = list(services)
        self._pool = ThreadPoolExecutor(
            settings.calls_max + settings.streams_max + SPARE_THREADS, thread_name_prefix="call"
        )
        self._health_pool = ThreadPoolExecutor(HEALTH_THREADS, thread_name_prefix="health")
        self._server = grpc.server(self._pool, options=channel_options(settings))
        self._server.add_generic_rpc_handlers(tuple(handlers))
        self._health = health.HealthServicer(
            experimental_non_blocking=True, experimental_thread_pool=self._health_pool
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = ["", *(service.full_name for service in served)]
        self._set_health(Status.NOT_SERVING)
        add_reflection(self._server, served)
        self.listen = self._bind(settings)

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
            self._server.stop(None)
            raise SettingsError(
                f"server.listen: cannot listen on {settings.listen}; "
                "is another service using it, is the address one of this machine?"
            )
        return f"{settings.listen.rpartition(':')[0]}:{port}"

    def start(self) -> None:
        self._server.start()
        self._set_health(Status.SERVING)

    def stop_serving(self) -> None:
        """Health says NOT_SERVING for good; calls are still answered."""
        self._health.enter_graceful_shutdown()

    def stop(self, grace_seconds: float) -> None:
        """Closes the port; calls that are left after the grace are cut. Returns when all ended."""
        self.stop_serving()
        self._server.stop(grace_seconds).wait()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._health_pool.shutdown(wait=False, cancel_futures=True)

    def _set_health(self, status: int) -> None:
        for name in self._names:
            self._health.set(name, status)
