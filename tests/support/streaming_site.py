"""A site in a process of its own, to be killed: streams, seals and prunes as fast as it goes.

    python streaming_site.py DIRECTORY COUNTER

A day passes with every batch. Each reads the tag with a counter that was never used; the first one of
a process repeats COUNTER, which must be known as used. Prints each counter when it is durable.
"""

from __future__ import annotations

import sys
from pathlib import Path

from core.portal.retention import Pruner
from core.readlog import log
from core.settings import PortalSettings, ReadLogSettings
from jinku.type.v1.tag_pb2 import TagScheme
from portals import OUTER, SECOND, Read, Site, Stream, counter_identity

DAY = 86_400
RETENTION = ReadLogSettings(segment_batches_max=4, prune_interval_seconds=0.1, retention_days=30)
COUNTERS_PER_BATCH = 10


def open_site(directory: Path) -> Site:
    site = Site(directory, PortalSettings(), RETENTION).open()
    # As time goes on where the last process ended.
    times = [position.service_ns for _, position in site.read_log.positions()]
    site.now_ns = max([site.now_ns, *times]) + DAY * SECOND
    return site


def read(stream: Stream, counter: int) -> bool:
    """Send one read, wait until it is durable; whether it was found genuine."""
    tag = Read(counter_identity(0), OUTER, 0, counter=counter)
    batch = stream.send_durable([tag], scheme=TagScheme.TAG_SCHEME_COUNTER_CMAC)
    return bool(batch.counts.genuine)


def main(directory: Path, used: int) -> None:
    # Deletions in as many commits as can be.
    log.DELETED_MAX = 1
    site = open_site(directory)
    Pruner(site.parts).start()
    stream = site.stream()
    if used and read(stream, used):
        sys.exit(f"counter {used} was accepted twice")
    while True:
        site.pass_time(DAY)
        counter = stream.next_sequence * COUNTERS_PER_BATCH
        if not read(stream, counter):
            sys.exit(f"counter {counter} was not accepted")
        print(counter, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
