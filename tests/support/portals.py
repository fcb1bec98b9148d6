"""A small site for tests of portals: real ledger, read log and kernels, a clock that is set by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core.directory import TagDirectory
from core.journal_clock import Jump
from core.keys import RealmKeys
from core.ledger.ledger import Ledger
from core.ledger.tables import IndexKind
from core.portal.challenges import ChallengeBook
from core.portal.desk import PortalDesk
from core.portal.floor import Floor
from core.portal.outbound import Outbound
from core.portal.parts import Parts
from core.portal.received import take_apart
from core.portal.service_time import ServiceTime
from core.portal.session import End, PortalSession
from core.procedures.table import handlers
from core.readlog.log import ReadLog
from core.realm import principal_of
from core.sequencer import Sequencer
from core.settings import PortalSettings, ReadLogSettings
from grpc_api.loop import LoopThread
from jinku.event.v1.event_pb2 import Event, Events
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import Challenge, Hello, ReadBatch, StreamRequest, StreamResponse
from ledgers import REALM, TRUST_DOMAIN, reopen
from registrar import Registrar, container, institution, issue, portal, vault
from tag_reference import counter_evidence, tag_key, tam1_response

MASTER = bytes(range(16))
START_NS = 1_800_000_000_000_000_000
SECOND = 1_000_000_000
INNER, OUTER = 1, 2
SECONDS_MAX = 10.0


def tam1_identity(number: int) -> bytes:
    return b"\xe2\x80" + number.to_bytes(10, "big")


def counter_identity(number: int) -> bytes:
    return b"\x04" + number.to_bytes(6, "big")


def found_site(directory: Path, tags: int = 4, counter_tags: int = 2) -> None:
    """One vault with two gates, another vault, boxes K-0… with TAM1 tags, C-0… with counters."""
    registrar = Registrar(directory)
    for request in (institution(), vault("V-1"), vault("V-2"), portal("gate-1"), portal("gate-2"),
                    portal("gate-far", "V-2")):  # fmt: skip
        registrar.accept(request)
    for number in range(tags):
        registrar.accept(container(f"K-{number}"))
        registrar.accept(issue(tam1_identity(number), f"K-{number}"))
    for number in range(counter_tags):
        registrar.accept(container(f"C-{number}"))
        registrar.accept(
            issue(counter_identity(number), f"C-{number}", scheme="TAG_SCHEME_COUNTER_CMAC")
        )
    registrar.ledger.close()


class Ear(Outbound):
    """What one stream was told; waits for what is to come."""

    def __init__(self, loop: LoopThread) -> None:
        super().__init__()
        self.loop = loop.loop
        self.changed = threading.Condition()
        self.heard: list[StreamResponse] = []
        # As towards a client that does not read.
        self.deaf = False
        self.over = False

    @property
    def has_room(self) -> bool:
        return not self.deaf or self.over

    def put(self, response: StreamResponse) -> None:
        with self.changed:
            if not self.over:
                self.heard.append(response)
            self.changed.notify_all()

    def close(self, *, keep: bool) -> None:
        with self.changed:
            self.over = True
            self.changed.notify_all()

    def listen(self) -> None:
        """Read again."""
        self.deaf = False
        self.loop.call_soon_threadsafe(self.on_room)

    def of(self, kind: str) -> list[Any]:
        with self.changed:
            return [getattr(one, kind) for one in self.heard if one.HasField(kind)]  # type: ignore[arg-type]

    def wait(self, kind: str, count: int = 1) -> list[Any]:
        """At least `count` messages of a kind."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.of(kind)) >= count, SECONDS_MAX), (
                f"no {count} × {kind}: {[one.WhichOneof('message') for one in self.heard]}"
            )
            return self.of(kind)

    def wait_durable(self, sequence: int) -> None:
        def is_durable() -> bool:
            return any(one.through_sequence >= sequence for one in self.of("acknowledgement"))

        with self.changed:
            assert self.changed.wait_for(is_durable, SECONDS_MAX), (
                f"batch {sequence} is not durable"
            )

    def acknowledged(self) -> dict[int, Any]:
        return {
            batch.sequence: batch for one in self.of("acknowledgement") for batch in one.batches
        }

    def rejected(self) -> list[str]:
        """Names of the reasons of every rejection."""
        return [reason.name for one in self.of("rejected") for reason in one.refused.reasons]


@dataclass
class Read:
    """One read to be made."""

    identity: bytes
    antenna: int
    time_us: int
    rssi_cdbm: int = -4500
    counter: int = 0


