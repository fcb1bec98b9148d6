"""One box's life on a real service: tagged, released, carried out, copied, frozen, held, replaced,
retired; and the contacts of its institution, one of them erased. Collected as an auditor does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jinku.columns import make_batch
from jinku.commands import CommandIds
from jinku.errors import require_accepted
from jinku.evidence import package
from jinku.evidence.collect import Collector, Wanted
from jinku.ledger import LedgerClient
from jinku.portal import Handlers, PortalClient
from jinku.registry import RegistryClient
from jinku.softtags import SoftTag, answer_tam1, load
from jinku.type.v1.tag_pb2 import Direction, GateDecision, TagScheme
from jinku.v1.common_pb2 import Receipt
from jinku.v1.contact_pb2 import (
    ConfirmErasureRequest,
    RegisterContactRequest,
    RequestErasureRequest,
)
from jinku.v1.portal_pb2 import Alarm, Hello, Passage, PresentedTag
from jinku.v1.registry_pb2 import UnfreezeTagRequest
from process import run_jinkud
from registrar import container, freeze, institution, issue, portal, retire, vault
from running import Running, found, serving, wait_until
from served_realm import make_reads
from witnessing import Neighbour, asking, neighbours

TAM1 = TagScheme.TAG_SCHEME_TAM1
INNER, OUTER = 1, 2
LABEL, OTHER = "K-1", "K-2"
FIRST, SECOND, STRANGER = (b"\x33\x14" + bytes(9) + bytes([n]) for n in (1, 2, 3))
ERASED_NAME, ERASED_TELEPHONE = "王昭君", "+86 28 8777 0001"
KEPT_NAME, KEPT_TELEPHONE = "卓文君", "+86 28 8777 0002"
QUIET_S = 0.3


@dataclass
class Story:
    """The running service and all that its callers were told."""

    running: Running
    witness: Neighbour
    presented: list[PresentedTag] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    contact_ids: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registrar = self.registry("registrar")
        self.privacy = self.registry("privacy")
        self.ledger = LedgerClient(self.running.auditor())

    @property
    def key(self) -> str:
        return self.running.service.ledger.verifier_key

    def registry(self, who: str) -> RegistryClient:
        channel = self.running.channel(self.running.files(f"service-{who}"))
        return RegistryClient(channel, CommandIds(self.running.directory / f"{who}.json"))

    def accept(self, request: Any) -> Any:
        response = self.run(request)
        require_accepted(response.outcome)
        return response

    def run(self, request: Any) -> Any:
        """The registrar's command; its receipt is kept."""
        method = {
            "RegisterInstitutionRequest": self.registrar.register_institution,
            "RegisterVaultRequest": self.registrar.register_vault,
            "RegisterPortalRequest": self.registrar.register_portal,
            "RegisterContainerRequest": self.registrar.register_container,
            "IssueTagRequest": self.registrar.issue_tag,
            "FreezeTagRequest": self.registrar.freeze_tag,
            "UnfreezeTagRequest": self.registrar.unfreeze_tag,
            "RetireTagRequest": self.registrar.retire_tag,
        }[type(request).__name__]
        response: Any = method(request)  # type: ignore[operator]
        self.receipts.append(response.outcome.receipt)
        return response

    def personalise(self) -> list[SoftTag]:
        listed, output = (self.running.directory / name for name in ("tags.txt", "tags.json"))
        listed.write_text(f"{FIRST.hex()}\n{SECOND.hex()}\n", encoding="utf-8")
        made = run_jinkud(
            "personalise", "--config", str(self.running.config),
            "--identities", str(listed), "--output", str(output),
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        return load(output)

    def collect(self, **wanted: Any) -> package.Content:
        collector = Collector(self.ledger, RegistryClient(self.running.auditor()))
        return collector.collect(Wanted(LABEL, **wanted))


class Gate:
    """The portal's side."""

    def __init__(self, story: Story) -> None:
        self.story = story
        handlers = Handlers(
            presentation=lambda one: story.presented.extend(one.tags),
            alarm=story.alarms.append,
            passage=story.passages.append,
        )
        hello = Hello(
            portal_epoch=time.time_ns(), antennas=[INNER, OUTER], frequencies_khz=[920_625]
        )
        self.client = PortalClient(story.running.portal("gate-1"), hello, handlers)

    def read(self, tag: SoftTag, *antennas: int) -> None:
        """Ten reads at each antenna, one after the other, the last one now."""
        live, count = self.client.wait_challenge(), 10 * len(antennas)
        reads = make_reads(tag.identity, time.time_ns() - count * 10_000_000, count)
        reads.antenna[:] = np.repeat(antennas, 10)
        evidence = answer_tam1(tag, live.challenge, count)
        self.client.send(make_batch(reads, TAM1, evidence, live.challenge_id))
        self.client.flush()

    def wait_for(self, heard: Callable[[], bool]) -> None:
        wait_until(heard)


def tell(story: Story) -> None:
    """All of it, in order."""
    for request in (institution(), vault(), portal("gate-1"), container(LABEL), container(OTHER),
                    issue(FIRST, LABEL), issue(STRANGER, OTHER)):  # fmt: skip
        story.accept(request)
    for request in (
        # A second tag on a box that has one: refused, with a reason about the box's tag.
        issue(SECOND, LABEL),
        # In its place the other box's, none, and one whose key is not here: about the box alone.
        issue(STRANGER, LABEL, replaces=True),
        issue(bytes(12), LABEL, replaces=True),
        issue(SECOND, LABEL, replaces=True, key_version=9),
    ):
        assert not story.run(request).outcome.HasField("accepted")
    first, second = story.personalise()
    gate = Gate(story)
    with gate.client:
        gate.read(first, INNER, OUTER)
        gate.wait_for(lambda: bool(story.presented))
        assert story.presented[-1].decision == GateDecision.GATE_DECISION_RELEASE
        gate.wait_for(lambda: bool(story.passages))
        assert story.passages[-1].direction == Direction.DIRECTION_OUT
        # A copy that has not the key.
        gate.read(SoftTag(FIRST, TAM1, os.urandom(16)), OUTER)
        gate.wait_for(lambda: len(story.alarms) == 1)
        story.accept(freeze(FIRST))
        gate.read(first, OUTER)
        gate.wait_for(lambda: len(story.alarms) == 2)
        assert story.presented[-1].decision == GateDecision.GATE_DECISION_HOLD
        story.accept(UnfreezeTagRequest(identity=FIRST, note="已核对"))
        story.accept(issue(SECOND, LABEL, replaces=True))
        before = len(story.passages)
        gate.read(second, OUTER, INNER)
        gate.wait_for(lambda: len(story.passages) > before)
        assert story.passages[-1].direction == Direction.DIRECTION_IN
    story.accept(retire(SECOND))
    tell_contacts(story)


def tell_contacts(story: Story) -> None:
    """One contact, another in its place, the first erased."""
    for name, telephone in ((ERASED_NAME, ERASED_TELEPHONE), (KEPT_NAME, KEPT_TELEPHONE)):
        request = RegisterContactRequest(
            institution_code="I-1", name=name, telephone=telephone,
            replaces=bool(story.contact_ids),
        )  # fmt: skip
        response = story.registrar.register_contact(request)
        require_accepted(response.outcome)
        story.contact_ids.append(response.contact_id)
    first = story.contact_ids[0]
    asked = story.registrar.request_erasure(RequestErasureRequest(subject_id=first))
    require_accepted(asked.outcome)
    confirmation = ConfirmErasureRequest(erasure_id=asked.erasure_id, subject_id=first)
    require_accepted(story.privacy.confirm_erasure(confirmation).outcome)


@contextmanager
def told(directory: Path) -> Iterator[Story]:
    """A service with a witness, on which it all has happened."""
    realm = found(directory)
    with serving(realm) as running:
        key = running.service.ledger.verifier_key
    settings = {"PORTAL__QUIET_MS": str(int(QUIET_S * 1000)), "PERSONAL__RETENTION_DAYS": "0"}
    with (
        neighbours(directory, key) as (witness,),
        serving(realm, **asking(witness), **settings) as running,
    ):
        story = Story(running, witness)
        tell(story)
        yield story


def wait_witnessed(story: Story) -> None:
    """Until witnesses cosigned all that there is."""
    ledger = story.running.service.ledger
    wait_until(lambda: getattr(ledger.witnessed.newest, "tree_size", 0) == ledger.size)
