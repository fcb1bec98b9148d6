"""Prometheus metrics: a registry of our own, and a small facade that the other parts call.

No label carries anything a caller sent: RPCs come from the table, codes, reasons and verdicts from
enums, witnesses from the settings.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from core.ledger.store import Usage

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class _Stages(Collector):
    """What the portals' profiles say when it is asked for: counting costs no call of ours."""

    def __init__(self) -> None:
        self.batches: Callable[[], int] = lambda: 0
        self.seconds: Callable[[], Mapping[str, float]] = dict

    def collect(self) -> Iterable[CounterMetricFamily]:
        yield CounterMetricFamily(
            "jinku_portal_batches", "Batches handed to the read log", value=self.batches()
        )
        family = CounterMetricFamily(
            "jinku_portal_stage_seconds", "Where the time of batches goes", labels=["stage"]
        )
        for stage, seconds in self.seconds().items():
            family.add_metric([stage], seconds)
        yield family


class Metrics:
    """What is counted. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._calls = Counter(
            "jinku_calls", "Calls that ended, by gRPC code", ["rpc", "code"], registry=registry
        )
        self._call_seconds = Histogram(
            "jinku_call_seconds", "From a call's start to its end", ["rpc"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._rejected = Counter(
            "jinku_calls_rejected", "Calls that got no answer, by ErrorInfo reason",
            ["reason"], registry=registry,
        )  # fmt: skip
        self._in_flight = Gauge("jinku_in_flight", "Calls under way", ["kind"], registry=registry)
        self._refused = Counter(
            "jinku_refused", "Commands answered with a refusal, by reason",
            ["reason"], registry=registry,
        )  # fmt: skip
        self._queue_depth = Gauge(
            "jinku_sequencer_queue_depth", "Commands that wait for the writer", registry=registry
        )
        self._batch = Histogram(
            "jinku_sequencer_batch_commands", "Commands in one commit",
            buckets=SIZES, registry=registry,
        )  # fmt: skip
        self._durable_seconds = Histogram(
            "jinku_command_durable_seconds", "From handing a command in to its entry being durable",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._ledger_entries = Gauge(
            "jinku_ledger_entries", "Entries in the journal", registry=registry
        )
        self._ledger_bytes = Gauge(
            "jinku_ledger_bytes", "What the ledger's file takes", registry=registry
        )
        self._ledger_bytes_max = Gauge(
            "jinku_ledger_bytes_max", "What it may take: storage.ledger_map_gib", registry=registry
        )
        self._snapshot_seconds = Gauge(
            "jinku_ledger_snapshot_seconds", "Age of the oldest open snapshot of the ledger",
            registry=registry,
        )  # fmt: skip
        self._clock_ahead = Gauge(
            "jinku_clock_ahead_seconds", "How far the journal's time is ahead of the clock",
            registry=registry,
        )  # fmt: skip
        self._portal_clock_ahead = Gauge(
            "jinku_portal_clock_ahead_seconds",
            "How far the time that challenges live by is ahead of the clock", registry=registry,
        )  # fmt: skip
        self._reads = Counter(
            "jinku_portal_reads", "Reads of portals, by verdict", ["verdict"], registry=registry
        )
        self._untracked = Counter(
            "jinku_portal_reads_untracked", "Genuine reads of tags that no track was left for",
            registry=registry,
        )  # fmt: skip
        self._streams_cut = Counter(
            "jinku_calls_cut", "Calls cancelled because the peer kept us waiting",
            registry=registry,
        )  # fmt: skip
        self._stages = _Stages()
        registry.register(self._stages)
        self._witnessed = Gauge(
            "jinku_witnessed_entries", "Entries in the newest checkpoint that a quorum cosigned",
            registry=registry,
        )  # fmt: skip
        self._witness_lag = Gauge(
            "jinku_witness_lag_seconds", "For how long entries have not been witnessed",
            registry=registry,
        )  # fmt: skip
        self._cosigned = Gauge(
            "jinku_witness_cosigned_entries", "Entries that this witness cosigned last",
            ["witness"], registry=registry,
        )  # fmt: skip
        self._witness_failures = Counter(
            "jinku_witness_failures", "Times a witness did not cosign",
            ["witness", "reason"], registry=registry,
        )  # fmt: skip
        self._serving = Gauge("jinku_serving", "1 while the service answers", registry=registry)

    def call_ended(self, rpc: str, code: str, seconds: float) -> None:
        self._calls.labels(rpc, code).inc()
        self._call_seconds.labels(rpc).observe(seconds)

    def call_rejected(self, reason: str) -> None:
        self._rejected.labels(reason).inc()

    def call_cut(self) -> None:
        self._streams_cut.inc()

    def refused(self, reasons: Iterable[str]) -> None:
        """A procedure refused; `reasons` are names of `jinku.type.v1.ReasonCode`."""
        for reason in reasons:
            self._refused.labels(reason).inc()

    def committed(self, commands: int) -> None:
        """One commit is durable."""
        self._batch.observe(commands)

    def durable(self, seconds: float) -> None:
        """One command waited so long for its commit."""
        self._durable_seconds.observe(seconds)

    def portal_reads(self, counts: Mapping[str, int]) -> None:
        """Reads of one acknowledged batch: verdict name → how many."""
        for verdict, count in counts.items():
            if count:
                self._reads.labels(verdict).inc(count)

    def portal_untracked(self, reads: int) -> None:
        """Genuine reads that no passage will be made of: portal.tracks_max is too small."""
        self._untracked.inc(reads)

    def serving(self, value: bool) -> None:
        self._serving.set(1 if value else 0)

    def witnessed(self, entries: int, lag_seconds: float) -> None:
        """How far witnesses have cosigned, and how long more has been waiting for them."""
        self._witnessed.set(entries)
        self._witness_lag.set(lag_seconds)

    def witness_cosigned(self, witness: str, entries: int) -> None:
        self._cosigned.labels(witness).set(entries)

    def witness_failed(self, witness: str, reason: str) -> None:
        self._witness_failures.labels(witness, reason).inc()

    def watch_stages(
        self, batches: Callable[[], int], seconds: Callable[[], Mapping[str, float]]
    ) -> None:
        """Batches since the start, and seconds by stage."""
        self._stages.batches, self._stages.seconds = batches, seconds

    def watch_in_flight(self, kind: str, read: Callable[[], int]) -> None:
        self._in_flight.labels(kind).set_function(read)

    def watch_queue(self, read: Callable[[], int]) -> None:
        self._queue_depth.set_function(read)

    def watch_ledger(self, entries: Callable[[], int], usage: Callable[[], Usage]) -> None:
        self._ledger_entries.set_function(entries)
        self._ledger_bytes.set_function(lambda: usage().bytes_used)
        self._ledger_bytes_max.set_function(lambda: usage().bytes_max)
        self._snapshot_seconds.set_function(lambda: usage().oldest_snapshot_seconds)

    def watch_clock(self, ahead_seconds: Callable[[], float]) -> None:
        self._clock_ahead.set_function(ahead_seconds)

    def watch_portal_clock(self, ahead_seconds: Callable[[], float]) -> None:
        self._portal_clock_ahead.set_function(ahead_seconds)


class MetricsServer:
    """Serves one registry over plain HTTP until closed."""

    def __init__(self, metrics: Metrics, listen: str) -> None:
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        self._server, self._thread = start_http_server(
            int(port), addr=host, registry=metrics.registry
        )
        name = f"[{host}]" if _is_v6(host) else host
        self.listen = f"{name}:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
