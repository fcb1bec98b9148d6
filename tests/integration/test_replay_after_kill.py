"""What a killed service had acknowledged is refused when it is played again to the next one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.keys import RealmKeys, load_tag_masters
from core.readlog.stored import StoredReads
from grpc_api.founding import read_log_path
from grpc_api.personalise import diversify
from jinku.softtags import SoftTag, answer_tam1, make_frame, make_sun
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import Challenge, ChallengeState, ReadBatch, StreamRequest
from lines import HELLO, Line, open_channel
from process import Daemon, daemon
from registrar import container, institution, issue, portal, vault
from running import REGISTRY, call_bytes, found, serving

TAM1, SUN = TagScheme.TAG_SCHEME_TAM1, TagScheme.TAG_SCHEME_SUN
COUNTER, COUNTER_16 = TagScheme.TAG_SCHEME_COUNTER_CMAC, TagScheme.TAG_SCHEME_COUNTER_CMAC_16
IDENTITIES = {
    TAM1: b"\xe2\x80tam1......",
    SUN: b"\x04sun...",
    COUNTER: b"\x04count.8",
    COUNTER_16: b"\x04count16",
}
LIVE_SECONDS = 3.0


class Realm:
    """A founded realm with a tag of each scheme, its service in a process that is killed."""

    def __init__(self, tmp_path: Path) -> None:
        self.directory = found(tmp_path)
        with serving(self.directory) as running:
            channel = running.registrar()
            requests: list[Any] = [institution(), vault(), portal("gate-1")]
            for scheme, identity in IDENTITIES.items():
                label = TagScheme.Name(scheme)
                requests += [container(label), issue(identity, label, scheme=scheme)]
            for request in requests:
                request.command_id.CopyFrom(running.command_id())
                method = type(request).__name__.removesuffix("Request")
                call_bytes(channel, REGISTRY + method, request.SerializeToString())
            running.issue("portal", "gate-1")
            self.settings = running.settings
        ((realm, _, master),) = load_tag_masters(self.settings.keys.directory)
        self.tags = {
            scheme: SoftTag(identity, scheme, diversify(bytes(master), identity, realm))
            for scheme, identity in IDENTITIES.items()
        }

    def evidence(self, scheme: int, counter: int) -> bytes:
        tag = self.tags[scheme]
        return make_sun(tag, counter) if scheme == SUN else make_frame(tag, counter)

    def kept_ns(self) -> int:
        """The latest time that the killed service's read log knows."""
        keys = RealmKeys.load(self.settings.keys.directory)
        log = StoredReads(read_log_path(self.settings), keys.readlog_key, map_gib=1)
        try:
            kept = log.kept_time()
            assert kept is not None
            return kept.now_ns
        finally:
            log.close()


def one_read(
    sequence: int, scheme: int, evidence: bytes, challenge: Challenge | None = None
) -> StreamRequest:
    return StreamRequest(
        batch=ReadBatch(
            sequence=sequence, base_time_ns=time.time_ns(), scheme=scheme,  # type: ignore[arg-type]
            challenge_id=challenge.challenge_id if challenge else b"",
            identity=IDENTITIES[scheme], evidence=evidence, antenna=b"\x01", channel=b"\0",
            rssi_cdbm=bytes(2), time_us=bytes(4),
        )
    )  # fmt: skip


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    return Realm(tmp_path)


@contextmanager
def line_to(realm: Realm, **variables: str) -> Iterator[tuple[Line, int, Daemon]]:
    """A stream to a service in a process of its own, and from which sequence it goes on."""
    with (
        daemon(realm.directory / "jinku.toml", **variables) as service,
        open_channel(service.target, realm.directory) as channel,
    ):
        line = Line(channel, HELLO.SerializeToString())
        yield line, line.read("welcome").resume_sequence, service
        line.end()


def kill(service: Daemon) -> None:
    service.process.kill()
    assert service.process.wait(10) == -9


def test_counters_acknowledged_before_a_kill_are_refused_after_it(realm: Realm) -> None:
    schemes = [SUN, COUNTER, COUNTER_16]
    for used in (5, 6, 7):
        with line_to(realm) as (line, sequence, service):
            for scheme in schemes:
                # What counted before the last kill does not any more; the next one does.
                for counter in (used - 1, used) if used > 5 else (used,):
                    line.send(one_read(sequence, scheme, realm.evidence(scheme, counter)))
                    counts = line.read("acknowledgement").batches[0].counts
                    expected = (1, 0) if counter == used else (0, 1)
                    assert (counts.genuine, counts.replayed) == expected, (scheme, counter)
                    sequence += 1
            # Acknowledged a moment ago, and nothing was stopped in order.
            kill(service)


def test_expired_challenge_is_refused_after_a_kill_although_nothing_was_read_since(
    realm: Realm,
) -> None:
    """Whatever the clock shows then: the time that was kept is later than the expiry."""
    variables = {"JINKU_PORTAL__LIVE_CHALLENGE_SECONDS": str(LIVE_SECONDS)}
    with line_to(realm, **variables) as (line, _, service):
        old = line.read("challenge")
        time.sleep(LIVE_SECONDS + 1)
        kill(service)
    assert realm.kept_ns() > old.expires_at_ns
    with line_to(realm, **variables) as (line, sequence, _):
        fresh = line.read("challenge")
        states = []
        for at, challenge in enumerate((old, fresh)):
            answer = answer_tam1(realm.tags[TAM1], challenge.challenge).tobytes()
            line.send(one_read(sequence + at, TAM1, answer, challenge))
            states.append(line.read("acknowledgement").batches[0].challenge_state)
    assert states == [
        ChallengeState.CHALLENGE_STATE_EXPIRED,
        ChallengeState.CHALLENGE_STATE_LIVE,
    ]