def crossing(
    identity: bytes, *, inwards: bool = True, start_us: int = 0, reads: int = 20
) -> list[Read]:
    """A walk through the door in one second: first one side, then the other."""
    first, second = (OUTER, INNER) if inwards else (INNER, OUTER)
    return [
        Read(identity, first if at < reads // 2 else second, start_us + at * 1_000_000 // reads)
        for at in range(reads)
    ]


@dataclass
class Site:
    """The site's services, opened as one process would."""

    directory: Path
    settings: PortalSettings = field(default_factory=PortalSettings)
    retention: ReadLogSettings = field(default_factory=ReadLogSettings)
    now_ns: int = START_NS
    elapsed_ns: int = 0
    failures: list[BaseException] = field(default_factory=list)
    incidents: list[BaseException] = field(default_factory=list)
    masters: list[tuple[int, int]] = field(default_factory=lambda: [(REALM, 1)])
    jumps: list[Jump] = field(default_factory=list)
    untracked: int = 0
    replayed: int = 0

    def open(self) -> Site:
        self.keys = RealmKeys.load(self.directory / "keys")
        self.ledger: Ledger = reopen(self.directory)
        masters = [(realm, version, bytearray(MASTER)) for realm, version in self.masters]
        self.directory_of_tags = TagDirectory(self.ledger, masters)
        self.sequencer = Sequencer(
            self.ledger, handlers(self.directory_of_tags.loaded_keys), on_committed=self.directory_of_tags.on_committed,
            on_stop=self.failures.append, clock=lambda: self.now_ns, steady=lambda: self.now_ns,
        )  # fmt: skip
        self.sequencer.start()
        self.loop = LoopThread()
        self.read_log = ReadLog(
            self.directory / "readlog", self.keys.readlog_key, map_gib=1,
            on_stop=self.failures.append,
        )  # fmt: skip
        self.read_log.start()
        self.parts = Parts(
            ledger=self.ledger,
            directory=self.directory_of_tags,
            sequencer=self.sequencer,
            read_log=self.read_log,
            challenges=ChallengeBook.of(
                self.keys.challenge_key,
                self.settings.live_challenge_seconds,
                self.settings.spool_challenge_hours,
            ),
            settings=self.settings,
            principal=principal_of(TRUST_DOMAIN, REALM, "service", "jinkud"),
            floor=Floor(self.loop.loop),
            retention=self.retention,
            on_failure=self.failures.append,
            on_incident=self.incidents.append,
            on_untracked=self._count_untracked,
            clock=lambda: self.now_ns,
            service_time=ServiceTime(
                lambda: self.now_ns, lambda: self.elapsed_ns, self.jumps.append
            ),
            monotonic=lambda: self.elapsed_ns,
        )
        self.desk = PortalDesk(self.parts)
        self.replayed = self.desk.start()
        return self

    def close(self) -> None:
        self.stop_desk()
        self.parts.floor.close()
        self.loop.close()
        self.read_log.close()
        self.sequencer.stop()
        self.ledger.close()
        self.directory_of_tags.arena.close()

    def stop_desk(self) -> None:
        self.loop.run(self.desk.stop())

    def _count_untracked(self, reads: int) -> None:
        self.untracked += reads

    def restart(self) -> None:
        self.close()
        self.open()

    def pass_time(self, seconds: float) -> None:
        """Both clocks go on."""
        self.now_ns += int(seconds * SECOND)
        self.elapsed_ns += int(seconds * SECOND)

    def portal_id(self, name: str = "gate-1") -> bytes:
        with self.ledger.read() as state:
            found = state.find(IndexKind.PORTAL_NAME, name.encode())
        assert found is not None
        return found

    def stream(
        self, name: str = "gate-1", epoch: int = 1, antennas: Iterable[int] = (INNER, OUTER)
    ) -> Stream:
        ear = Ear(self.loop)
        hello = Hello(portal_epoch=epoch, antennas=antennas, frequencies_khz=[920_625, 921_125])
        session = self.loop.run(self.desk.open(self.portal_id(name), hello, ear))
        return Stream(self, Session(session, self.loop), ear)

    def events(self, kind: str) -> list[Any]:
        """Every event of a kind in the journal."""
        found: list[Event] = []
        for _, entry in self.ledger.entries():
            found += Events.FromString(entry.events).events
        return [getattr(one, kind) for one in found if one.HasField(kind)]  # type: ignore[arg-type]

    def reads_kept(self, name: str = "gate-1", epoch: int = 1) -> dict[int, int]:
        """Reads in the log by sequence."""
        blocks = self.read_log.batches(self.portal_id(name), epoch)
        return {sequence: len(block.columns) for sequence, block in blocks}


@dataclass
class Session:
    """A session, for threads other than its own."""

    inner: PortalSession
    loop: LoopThread

    @property
    def end(self) -> End | None:
        return self.inner.end

    def receive(self, batch: ReadBatch, size: int | None = None) -> None:
        self.loop.run(self.inner.receive(batch, size))

    def receive_bytes(self, received: bytes) -> None:
        """A StreamRequest with a batch: taken apart where that can be, as the service does it."""
        parted = take_apart(received)
        if parted is None:
            self.receive(StreamRequest.FromString(received).batch, len(received))
        else:
            self.loop.run(self.inner.receive(*parted))

    def stop(self, end: End) -> None:
        self.loop.run(self.inner.stop(end))

    def finish(self, *, wait_quiet: bool) -> None:
        self.call(lambda: self.inner.finish(wait_quiet=wait_quiet))

    def fail(self, error: BaseException) -> None:
        self.call(lambda: self.inner.fail(error))

    def call(self, work: Callable[[], object]) -> None:
        """Done in the loop's thread on return."""

        async def done() -> None:
            work()

        self.loop.run(done())

    def wait_told(self) -> End:
        """What the stream was told at its end."""
        eventually(lambda: self.inner.told is not None)
        assert self.inner.told is not None
        return self.inner.told


@dataclass
class Stream:
    """A portal's side."""

    site: Site
    session: Session
    ear: Ear
    next_sequence: int = 0

    def __post_init__(self) -> None:
        (welcome,) = self.ear.wait("welcome")
        self.next_sequence = welcome.resume_sequence

    def challenge(self, purpose: int = 1) -> Challenge:
        found: list[Challenge] = [
            one for one in self.ear.wait("challenge", 2) if one.purpose == purpose
        ]
        return found[-1]

    def batch(self, reads: Sequence[Read], **fields: Any) -> ReadBatch:
        """TAM1 reads that answer the newest live challenge, as columns."""
        fields = {"scheme": TagScheme.TAG_SCHEME_TAM1, "challenge": None, **fields}
        scheme, challenge = fields.pop("scheme"), fields.pop("challenge")
        if scheme == TagScheme.TAG_SCHEME_TAM1 and challenge is None:
            challenge = self.challenge()
        columns: dict[str, Any] = {
            "sequence": self.next_sequence,
            "base_time_ns": self.site.now_ns,
            "scheme": scheme,
            "challenge_id": challenge.challenge_id if challenge is not None else b"",
            "identity": b"".join(read.identity for read in reads),
            "evidence": b"".join(evidence_of(read, scheme, challenge) for read in reads),
            "antenna": bytes(read.antenna for read in reads),
            "channel": bytes(len(reads)),
            "rssi_cdbm": np.array([read.rssi_cdbm for read in reads], "<i2").tobytes(),
            "time_us": np.array([read.time_us for read in reads], "<u4").tobytes(),
        }
        return ReadBatch(**(columns | fields))

    def send(self, reads: Sequence[Read], **fields: Any) -> int:
        """Send the next batch; its sequence."""
        batch = self.batch(reads, **fields)
        self.session.receive(batch)
        self.next_sequence += 1
        return batch.sequence

    def send_durable(self, reads: Sequence[Read], **fields: Any) -> Any:
        """Send the next batch and wait for its acknowledgement."""
        sequence = self.send(reads, **fields)
        self.ear.wait_durable(sequence)
        return self.ear.acknowledged()[sequence]


def evidence_of(read: Read, scheme: int, challenge: Challenge | None) -> bytes:
    key = tag_key(MASTER, read.identity, REALM)
    if scheme == TagScheme.TAG_SCHEME_TAM1 and challenge is not None:
        return tam1_response(key, challenge.challenge)
    if scheme == TagScheme.TAG_SCHEME_COUNTER_CMAC:
        return counter_evidence(key, read.counter)
    return b""


@contextmanager
def site_in(directory: Path, **settings: Any) -> Iterator[Site]:
    """A founded site, open."""
    found_site(directory)
    site = Site(directory, PortalSettings(**settings)).open()
    try:
        yield site
    finally:
        site.close()
    assert site.failures == []
    assert site.incidents == []


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
