"""The stages in /metrics: each grows by the time that is spent in it, and no other does."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import core.portal.door
import core.portal.session
import grpc_api.portal
from core import guard
from core.portal.challenges import ChallengeSchedule
from core.portal.profile import STAGES
from core.portal.session import PortalSession
from core.portal.settling import Settler
from core.portal.tracker import Tracker
from core.readlog.log import ReadLog
from grpc_api.metrics import Metrics, MetricsServer
from lines import HELLO, Line, batch, register
from portals import OUTER, Read, Site, Stream, crossing, eventually, site_in, tam1_identity
from running import running_service

BOX = tam1_identity(0)
SPENT = 0.4
SAMPLE = re.compile(
    r'^jinku_portal_(?:stage_seconds|batches|reads)_total(?:\{\w+="(\w+)"\})? (\S+)$', re.MULTILINE
)


def scrape(listen: str) -> dict[str, float]:
    """Seconds by stage, reads by verdict, batches."""
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {label or "batches": float(value) for label, value in SAMPLE.findall(text)}


@contextmanager
def slowed(owner: Any, name: str, when: Callable[..., bool]) -> Iterator[list[None]]:
    """It takes so long the first time that `when` holds of what it is given."""
    fast = getattr(owner, name)
    slow: list[None] = []

    def wait(*given: Any, **named: Any) -> Any:
        if not slow and when(*given):
            slow.append(None)
            time.sleep(SPENT)
        return fast(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wait)
        yield slow


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path) as opened:
        yield opened


@pytest.fixture
def listen(site: Site) -> Iterator[str]:
    metrics = Metrics()
    profiles = site.parts.profiles
    metrics.watch_stages(profiles.batches, lambda: profiles.seconds(site.read_log.commit_ns))
    server = MetricsServer(metrics, "127.0.0.1:0")
    yield server.listen
    server.close()


def read_once(stream: Stream) -> None:
    stream.send_durable([Read(BOX, OUTER, 0)])


def false_read(stream: Stream) -> None:
    stream.send_durable([Read(BOX, OUTER, 0)], evidence=b"\x01" * 16)
    stream.ear.wait("alarm")


def cross(stream: Stream) -> None:
    stream.send_durable(crossing(BOX))
    eventually(lambda: not stream.session.inner._door.unsettled)
    stream.site.pass_time(30)
    stream.ear.wait("passage")


def be_quiet(stream: Stream) -> None:
    stream.site.pass_time(20)
    stream.ear.wait("challenge", 3)


def send_again(stream: Stream) -> None:
    sent = stream.batch([Read(BOX, OUTER, 0)])
    stream.session.receive(sent)
    stream.ear.wait_durable(1)
    stream.session.receive(sent)
    stream.ear.wait("acknowledgement", 2)


def always(*_: object) -> bool:
    return True


WAYS: list[tuple[str, Any, str, Callable[..., bool], Callable[[Stream], None]]] = [
    ("guard", guard, "violations", always, read_once),
    ("columns", core.portal.session, "read_columns", always, read_once),
    ("verify", core.portal.door, "verify_batch", always, read_once),
    ("tracks", Tracker, "observe", always, read_once),
    ("pack_seal", ReadLog, "seal_block", always, read_once),
    ("commit", ReadLog, "_commit", always, read_once),
    ("settle", Settler, "handle", always, read_once),
    # A receipt's alarm told; a passage that time alone causes, and that it is in the journal.
    ("settle", Settler, "_alarmed", always, false_read),
    ("settle", Settler, "handle_gone", lambda _, gone: bool(gone), cross),
    ("settle", Settler, "_passed", always, cross),
    ("send", PortalSession, "_acknowledge", always, read_once),
    ("other", ChallengeSchedule, "due", always, be_quiet),
    ("other", PortalSession, "_find_same", always, send_again),
]


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {stage: after[stage] - before[stage] for stage in STAGES}


def check(spent: dict[str, float], stage: str) -> None:
    assert spent[stage] >= SPENT
    # The disk takes what it takes.
    rest = {name: seconds for name, seconds in spent.items() if name not in {stage, "commit"}}
    assert max(rest.values()) < SPENT, rest
    assert min(spent.values()) >= 0


@pytest.mark.parametrize(
    ("stage", "owner", "name", "when", "deed"), WAYS, ids=[f"{way[0]}-{way[2]}" for way in WAYS]
)
def test_what_a_stage_takes_is_in_it_and_in_no_other(
    site: Site, listen: str, stage: str, owner: Any, name: str, when: Any, deed: Any
) -> None:
    stream = site.stream()
    stream.ear.wait("challenge", 2)
    before = scrape(listen)
    with slowed(owner, name, when) as slow:
        deed(stream)
        eventually(lambda: bool(slow))
    # What was being done when it was told is over.
    stream.session.call(lambda: None)
    eventually(lambda: stream.session.inner.is_idle)
    check(grown(before, scrape(listen)), stage)


def test_batches_are_counted(site: Site, listen: str) -> None:
    stream = site.stream()
    for _ in range(3):
        read_once(stream)
    assert scrape(listen)["batches"] == 3


def test_stages_sum_up_to_what_is_done_for_a_portal(site: Site, listen: str) -> None:
    """Whatever else of it is slow, `advance` and `tick` are in the stages as a whole."""
    stream = site.stream()
    stream.ear.wait("challenge", 2)
    before = scrape(listen)
    with slowed(PortalSession, "_make_room", always) as slow:
        read_once(stream)
        eventually(lambda: bool(slow))
    stream.session.call(lambda: None)
    check(grown(before, scrape(listen)), "other")


def test_service_tells_of_its_portals(tmp_path: Path) -> None:
    with running_service(tmp_path, SERVER__METRICS_LISTEN="127.0.0.1:0") as service:
        register(service)
        line = Line(service.portal("gate-1"), HELLO.SerializeToString())
        now_ns = line.read("welcome").service_time_ns
        line.read("challenge")
        before = scrape(service.service.metrics_listen)
        with slowed(grpc_api.portal, "_parse", always) as slow:
            line.send(batch(1, now_ns, reads=7))
            counts = line.read("acknowledgement").batches[0].counts
        line.end()
        assert slow
        after = scrape(service.service.metrics_listen)
        check(grown(before, after), "parse")
        assert counts.no_evidence == after["NO_EVIDENCE"] == 7
        assert after["batches"] == 1
