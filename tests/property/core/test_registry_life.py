"""Random registry commands against a plain model: the ledger never says anything else."""

from __future__ import annotations

import tempfile
from pathlib import Path

from google.protobuf.message import Message
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jinku.type.v1.tag_pb2 import TagState
from registrar import (
    Registrar,
    container,
    freeze,
    institution,
    issue,
    retire,
    unfreeze,
    vault,
)
from registry_model import RETIRED, Model

LABELS = st.sampled_from(["K-1", "K-2", "K-3"])
# Few enough to meet again, with two that begin alike and one that is no identity.
IDENTITIES = st.sampled_from(
    [b"\1" * 7, b"\1" * 8, b"\2" * 12, b"\3" * 12, b"\4" * 16, b"\5" * 8, bytes(12)]
)


class RegistryLife(RuleBasedStateMachine):
    """Commands at random, in any order, on one ledger."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="jinku-test-")
        self.registrar = Registrar(Path(self.directory.name))
        self.registrar.accept(institution())
        self.registrar.accept(vault())
        self.registrar.accept(container("K-1"))
        self.model = Model({"K-1": []})

    def teardown(self) -> None:
        if hasattr(self, "registrar"):
            try:
                # The journal over empty tables gives the same bytes.
                assert self.registrar.verify().entries == self.registrar.ledger.size
            finally:
                self.registrar.ledger.close()
                self.directory.cleanup()

    @rule(label=LABELS)
    def register(self, label: str) -> None:
        self.step(container(label), self.model.register(label))

    @rule(identity=IDENTITIES, label=LABELS, replaces=st.booleans())
    def issue(self, identity: bytes, label: str, replaces: bool) -> None:
        request = issue(identity, label, replaces=replaces)
        before = self.registrar.tables()
        reasons = self.registrar.run(request).reasons
        assert reasons == self.model.issue(identity, label, replaces)
        assert (self.registrar.tables() == before) == bool(reasons)

    @rule(identity=IDENTITIES)
    def freeze(self, identity: bytes) -> None:
        self.step(freeze(identity), self.model.freeze(identity))

    @rule(identity=IDENTITIES)
    def unfreeze(self, identity: bytes) -> None:
        self.step(unfreeze(identity), self.model.unfreeze(identity))

    @rule(identity=IDENTITIES)
    def retire(self, identity: bytes) -> None:
        self.step(retire(identity), self.model.retire(identity))

    def step(self, request: Message, said: list[str]) -> None:
        assert self.registrar.run(request).reasons == said

    @invariant()
    def boxes_are_as_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        for label, identities in self.model.boxes.items():
            box = self.registrar.get(label=label)
            assert [tag.identity for tag in box.tags] == identities
            states = [TagState.Name(tag.state).removeprefix("TAG_STATE_") for tag in box.tags]
            assert states == [self.model.tags[one].state for one in identities]
            assert len([state for state in states if state != RETIRED]) <= 1
            for identity in identities:
                assert self.registrar.get(identity=identity) == box
            assert self.registrar.get(container_id=box.container_id) == box

    @invariant()
    def what_was_never_bound_is_not_registered(self) -> None:
        if not hasattr(self, "model"):
            return
        assert not self.registrar.get(identity=b"\x99" * 12).found
        for label in {"K-1", "K-2", "K-3"} - self.model.boxes.keys():
            assert not self.registrar.get(label=label).found


TestRegistryLife = RegistryLife.TestCase
TestRegistryLife.settings = settings(max_examples=60, stateful_step_count=40)
