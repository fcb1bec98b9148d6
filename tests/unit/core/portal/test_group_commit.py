"""One group commit for all portals: what waits while the disk is busy becomes durable at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from portals import OUTER, Read, Site, eventually, site_in, tam1_identity

PORTALS = ("gate-1", "gate-2", "gate-far")
BATCHES = 3


def commits(site: Site) -> int:
    """Write transactions of the read log, since ever."""
    return int(site.read_log._env.info()["last_txnid"])


def test_batches_of_all_portals_share_the_next_commit(tmp_path: Path) -> None:
    with site_in(tmp_path) as site:
        streams = [site.stream(name) for name in PORTALS]
        for stream in streams:
            stream.challenge()
        # The service's time is kept, and is not due again: nothing else is written.
        eventually(lambda: site.read_log.kept_time() is not None)
        site.read_log.flush()
        held, may_go = threading.Event(), threading.Event()
        commit: Callable[[Any], None] = site.read_log._commit

        def wait_first(writes: list[Any]) -> None:
            held.set()
            may_go.wait(20)
            commit(writes)

        site.read_log._commit = wait_first  # type: ignore[method-assign]
        before = commits(site)
        streams[0].send([Read(tam1_identity(0), OUTER, 0)])
        assert held.wait(10)
        for stream in streams:
            for _ in range(BATCHES):
                stream.send([Read(tam1_identity(1), OUTER, 0)])
        may_go.set()
        for stream in streams:
            stream.ear.wait_durable(BATCHES + (stream is streams[0]))
        # That of the first batch, and that of all the others.
        assert commits(site) - before == 2
        assert sum(len(site.reads_kept(name)) for name in PORTALS) == 1 + len(PORTALS) * BATCHES
