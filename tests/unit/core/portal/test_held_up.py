"""A batch that was held up is of then: it is judged when its turn comes, and no gate opens on it late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jinku.type.v1.tag_pb2 import GateDecision, TagScheme
from jinku.v1.portal_pb2 import ChallengeState
from ledgers import command
from portals import (
    OUTER,
    Read,
    Site,
    Stream,
    counter_identity,
    eventually,
    site_in,
    tam1_identity,
)
from registrar import freeze

BOX, OTHER = tam1_identity(0), tam1_identity(1)
ACTIVE = counter_identity(0)
COUNTER = TagScheme.TAG_SCHEME_COUNTER_CMAC
HOLD, RELEASE = GateDecision.GATE_DECISION_HOLD, GateDecision.GATE_DECISION_RELEASE


@contextmanager
def disk_stands_still(site: Site) -> Iterator[None]:
    """Nothing becomes durable meanwhile."""
    held, may_go = threading.Event(), threading.Event()
    commit: Callable[[Any], None] = site.read_log._commit

    def wait(writes: list[Any]) -> None:
        held.set()
        may_go.wait(20)
        commit(writes)

    site.read_log._commit = wait  # type: ignore[method-assign]
    try:
        yield
    finally:
        site.read_log._commit = commit  # type: ignore[method-assign]
        may_go.set()


def told(stream: Stream) -> list[tuple[bytes, int]]:
    return [
        (tag.identity, tag.decision) for one in stream.ear.of("presentation") for tag in one.tags
    ]


def settled(stream: Stream) -> None:
    eventually(lambda: not stream.session.inner._door.unsettled)


def test_batch_that_waited_for_room_is_judged_when_it_is_taken(tmp_path: Path) -> None:
    with site_in(tmp_path, batches_in_flight_max=1) as site:
        stream = site.stream()
        late = stream.challenge()
        with disk_stands_still(site):
            stream.send([Read(OTHER, OUTER, 0)])
            batch = stream.batch([Read(BOX, OUTER, 0)], challenge=late)
            examined_ns = stream.session.inner.profile.columns_ns
            waiting = threading.Thread(target=stream.session.receive, args=[batch])
            waiting.start()
            eventually(lambda: stream.session.inner.profile.columns_ns > examined_ns)
            site.pass_time(600)
        waiting.join()
        stream.ear.wait_durable(2)
        judged = stream.ear.acknowledged()[2]
        assert judged.challenge_state == ChallengeState.CHALLENGE_STATE_EXPIRED
        assert judged.counts.replayed == 1
        settled(stream)
        # The first was live when it was judged, and is not when it would be told.
        assert told(stream) == []


@pytest.mark.parametrize(
    ("identity", "fields"), [(BOX, {}), (ACTIVE, {"scheme": COUNTER})], ids=["challenge", "counter"]
)
@pytest.mark.parametrize(("seconds", "opens"), [(25, True), (31, False)])
def test_no_gate_opens_on_reads_that_became_durable_too_late(
    tmp_path: Path, identity: bytes, fields: dict[str, Any], seconds: int, opens: bool
) -> None:
    with site_in(tmp_path, quiet_ms=60_000) as site:
        stream = site.stream()
        with disk_stands_still(site):
            stream.send([Read(identity, OUTER, 0, counter=1)], **fields)
            site.pass_time(seconds)
        stream.ear.wait_durable(1)
        assert stream.ear.acknowledged()[1].counts.genuine == 1
        settled(stream)
        assert told(stream) == [(identity, RELEASE)] * opens
        # Still there: it passes on a read of now, unless it did before.
        eventually(lambda: len(stream.ear.of("challenge")) > 2)
        stream.send_durable([Read(identity, OUTER, 0, counter=2)], **fields)
        settled(stream)
        assert told(stream) == [(identity, RELEASE)]


def test_what_must_not_pass_is_told_however_late(tmp_path: Path) -> None:
    with site_in(tmp_path) as site:
        stream = site.stream()
        stream.send_durable([Read(BOX, OUTER, 0)])
        settled(stream)
        assert told(stream) == [(BOX, RELEASE)]
        site.sequencer.submit(command(freeze(BOX))).result()
        with disk_stands_still(site):
            stream.send([Read(BOX, OUTER, 1), Read(OTHER, OUTER, 1)])
            site.pass_time(600)
        stream.ear.wait_durable(2)
        settled(stream)
        assert told(stream) == [(BOX, RELEASE), (BOX, HOLD)]
