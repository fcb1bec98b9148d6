"""Claim service.restart_1m_tags: from the start of the process to its first answer."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.large_realm import PORTAL, fill, identity_of
from bench.results import Row, make_row
from core.keys import RealmKeys
from core.ledger.tables import IndexKind
from core.readlog.layout import Counter, Position
from core.readlog.log import ReadLog
from core.settings import Settings
from grpc_api.config import load_settings
from grpc_api.founding import read_log_path, tag_index_path
from grpc_api.service import open_ledger
from jinku.demo.service import Service
from jinku.ledger import LedgerClient
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.ledger_pb2 import GetCheckpointRequest

CLAIM = "service.restart_1m_tags"
TAGS, TAGS_QUICK = 1_000_000, 5_000
STARTS, STARTS_QUICK = 7, 1
# Of ten tags, so many have a scheme with a counter, and a durable counter.
COUNTING = (
    TagScheme.TAG_SCHEME_COUNTER_CMAC,
    TagScheme.TAG_SCHEME_SUN,
    TagScheme.TAG_SCHEME_COUNTER_CMAC_16,
)
COUNTERS_AT_ONCE = 4_096
SECONDS_MAX = 300.0


def scheme_of(number: int) -> TagScheme:
    place = number % 10
    return COUNTING[place] if place < len(COUNTING) else TagScheme.TAG_SCHEME_TAM1


def counters(tags: int) -> Iterator[Counter]:
    for number in range(tags):
        if number % 10 < len(COUNTING):
            yield Counter(identity_of(number, scheme_of(number)), 1 + number)


def make_realm(service: Service, tags: int) -> int:
    """Tags and durable counters, as a service would have left them; how many counters."""
    service.initialise()
    settings = load_settings(service.config, {})
    ledger = open_ledger(settings)
    try:
        fill(ledger, tags, scheme_of)
        with ledger.read() as state:
            portal_id = state.find(IndexKind.PORTAL_NAME, PORTAL.encode()) or b""
    finally:
        ledger.close()
    return count_up(settings, portal_id, list(counters(tags)))


def count_up(settings: Settings, portal_id: bytes, counted: list[Counter]) -> int:
    keys = RealmKeys.load(settings.keys.directory)
    log = ReadLog(read_log_path(settings), keys.readlog_key)
    log.start()
    try:
        for at in range(0, len(counted), COUNTERS_AT_ONCE):
            part = counted[at : at + COUNTERS_AT_ONCE]
            log.submit(portal_id, Position(epoch=1), [], part, lambda _: None)
        log.flush()
    finally:
        log.close()
    return len(counted)


def start(service: Service) -> tuple[float, float]:
    """Seconds from the start of the process to the answer to a call over mutual TLS, by the wall's
    clock and of the processor's time.
    """
    begun = time.monotonic()
    process = service.launch()
    host, port = service.target.split(":")
    while not is_open(host, int(port)):
        if process.poll() is not None or time.monotonic() - begun > SECONDS_MAX:
            raise RuntimeError(f"jinkud did not start:\n{service.tail()}")
        time.sleep(0.002)
    with service.connect("service", "auditor").open() as channel:
        LedgerClient(channel).get_checkpoint(GetCheckpointRequest())
    return time.monotonic() - begun, processor_seconds(process.pid)


def processor_seconds(pid: int) -> float:
    """Of all threads of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_open(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()


def measure(*, quick: bool = False, tags: int = 0) -> list[Row]:
    tags = tags or (TAGS_QUICK if quick else TAGS)
    root = Path(tempfile.mkdtemp(prefix="jinku-bench-"))
    service = Service(root / "realm")
    try:
        counted = make_realm(service, tags)
        from_tables = start(service)
        service.stop()
        starts = []
        for _ in range(STARTS_QUICK if quick else STARTS):
            starts.append(start(service))
            service.stop()
        start(service)
        kill(service.process)
        killed, _ = start(service)
        service.stop()
        size = tag_index_path(load_settings(service.config, {})).stat().st_size
    finally:
        kill(service.process)
        shutil.rmtree(root)
    seconds = [wall for wall, _ in starts]
    processor = statistics.median(of_processor for _, of_processor in starts)
    note = (
        f"{tags} tags, {counted} of them with durable counters; median of {len(seconds)} starts after "
        f"an orderly end, {min(seconds):.2f} to {max(seconds):.2f}, {processor:.2f} of the "
        f"processor's time; after a kill {killed:.2f}; snapshot of {size / 1e6:.0f} MB; without it, "
        f"from the tables, {from_tables[0]:.1f}, {from_tables[1]:.1f} of the processor's"
    )
    return [make_row(CLAIM, statistics.median(seconds), "s", note=note)]
