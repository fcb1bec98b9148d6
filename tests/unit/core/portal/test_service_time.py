"""What had expired stays expired: across kills, with a clock that anybody sets; and it heals."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.portal.service_time import KEEP_NS_MAX, ServiceTime
from core.readlog.stored import KeptTime
from jinku.type.v1.tag_pb2 import GateDecision, TagScheme
from jinku.v1.portal_pb2 import ChallengeState
from portals import (
    OUTER,
    SECOND,
    START_NS,
    Read,
    Site,
    Stream,
    counter_identity,
    eventually,
    site_in,
    tam1_identity,
)

BOX = tam1_identity(0)
COUNTER = TagScheme.TAG_SCHEME_COUNTER_CMAC
LIVE_NS = 30 * SECOND
EXPIRED = ChallengeState.CHALLENGE_STATE_EXPIRED


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path) as opened:
        yield opened


class Killed:
    """The site as a kill at this instant leaves it, opened again with a clock that shows `now_ns`."""

    def __init__(self, site: Site, now_ns: int) -> None:
        after = site.directory.parent / f"{site.directory.name}-killed"
        shutil.copytree(site.directory, after)
        self.site = Site(after, now_ns=now_ns)

    def __enter__(self) -> Site:
        return self.site.open()

    def __exit__(self, *_: object) -> None:
        self.site.close()
        assert self.site.failures == self.site.incidents == []


def keep_now(site: Site) -> None:
    """The read log has the time, as it has within seconds."""
    now_ns = site.parts.service_time.now_ns()

    def is_kept() -> bool:
        kept = site.read_log.kept_time()
        return kept is not None and kept.now_ns > now_ns - KEEP_NS_MAX

    eventually(is_kept)


def state_of(stream: Stream, challenge: object) -> ChallengeState:
    """How a batch that answers this challenge is judged now."""
    at_ns = stream.site.parts.service_time.now_ns()
    told = stream.send_durable([Read(BOX, OUTER, 0)], challenge=challenge, base_time_ns=at_ns)
    assert told.counts.genuine == (told.challenge_state != EXPIRED)
    return told.challenge_state  # type: ignore[no-any-return]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("purpose", [1, 2])
@pytest.mark.parametrize("back_to", [0, 2, -100])
def test_expired_challenge_stays_so_when_nothing_came_until_the_kill(
    site: Site, streaming: bool, purpose: int, back_to: int
) -> None:
    """Nor had a batch come after it was issued, nor need a stream be open at the end."""
    stream = site.stream()
    old = stream.challenge(purpose)
    if not streaming:
        stream.session.finish(wait_quiet=False)
        stream.session.wait_told()
    site.pass_time(100 if purpose == 1 else 25 * 3600)
    keep_now(site)
    with Killed(site, START_NS + back_to * SECOND) as after:
        assert state_of(after.stream(), old) == EXPIRED


def test_live_challenge_does_not_outlast_a_kill_after_which_the_clock_shows_less(
    site: Site,
) -> None:
    stream = site.stream()
    site.pass_time(10)
    eventually(lambda: site.read_log.kept_time() == KeptTime(site.now_ns, site.now_ns))
    old = stream.challenge()
    with Killed(site, site.now_ns - 1) as after:
        assert state_of(after.stream(), old) == EXPIRED


def test_live_challenge_outlasts_a_kill_and_a_quick_start(site: Site) -> None:
    old = site.stream().challenge()
    keep_now(site)
    with Killed(site, site.now_ns + 2 * SECOND) as after:
        assert state_of(after.stream(), old) == ChallengeState.CHALLENGE_STATE_LIVE
        assert after.jumps == []


def test_starts_in_a_row_add_up_to_little(site: Site) -> None:
    """Each goes on a little later than what was kept, and that is no clock that was set back."""
    for _ in range(2):
        keep_now(site)
        site.restart()
    assert site.parts.service_time.now_ns() - site.now_ns == 3 * KEEP_NS_MAX
    assert site.jumps == []
    site.pass_time(2 * 3 * KEEP_NS_MAX // SECOND)
    site.parts.service_time.now_ns()
    assert site.parts.service_time.ahead_ns() == 0


def test_gate_opens_again_for_counters_after_a_clock_that_was_ahead_once(site: Site) -> None:
    tag = counter_identity(0)
    stream = site.stream()
    keep_now(site)
    site.now_ns += 3600 * SECOND
    stream.send_durable([Read(BOX, OUTER, 0)], base_time_ns=START_NS)
    site.now_ns -= 3600 * SECOND
    site.pass_time(1)
    stream.send_durable([Read(tag, OUTER, 0, counter=1)], scheme=COUNTER)
    assert [round(jump.seconds) for jump in site.jumps] == [3600, -3600]
    ahead_ns = site.parts.service_time.ahead_ns()
    assert 3590 * SECOND < ahead_ns <= 3600 * SECOND
    site.pass_time(3600)
    site.parts.service_time.now_ns()
    assert site.parts.service_time.ahead_ns() == pytest.approx(ahead_ns - 1800 * SECOND)
    # A restart in the midst of it changes nothing.
    keep_now(site)
    site.restart()
    site.pass_time(3700)
    stream = site.stream()
    stream.send_durable([Read(tag, OUTER, 0, counter=2)], scheme=COUNTER)
    (presented,) = stream.ear.wait("presentation")
    assert presented.decision == GateDecision.GATE_DECISION_RELEASE
    assert site.parts.service_time.ahead_ns() == 0


def test_shortest_life_of_a_challenge_sets_what_may_be_lost(site: Site) -> None:
    shown = START_NS
    time = ServiceTime(lambda: shown, lambda: 0)
    time.resume(None, 0, 8 * SECOND)
    assert time.to_keep() == KeptTime(START_NS, START_NS)
    shown += SECOND - 1
    assert time.to_keep() is None
    shown += 1
    assert time.to_keep() == KeptTime(START_NS + SECOND, START_NS + SECOND)


def test_log_without_a_kept_time_goes_on_after_its_batches() -> None:
    time = ServiceTime(lambda: START_NS, lambda: 0)
    time.resume(None, START_NS + SECOND, LIVE_NS)
    assert time.now_ns() > START_NS + SECOND + LIVE_NS
