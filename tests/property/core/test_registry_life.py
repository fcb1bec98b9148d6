"""Random registry commands against a plain model: the ledger never says anything else."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jinku.type.v1.tag_pb2 import TagState
from jinku.v1.registry_pb2 import FreezeTagRequest, RetireTagRequest, UnfreezeTagRequest
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

ACTIVE, FROZEN, RETIRED = "ACTIVE", "FROZEN", "RETIRED"
LABELS = st.sampled_from(["K-1", "K-2", "K-3"])
# Few enough to meet again, with two that begin alike and one that is no identity.
IDENTITIES = st.sampled_from(
    [b"\1" * 7, b"\1" * 8, b"\2" * 12, b"\3" * 12, b"\4" * 16, b"\5" * 8, bytes(12)]
)


@dataclass
class ModelTag:
    """A tag as the model knows it."""

    label: str
    state: str = ACTIVE


@dataclass
class Model:
    """Boxes and tags as plain dictionaries."""

    boxes: dict[str, list[bytes]] = field(default_factory=dict)
    tags: dict[bytes, ModelTag] = field(default_factory=dict)

    def live(self, label: str) -> bytes | None:
        """The box's live tag; more than one would be an error of the model."""
        live = [one for one in self.boxes[label] if self.tags[one].state != RETIRED]
        assert len(live) <= 1
        return live[0] if live else None

    def issue(self, identity: bytes, label: str, replaces: bool) -> list[str]:
        """What must be said against it; nothing: it is done."""
        reasons = []
        if label not in self.boxes:
            reasons.append("CONTAINER_NOT_REGISTERED")
        elif replaces and self.live(label) is None:
            reasons.append("CONTAINER_HAS_NO_LIVE_TAG")
        elif not replaces and self.live(label) is not None:
            reasons.append("CONTAINER_HAS_LIVE_TAG")
        if not any(identity):
            reasons.append("TAG_IDENTITY_INVALID")
        elif identity in self.tags:
            reasons.append("TAG_ALREADY_BOUND")
        if not reasons:
            old = self.live(label)
            if old is not None:
                self.tags[old].state = RETIRED
            self.tags[identity] = ModelTag(label)
            self.boxes[label].append(identity)
        return reasons

    def move(
        self, identity: bytes, allowed: dict[str, str], otherwise: dict[str, str]
    ) -> list[str]:
        """A tag goes from one state to the next, or the reason why not."""
        tag = self.tags.get(identity)
        if tag is None:
            return ["TAG_NOT_REGISTERED"]
        if tag.state not in allowed:
            return [otherwise[tag.state]]
        tag.state = allowed[tag.state]
        return []


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
        reasons = ["CONTAINER_EXISTS"] if label in self.model.boxes else []
        assert self.registrar.run(container(label)).reasons == reasons
        self.model.boxes.setdefault(label, [])

    @rule(identity=IDENTITIES, label=LABELS, replaces=st.booleans())
    def issue(self, identity: bytes, label: str, replaces: bool) -> None:
        request = issue(identity, label, replaces=replaces)
        before = self.registrar.tables()
        reasons = self.registrar.run(request).reasons
        assert reasons == self.model.issue(identity, label, replaces)
        assert (self.registrar.tables() == before) == bool(reasons)

    @rule(identity=IDENTITIES)
    def freeze(self, identity: bytes) -> None:
        otherwise = {FROZEN: "TAG_ALREADY_FROZEN", RETIRED: "TAG_RETIRED"}
        self.step(freeze(identity), self.model.move(identity, {ACTIVE: FROZEN}, otherwise))

    @rule(identity=IDENTITIES)
    def unfreeze(self, identity: bytes) -> None:
        otherwise = {ACTIVE: "TAG_NOT_FROZEN", RETIRED: "TAG_RETIRED"}
        self.step(unfreeze(identity), self.model.move(identity, {FROZEN: ACTIVE}, otherwise))

    @rule(identity=IDENTITIES)
    def retire(self, identity: bytes) -> None:
        allowed = {ACTIVE: RETIRED, FROZEN: RETIRED}
        self.step(retire(identity), self.model.move(identity, allowed, {RETIRED: "TAG_RETIRED"}))

    def step(
        self, request: FreezeTagRequest | UnfreezeTagRequest | RetireTagRequest, said: list[str]
    ) -> None:
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
