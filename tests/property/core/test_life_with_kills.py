"""Random commands, reads, and kills at any boundary of any commit, against a plain model.

One holder per item at every instant; nothing heard is lost, nothing is done twice; the same bytes get
the same answer for ever; the journal over empty tables gives the tables.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.message import Message
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from boundaries import Boundaries
from core.fsck import fsck
from core.ledger.tables import INSTITUTIONS, PORTALS
from core.procedures.table import QUERIES
from core.readlog.verify import verify_segments
from core.sequencer import Committed
from jinku.event.v1.event_pb2 import Events
from jinku.type.v1.place_pb2 import Custody, CustodyPlace
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.type.v1.tag_pb2 import TagScheme, TagState
from jinku.v1.portal_pb2 import ReadBatch
from jinku.v1.registry_pb2 import GetContainerRequest
from ledgers import command
from portals import (
    OUTER,
    Read,
    Site,
    Stream,
    counter_identity,
    crossing,
    eventually,
    found_site,
    tam1_identity,
)  # fmt: skip
from registrar import container, freeze, issue, retire, unfreeze
from registry_model import ACTIVE, Model
from soak import how_many

GATES = {"gate-1": "V-1", "gate-far": "V-2"}
CROSSING = [tam1_identity(number) for number in range(2)]
COUNTING = counter_identity(0)
SPARE = [bytes([number]) * 12 for number in range(1, 5)]
QUIET_SECONDS = 4
BOUNDARIES_MAX = 24

# What is done, to which box, with which tag. The second of those that cross is left alone.
Act = tuple[str, str, bytes]
ACTS: st.SearchStrategy[Act] = st.tuples(
    st.sampled_from(["register", "issue", "freeze", "unfreeze", "retire"]),
    st.sampled_from(["K-0", "B-0", "B-1"]),
    st.sampled_from([*SPARE, CROSSING[0]]),
)


@dataclass
class Asked:
    """A command, what must be said against it, and what was said."""

    request: Message
    sequence: int
    reasons: list[str]
    said: Committed | None = None
    waiting: Future[Committed] | None = None


def reasons_of(said: Committed) -> list[str]:
    names = [ReasonCode.Name(one.code) for one in said.header.reasons]
    return [name.removeprefix("REASON_CODE_") for name in names]


class LifeWithKills(RuleBasedStateMachine):
    """One site through many processes."""

    @initialize()
    def begin(self) -> None:
        self.opened = ExitStack()
        self.parent = Path(
            self.opened.enter_context(tempfile.TemporaryDirectory(prefix="jinku-test-"))
        )
        self.boundaries = Boundaries()
        self.opened.enter_context(self.boundaries.watched())
        directory = self.parent / "0"
        directory.mkdir()
        found_site(directory, tags=len(CROSSING), counter_tags=1)
        self.model = Model({"K-0": [], "K-1": []})
        for label, identity in zip(["K-0", "K-1"], CROSSING, strict=True):
            assert self.model.issue(identity, label, False) == []
        # Whose a box is, and whether it is on its way.
        self.custody = dict.fromkeys(("K-0", "K-1", "C-0"), ("I-1", False))
        self.asked: list[Asked] = []
        self.counter = self.passages = self.lives = 0
        self.site = Site(directory).open()
        with self.site.ledger.read() as state:
            vaults = {row.name: row.vault_id for _, row in state.scan(PORTALS)}
            holders = {row_id: row.code for row_id, row in state.scan(INSTITUTIONS)}
        self.holders = holders | {vaults[gate]: vault for gate, vault in GATES.items()}
        self.arrive()

    def arrive(self) -> None:
        """Every portal opens its stream."""
        self.streams = {gate: self.site.stream(gate) for gate in GATES}

    def teardown(self) -> None:
        if not hasattr(self, "site"):
            return
        try:
            self.site.stop_desk()
            self.site.read_log.flush()
            with self.site.ledger.read() as state:
                verify_segments(state, self.site.read_log)
            assert fsck(self.site.ledger).entries == self.site.ledger.size
            assert self.holders_in_turn() == self.custody
            assert self.site.failures == self.site.incidents == []
        finally:
            self.site.close()
            self.opened.close()

    def holders_in_turn(self) -> dict[str, tuple[str, bool]]:
        """Who answers for each box, from the journal alone: each takes it from the one before."""
        labels: dict[bytes, str] = {}
        held: dict[str, Custody] = {}
        for _, entry in self.site.ledger.entries():
            for event in Events.FromString(entry.events).events:
                if event.HasField("container_registered"):
                    box = event.container_registered
                    assert box.label not in held
                    labels[box.container_id] = box.label
                    held[box.label] = box.custody
                elif event.HasField("custody_moved"):
                    moved = event.custody_moved
                    assert held[labels[moved.container_id]] == moved.before
                    held[labels[moved.container_id]] = moved.after
        return {label: self.name(custody) for label, custody in held.items()}

    def name(self, custody: Custody) -> tuple[str, bool]:
        in_transit = custody.place == CustodyPlace.CUSTODY_PLACE_IN_TRANSIT
        return self.holders[custody.holder_id], in_transit

    # -- commands ----------------------------------------------------------------------------------

    def decide(self, act: Act) -> Asked:
        """The next command, and what the model says of it."""
        what, label, identity = act
        if what == "register":
            request: Message = container(label)
            reasons = self.model.register(label)
            if not reasons:
                self.custody[label] = ("I-1", False)
        elif what == "issue":
            request, reasons = issue(identity, label), self.model.issue(identity, label, False)
        else:
            make = {"freeze": freeze, "unfreeze": unfreeze, "retire": retire}[what]
            request, reasons = make(identity), getattr(self.model, what)(identity)
        asked = Asked(request, len(self.asked) + 1, reasons)
        self.asked.append(asked)
        return asked

    def submit(self, asked: Asked) -> None:
        asked.waiting = self.site.sequencer.submit(
            command(asked.request, epoch=7, sequence=asked.sequence)
        )

    def hear(self, asked: Asked) -> None:
        """The answer is the one that was heard before, or the one that the model has."""
        assert asked.waiting is not None
        said = asked.waiting.result(60)
        assert reasons_of(said) == asked.reasons
        if asked.said is not None:
            assert (said.header, said.events) == (asked.said.header, asked.said.events)
        asked.said = said

    @rule(act=ACTS)
    def ask(self, act: Act) -> None:
        asked = self.decide(act)
        self.submit(asked)
        self.hear(asked)

    @rule(at=st.integers(0, 1 << 16))
    def ask_again(self, at: int) -> None:
        if self.asked:
            asked = self.asked[at % len(self.asked)]
            self.submit(asked)
            self.hear(asked)

    @rule(at=st.integers(0, 1 << 16))
    def ask_otherwise_under_the_same_id(self, at: int) -> None:
        if self.asked:
            before = self.asked[at % len(self.asked)]
            other = Asked(container("other"), before.sequence, ["COMMAND_ID_REUSED"])
            for _ in range(2):
                self.submit(other)
                self.hear(other)
            self.submit(before)
            self.hear(before)

    # -- reads -------------------------------------------------------------------------------------

    def walk(self, number: int, gate: str, inwards: bool) -> ReadBatch:
        """A tag goes through a gate in one batch, and the model follows."""
        batch = self.streams[gate].batch(crossing(CROSSING[number], inwards=inwards))
        if self.model.tags[CROSSING[number]].state == ACTIVE:
            self.passages += 1
            label = f"K-{number}"
            holder, _ = self.custody[label]
            self.custody[label] = (GATES[gate], False) if inwards else (holder, True)
        return batch

    def send(self, stream: Stream, batch: ReadBatch) -> None:
        """It is durable on return, whether it had been before or not."""
        if batch.sequence >= stream.next_sequence:
            stream.session.receive(batch)
            stream.next_sequence = batch.sequence + 1
            stream.ear.wait_durable(batch.sequence)

    def settle(self) -> None:
        """The tags have gone; what follows is in the journal."""
        self.site.pass_time(QUIET_SECONDS)
        crossed = [self.tag_id(identity) for identity in CROSSING]

        def passages() -> int:
            found = self.site.events("passage_recorded")
            return sum(one.tag_id in crossed for one in found)

        eventually(lambda: passages() >= self.passages)
        assert passages() == self.passages

    def tag_id(self, identity: bytes) -> bytes:
        tags = self.site.directory_of_tags
        found = tags.index.get(identity)
        assert found is not None
        return tags.tag_id(found.number)

    @rule(number=st.sampled_from([0, 1]), gate=st.sampled_from(list(GATES)), inwards=st.booleans())
    def cross(self, number: int, gate: str, inwards: bool) -> None:
        self.send(self.streams[gate], self.walk(number, gate, inwards))
        self.settle()

    @rule(step=st.sampled_from([-1, 0, 1, 1, 3]), gate=st.sampled_from(list(GATES)))
    def count(self, step: int, gate: str) -> None:
        """A counter that was heard of is never taken again."""
        counter = max(1, self.counter + step)
        stream = self.streams[gate]
        reads = [Read(COUNTING, OUTER, 0, counter=counter)]
        heard = stream.send_durable(reads, scheme=TagScheme.TAG_SCHEME_COUNTER_CMAC)
        assert bool(heard.counts.genuine) == (counter > self.counter)
        self.counter = max(self.counter, counter)

    # -- ends --------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        self.site.restart()
        self.arrive()

    @rule(
        acts=st.lists(ACTS, min_size=1, max_size=4),
        gate=st.sampled_from(list(GATES)),
        inwards=st.booleans(),
        at=st.integers(0, BOUNDARIES_MAX),
    )
    def kill(self, acts: list[Act], gate: str, inwards: bool, at: int) -> None:
        """Commands and reads at once, and a kill at one of the boundaries of their commits."""
        asked = [self.decide(act) for act in acts]
        batch = self.walk(1, gate, inwards)
        stream = self.streams[gate]
        heard: list[Asked] = []
        durable: list[int] = []

        def note() -> None:
            heard.extend(one for one in asked if one.waiting is not None and one.waiting.done())
            through = [one.through_sequence for one in stream.ear.of("acknowledgement")]
            durable.append(max(through, default=0))

        self.lives += 1
        left = self.parent / str(self.lives)
        self.boundaries.kill_at(at, self.site.directory, left, note)
        for one in asked:
            self.submit(one)
        self.send(stream, batch)
        for one in asked:
            self.hear(one)
        self.settle()
        self.boundaries.kill()
        self.rise(left, [one for one in asked if one not in heard])
        assert self.streams[gate].next_sequence > durable[0]
        # All of it again, by who was not answered; nobody who was is told anything else.
        for one in asked:
            self.submit(one)
        self.send(self.streams[gate], batch)
        for one in asked:
            self.hear(one)
        self.settle()

    def rise(self, left: Path, unheard: list[Asked]) -> None:
        """The next process, on the files that were left."""
        before = self.site
        before.close()
        assert before.failures == before.incidents == []
        for one in unheard:
            one.said = None
        self.site = Site(left, now_ns=before.now_ns, elapsed_ns=before.elapsed_ns).open()
        self.arrive()

    # -- what must be ------------------------------------------------------------------------------

    @invariant()
    def boxes_are_as_the_model_says(self) -> None:
        if not hasattr(self, "streams"):
            return
        for label, identities in self.model.boxes.items():
            request = GetContainerRequest(label=label)
            box = QUERIES[GetContainerRequest].answer(request, self.site.ledger)
            assert [tag.identity for tag in box.tags] == identities  # type: ignore[attr-defined]
            states = [TagState.Name(tag.state) for tag in box.tags]  # type: ignore[attr-defined]
            expected = [f"TAG_STATE_{self.model.tags[one].state}" for one in identities]
            assert states == expected
            assert self.name(box.custody) == self.custody[label]  # type: ignore[attr-defined]


TestLifeWithKills = LifeWithKills.TestCase
TestLifeWithKills.settings = settings(max_examples=3, stateful_step_count=12)


@pytest.mark.soak
def test_many_lives_with_kills() -> None:
    examples = how_many(300, "JINKU_LIVES")
    many = settings(max_examples=examples, stateful_step_count=40)
    run_state_machine_as_test(LifeWithKills, settings=many)  # type: ignore[no-untyped-call]


# In a process of its own, for what is bent stays so; and without Hypothesis, which wants to see
# everything twice.
WRONG_LIVES = """
import random, runpy, sys
from wrong_jinkud import WRONG
life = runpy.run_path(sys.argv[1])
chance = random.Random(1)
machine = life["LifeWithKills"]()
machine.begin()
# Outside of the boundaries: there is one between what is wrong and the commit.
WRONG[sys.argv[2]]()
for number in range(30):
    acts = [("register", f"N-{number}-{at}", b"") for at in range(3)]
    machine.kill(acts, chance.choice(list(life["GATES"])), chance.random() < 0.5, chance.randrange(12))
    machine.count(0, "gate-1")
    machine.count(1, "gate-1")
    machine.boxes_are_as_the_model_says()
machine.teardown()
"""


@pytest.mark.soak
@pytest.mark.parametrize(
    "wrong",
    [
        "answer_before_commit",
        "acknowledge_before_commit",
        "skip_idempotency",
        "forget_counters",
    ],
)
def test_what_is_wrong_is_found_in_lives_with_kills(wrong: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WRONG_LIVES, __file__, wrong], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert ran.returncode
    assert "AssertionError" in ran.stderr, ran.stderr
