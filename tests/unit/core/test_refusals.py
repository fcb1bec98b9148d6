"""Every refusal is in the journal, by itself or counted: none is lost, and nobody fills the ledger."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.fsck import fsck
from core.ledger.ledger import Ledger
from core.ledger.tables import SUPPRESSED
from core.refusals import Quota
from core.sequencer import Command, Committed, Sequencer, Writer
from jinku.event.v1.entry_pb2 import EntryHeader, Outcome
from jinku.event.v1.event_pb2 import AlarmRaised, Events, RefusalsCounted
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.v1.registry_pb2 import FreezeTagRequest, RegisterInstitutionRequest
from ledgers import HANDLERS, REGISTRAR, command, found, reopen

SECOND = 1_000_000_000
START = 2_000_000_000 * SECOND
QUOTA = Quota(refusals_max=5, interval_ns=60 * SECOND)
OTHER = REGISTRAR + "-2"
SUPPORT = Path(__file__).parents[2] / "support"


@dataclass
class Desk:
    """A ledger, its writer, and a clock that stands still."""

    directory: Path
    quota: Quota = QUOTA
    now_ns: int = START
    ledger: Ledger = field(init=False)
    writer: Writer = field(init=False)

    def open(self) -> Desk:
        self.ledger = reopen(self.directory)
        self.writer = Writer(
            self.ledger, HANDLERS, lambda: self.now_ns, steady=lambda: self.now_ns,
            quota=self.quota,
        )  # fmt: skip
        return self

    def reopen(self) -> None:
        self.ledger.close()
        self.open()

    def pass_time(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)
        self.writer.tend()

    def commit(self, *commands: Command) -> list[Committed]:
        results = self.writer.commit(commands)
        return [result for result in results if isinstance(result, Committed)]

    def refuse(self, count: int, principal: str = REGISTRAR) -> list[Committed]:
        """So many commands that must be refused."""
        refused = self.commit(*(replace(freeze(), principal=principal) for _ in range(count)))
        assert len(refused) == count
        assert not any(one.accepted for one in refused)
        return refused

    def headers(self) -> list[EntryHeader]:
        """Of the refusals that have an entry."""
        headers = [EntryHeader.FromString(entry.header) for _, entry in self.ledger.entries()]
        return [header for header in headers if header.outcome == Outcome.OUTCOME_REFUSED]

    def events(self, kind: str) -> list[RefusalsCounted | AlarmRaised]:
        every = [
            event
            for _, entry in self.ledger.entries()
            for event in Events.FromString(entry.events).events
        ]
        return [getattr(event, kind) for event in every if event.HasField(kind)]

    def counted(self) -> list[RefusalsCounted]:
        return self.events("refusals_counted")  # type: ignore[return-value]

    def total(self) -> int:
        return len(self.headers()) + sum(one.count for one in self.counted())


def freeze() -> Command:
    """Of a tag that nobody registered: refused."""
    return command(FreezeTagRequest(identity=bytes(12)))


def institution(code: str) -> RegisterInstitutionRequest:
    return RegisterInstitutionRequest(code=code, name=code, kind=2)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found(tmp_path)
    desk = Desk(tmp_path).open()
    yield desk
    desk.ledger.close()


def test_within_the_quota_each_has_its_entry(desk: Desk) -> None:
    refused = desk.refuse(5)
    assert [one.entry_index for one in refused] == [1, 2, 3, 4, 5]
    headers = desk.headers()
    assert [header.refusal_number for header in headers] == [1, 2, 3, 4, 5]
    assert {header.refusals_since_ns for header in headers} == {START}
    assert all(one.recorded for one in refused)
    desk.pass_time(61)
    assert desk.counted() == []


def test_beyond_it_they_are_answered_and_counted(desk: Desk) -> None:
    desk.refuse(5)
    beyond = desk.refuse(3)
    assert desk.ledger.size == 6
    assert not any(one.recorded for one in beyond)
    for number, one in enumerate(beyond, 1):
        why = [(reason.code, reason.item) for reason in one.header.reasons]
        assert why[0][0] == ReasonCode.REASON_CODE_TAG_NOT_REGISTERED
        assert why[1:] == [(ReasonCode.REASON_CODE_REFUSAL_NOT_RECORDED, f"{number}")]
        assert (one.header.salt, one.header.index, one.header.refusal_number) == (b"", 0, 0)
    desk.pass_time(59)
    assert desk.counted() == []
    desk.pass_time(1)
    (counted,) = desk.counted()
    assert (counted.principal, counted.count, counted.alarming) == (REGISTRAR, 3, False)
    assert (counted.first_ns, counted.last_ns) == (START, START)
    assert desk.total() == 8
    desk.pass_time(600)
    assert len(desk.counted()) == 1
    assert fsck(desk.ledger).entries == desk.ledger.size == 7


def test_the_digest_is_of_what_was_answered(desk: Desk) -> None:
    desk.refuse(5)
    digest = bytes(32)
    for one in desk.refuse(4):
        header = EntryHeader()
        header.CopyFrom(one.header)
        del header.reasons[-1]
        chained = (1).to_bytes(8, "big") + header.decided_at_ns.to_bytes(8, "big")
        digest = sha256(digest + chained + header.SerializeToString(deterministic=True)).digest()
    desk.pass_time(60)
    assert [one.digest for one in desk.counted()] == [digest]


def test_the_next_interval_has_a_quota_of_its_own(desk: Desk) -> None:
    for _ in range(3):
        assert [one.recorded for one in desk.refuse(7)] == [True] * 5 + [False] * 2
        desk.pass_time(60)
    assert [one.count for one in desk.counted()] == [2, 2, 2]
    assert desk.total() == 21


def test_every_caller_has_its_own(desk: Desk) -> None:
    desk.refuse(9)
    assert all(one.recorded for one in desk.refuse(5, OTHER))
    desk.refuse(1, OTHER)
    desk.pass_time(60)
    assert {one.principal: one.count for one in desk.counted()} == {REGISTRAR: 4, OTHER: 1}


def test_what_is_accepted_counts_for_nothing(desk: Desk) -> None:
    desk.refuse(7)
    accepted = desk.commit(*(command(institution(f"{at}")) for at in range(20)))
    assert all(one.accepted and one.recorded for one in accepted)
    assert {one.header.refusal_number for one in accepted} == {0}


def altered(count: int) -> list[Command]:
    """The same command id with another body each time: each raises an alarm."""
    return [command(institution(f"other {at}"), epoch=9, sequence=1) for at in range(count)]


def test_noise_does_not_hide_an_alarm(desk: Desk) -> None:
    desk.commit(command(institution("first"), epoch=9, sequence=1))
    desk.refuse(50)
    (one,) = desk.commit(*altered(1))
    assert one.recorded
    assert len(desk.events("alarm_raised")) == 1


def test_alarms_beyond_the_quota_are_one_alarm(desk: Desk) -> None:
    desk.commit(command(institution("first"), epoch=9, sequence=1))
    results = desk.commit(*altered(12))
    assert [one.recorded for one in results] == [True] * 5 + [False] * 7
    assert len(desk.events("alarm_raised")) == 5
    assert all(one.recorded for one in desk.refuse(5))
    desk.pass_time(60)
    (counted,) = desk.counted()
    assert (counted.count, counted.alarming) == (7, True)
    alarm = desk.events("alarm_raised")[-1]
    assert isinstance(alarm, AlarmRaised)
    assert (alarm.suppressed_count, alarm.suppressed_digest) == (7, counted.digest)
    (why,) = alarm.reasons
    assert (why.code, why.item) == (ReasonCode.REASON_CODE_REFUSALS_SUPPRESSED, "registrar")
    assert fsck(desk.ledger).entries == desk.ledger.size


def test_sent_again_it_is_decided_anew(desk: Desk) -> None:
    """It has no entry to be answered from; what has one keeps its answer."""
    desk.refuse(5)
    code, child = "A", RegisterInstitutionRequest(code="B", name="B", kind=3, parent_code="A")
    (beyond,) = desk.commit(command(child, epoch=4, sequence=1))
    assert not beyond.recorded
    desk.commit(command(institution(code)))
    (again,) = desk.commit(command(child, epoch=4, sequence=1))
    assert (again.accepted, again.repeated) == (True, False)
    (once_more,) = desk.commit(command(child, epoch=4, sequence=1))
    assert (once_more.accepted, once_more.repeated) == (True, True)


def test_the_services_own_commands_always_have_their_entry(desk: Desk) -> None:
    scheduled = freeze()
    scheduled.command_id.scheduler.job = "job"
    for due_ns in range(8):
        scheduled.command_id.scheduler.due_ns = due_ns
        (one,) = desk.commit(scheduled)
        assert (one.accepted, one.recorded, one.header.refusal_number) == (False, True, 0)


def test_a_restart_forgets_neither_quota_nor_count(desk: Desk) -> None:
    desk.refuse(7)
    desk.reopen()
    assert not any(one.recorded for one in desk.refuse(2))
    desk.reopen()
    with desk.ledger.read() as state:
        assert [row.count for _, row in state.scan(SUPPRESSED)] == [4]
    assert fsck(desk.ledger).entries == desk.ledger.size == 6
    desk.pass_time(60)
    assert [one.count for one in desk.counted()] == [4]
    with desk.ledger.read() as state:
        assert list(state.scan(SUPPRESSED)) == []


def test_other_settings_leave_the_past_as_it_is(desk: Desk) -> None:
    """What is in the journal says itself how it was counted."""
    desk.refuse(7)
    desk.quota = Quota(refusals_max=2, interval_ns=10 * SECOND)
    desk.reopen()
    assert fsck(desk.ledger).entries == desk.ledger.size
    desk.pass_time(10)
    assert [one.count for one in desk.counted()] == [2]
    assert [one.recorded for one in desk.refuse(3)] == [True, True, False]


def test_an_interval_that_ends_twice_is_summed_up_twice(desk: Desk) -> None:
    """Because the setting was raised and lowered again."""
    desk.refuse(7)
    desk.pass_time(60)
    desk.quota = Quota(refusals_max=5, interval_ns=600 * SECOND)
    desk.reopen()
    desk.refuse(3)
    desk.quota = QUOTA
    desk.reopen()
    desk.pass_time(1)
    assert [one.count for one in desk.counted()] == [2, 3]
    assert desk.total() == 10


def test_an_idle_sequencer_sums_up(tmp_path: Path) -> None:
    found(tmp_path)
    ledger = reopen(tmp_path)
    told: list[Committed] = []
    sequencer = Sequencer(
        ledger, HANDLERS, quota=Quota(2, SECOND // 5), on_committed=told.extend
    )  # fmt: skip
    sequencer.start()
    for _ in range(5):
        sequencer.submit(freeze()).result(5)
    deadline = time.monotonic() + 30
    while not any(one.events.events for one in told) and time.monotonic() < deadline:
        time.sleep(0.01)
    sequencer.stop()
    (counted,) = told[-1].events.events
    recorded = [one for one in told if not one.events.events]
    assert len(recorded) + counted.refusals_counted.count == 5
    ledger.close()


@settings(max_examples=25)
@given(data=st.data())
def test_none_is_lost_whatever_happens(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("refusals")
    found(directory)
    desk = Desk(directory, Quota(data.draw(st.integers(1, 6)), 60 * SECOND)).open()
    injected = 0
    for _ in range(data.draw(st.integers(1, 12))):
        act = data.draw(st.sampled_from(("refuse", "other", "time", "reopen")))
        count = data.draw(st.integers(1, 9))
        if act == "time":
            desk.pass_time(count * 10)
        elif act == "reopen":
            desk.reopen()
        else:
            desk.refuse(count, REGISTRAR if act == "refuse" else OTHER)
            injected += count
    desk.pass_time(60)
    assert desk.total() == injected
    assert fsck(desk.ledger).entries == desk.ledger.size
    desk.ledger.close()


REFUSED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from ledgers import HANDLERS, command, reopen
from core.refusals import Quota
from core.sequencer import Sequencer
from jinku.v1.registry_pb2 import FreezeTagRequest
ledger = reopen(Path(sys.argv[1]))
sequencer = Sequencer(ledger, HANDLERS, quota=Quota(3, 50_000_000))
sequencer.start()
epoch = ledger.size
for number in range(100_000):
    request = FreezeTagRequest(identity=bytes(12))
    futures = [sequencer.submit(command(request, epoch=epoch, sequence=10 * number + at + 1)) for at in range(7)]
    for future in futures:
        future.result()
    print(len(futures), flush=True)
"""


def test_killed_between_none_that_was_answered_is_lost(tmp_path: Path) -> None:
    found(tmp_path)
    chance, answered = random.Random(5), 0
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", REFUSED, str(tmp_path), str(SUPPORT)],
            stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(chance.randrange(1, 60))]
            process.kill()
            lines += process.stdout.readlines()
        answered += 7 * sum(line.endswith("\n") for line in lines)
    desk = Desk(tmp_path, Quota(3, 1)).open()
    desk.now_ns = 4_000_000_000 * SECOND
    desk.writer.tend()
    assert desk.counted()
    # At most one round of each process was decided and not answered.
    assert answered <= desk.total() <= answered + 4 * 7
    assert fsck(desk.ledger).entries == desk.ledger.size
    desk.ledger.close()
