"""One loop serves all portals: what one of them costs, or what goes wrong there, is not the others'."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from core import guard
from core.errors import LedgerCorrupt
from core.portal import answers
from core.portal import session as session_module
from core.portal.session import End
from jinku.v1.portal_pb2 import Hello, ReadBatch
from jinku.v1.portal_pb2 import Read as Row
from portals import (
    INNER,
    OUTER,
    SECONDS_MAX,
    Ear,
    Read,
    Site,
    Stream,
    crossing,
    eventually,
    site_in,
    tam1_identity,
)

BOX = tam1_identity(0)
# More than is looked at in the loop.
MANY = session_module.JUDGED_HERE_MAX + 1
HELLO = Hello(portal_epoch=1, antennas=[INNER], frequencies_khz=[920_625])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path) as opened:
        yield opened


def as_columns(stream: Stream) -> ReadBatch:
    """Reads of unknown tags."""
    return stream.batch([Read(tam1_identity(1000 + at), OUTER, 0) for at in range(MANY)])


def as_rows(stream: Stream) -> ReadBatch:
    columns = as_columns(stream)
    rows = [
        Row(identity=tam1_identity(1000 + at), antenna=OUTER, rssi_cdbm=-4500, evidence=b"x" * 16)
        for at in range(MANY)
    ]
    return ReadBatch(
        sequence=columns.sequence, base_time_ns=columns.base_time_ns, scheme=columns.scheme,
        challenge_id=columns.challenge_id, rows=rows,
    )  # fmt: skip


def forged(stream: Stream) -> ReadBatch:
    """Few enough to be judged in the loop, and each has to be looked up."""
    count = session_module.SETTLED_HERE_MAX + 1
    return stream.batch([Read(tam1_identity(1000 + at), OUTER, 0) for at in range(count)])


def tell(site: Site, stream: Stream, batch: ReadBatch) -> None:
    """Send it without waiting."""
    asyncio.run_coroutine_threadsafe(stream.session.inner.receive(batch), site.loop.loop)


class Held:
    """The first call of something waits until it is released."""

    def __init__(self, monkeypatch: Any, owner: Any, name: str) -> None:
        self.begun, self._go_on = threading.Event(), threading.Event()
        self._work = getattr(owner, name)
        monkeypatch.setattr(owner, name, self._wait)

    def _wait(self, *given: Any) -> Any:
        if not self.begun.is_set():
            self.begun.set()
            assert self._go_on.wait(SECONDS_MAX)
        return self._work(*given)

    def check_loop_goes_on(self, site: Site) -> None:
        """While it waits the loop does other things."""
        assert self.begun.wait(SECONDS_MAX)
        turn = threading.Event()
        site.loop.loop.call_soon_threadsafe(turn.set)
        had_turn = turn.wait(1)
        self.release()
        assert had_turn, "all portals wait for one"

    def release(self) -> None:
        self._go_on.set()


@pytest.mark.parametrize(
    ("make", "owner", "slow"),
    [
        (as_columns, guard, "violations"),
        (as_rows, session_module, "read_columns"),
        (as_columns, answers, "look_up"),
        (forged, answers, "look_up"),
    ],
)
def test_nobody_waits_for_another_s_large_batch(
    site: Site, monkeypatch: Any, make: Callable[[Stream], ReadBatch], owner: Any, slow: str
) -> None:
    stream = site.stream()
    batch = make(stream)
    held = Held(monkeypatch, owner, slow)
    tell(site, stream, batch)
    held.check_loop_goes_on(site)
    stream.ear.wait_durable(1)
    # Half of an interval's alarms, for identities that nobody registered.
    assert len(stream.ear.wait("alarm", 32)) == 32
    kinds = [one.WhichOneof("message") for one in stream.ear.heard]
    assert kinds.index("acknowledgement") < kinds.index("presentation") < kinds.index("alarm")


def test_nobody_waits_for_a_batch_that_is_sent_again(site: Site, monkeypatch: Any) -> None:
    stream = site.stream()
    stream.send_durable([Read(BOX, OUTER, 0)])
    stream.next_sequence = 1
    held = Held(monkeypatch, site.read_log, "block")
    tell(site, stream, stream.batch([Read(BOX, OUTER, 0)]))
    held.check_loop_goes_on(site)
    eventually(lambda: stream.ear.acknowledged()[1].duplicate)


def test_nobody_waits_for_many_passages(site: Site, monkeypatch: Any) -> None:
    monkeypatch.setattr(session_module, "SETTLED_HERE_MAX", 0)
    stream = site.stream()
    stream.send_durable(crossing(BOX))
    stream.ear.wait("presentation")
    held = Held(monkeypatch, site.ledger, "read")
    site.pass_time(3)
    held.check_loop_goes_on(site)
    (passage,) = stream.ear.wait("passage")
    assert passage.container_label == "K-0"


@pytest.mark.parametrize("end", [End.SUPERSEDED, End.ABANDONED, End.FINISHED])
def test_end_while_a_batch_is_settled_beside_the_loop(
    site: Site, monkeypatch: Any, end: End
) -> None:
    monkeypatch.setattr(session_module, "SETTLED_HERE_MAX", 0)
    stream = site.stream()
    held = Held(monkeypatch, answers, "look_up")
    stream.send([Read(tam1_identity(99), OUTER, 0)])
    assert held.begun.wait(SECONDS_MAX)
    if end is End.FINISHED:
        stream.session.finish(wait_quiet=False)
    stopping = asyncio.run_coroutine_threadsafe(
        stream.session.inner.stop(End.ABANDONED if end is End.FINISHED else end), site.loop.loop
    )
    eventually(lambda: stream.session.end is end)
    assert not stopping.done()
    held.release()
    stopping.result(SECONDS_MAX)
    assert len(site.events("alarm_raised")) == 1
    assert stream.ear.of("presentation") == []
    assert site.stream().next_sequence == 2


def test_failure_while_a_batch_is_settled_beside_the_loop(site: Site, monkeypatch: Any) -> None:
    monkeypatch.setattr(session_module, "SETTLED_HERE_MAX", 0)
    stream = site.stream()
    held = Held(monkeypatch, answers, "look_up")
    stream.send([Read(tam1_identity(99), OUTER, 0)])
    assert held.begun.wait(SECONDS_MAX)
    stream.session.fail(ValueError("no"))
    opening = asyncio.run_coroutine_threadsafe(
        site.desk.open(site.portal_id(), HELLO, Ear(site.loop)), site.loop.loop
    )
    held.release()
    opening.result(SECONDS_MAX)
    assert len(site.events("alarm_raised")) == 1
    assert stream.ear.of("presentation") == []
    assert len(site.incidents) == 1
    site.incidents.clear()


def test_opening_given_up_as_it_succeeds_leaves_no_stream(site: Site) -> None:
    async def give_up() -> None:
        ear = Ear(site.loop)
        opening = asyncio.create_task(site.desk.open(site.portal_id(), HELLO, ear))
        while not ear.heard:
            await asyncio.sleep(0)
        # It is open, and whoever asked for it does not know yet.
        assert not opening.done()
        opening.cancel()
        with suppress(asyncio.CancelledError):
            await opening

    site.loop.run(give_up())
    (session,) = site.desk._sessions.values()
    eventually(lambda: session.told is End.ABANDONED)


def test_one_portal_s_broken_tick_is_not_the_others(site: Site, monkeypatch: Any) -> None:
    broken, sound = site.stream("gate-1"), site.stream("gate-2")

    def fail() -> None:
        raise OSError("the log is full")

    with monkeypatch.context() as patched:
        patched.setattr(broken.session.inner, "tick", fail, raising=False)
        sound.send_durable(crossing(BOX))
        site.pass_time(3)
        sound.ear.wait("passage")


def test_failed_restoring_is_tried_again_from_what_is_durable(site: Site, monkeypatch: Any) -> None:
    stream = site.stream()
    stream.send_durable([Read(BOX, OUTER, 0)])
    stream.ear.wait("presentation")
    stream.session.fail(ValueError("no"))
    site.incidents.clear()

    def damaged(*_: Any) -> None:
        raise LedgerCorrupt("read log", "a chunk is missing")

    with monkeypatch.context() as broken:
        broken.setattr(site.read_log, "packed", damaged)
        for _ in range(2):
            with pytest.raises(LedgerCorrupt):
                site.stream()
    stream = site.stream()
    assert stream.next_sequence == 2
    stream.send_durable(crossing(BOX)[10:])
    site.pass_time(3)
    (passage,) = stream.ear.wait("passage")
    assert passage.reads_outer == 1
