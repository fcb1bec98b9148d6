"""Histories through the public API: commands, repetitions, forgeries and walks through portals, while
an auditor reads along.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
from google.protobuf.message import Message

from auditor import Auditor
from core.keys import load_tag_masters
from jinku import notes
from jinku.calls import path_of
from jinku.columns import make_batch
from jinku.errors import from_rpc_error
from jinku.ledger import LedgerClient
from jinku.portal import Handlers, PortalClient
from jinku.registry import RegistryClient
from jinku.softtags import SoftTag, answer_tam1
from jinku.type.v1.command_pb2 import ClientCommandId
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1 import contact_pb2, registry_pb2
from jinku.v1.ledger_pb2 import GetCheckpointRequest, ListEntriesRequest
from jinku.v1.portal_pb2 import Alarm, Hello, Passage, PresentedTag
from jinku.v1.registry_pb2 import GetContainerRequest
from registrar import institution, portal, vault
from running import Running, found, serving
from served_realm import make_reads
from tag_reference import tag_key

TAM1 = TagScheme.TAG_SCHEME_TAM1
INNER, OUTER = 1, 2
SECOND = 1_000_000_000
# How long what must come may take on a machine that has much else to do.
PATIENCE_SECONDS = 20.0
SETTINGS = {
    "PORTAL__QUIET_MS": "100",
    "PORTAL__TIME_AHEAD_MS_MAX": "600000",
    "PORTAL__ALARM_REPEAT_SECONDS": "0",
    "PORTAL__ALARMS_PER_INTERVAL_MAX": "100000",
    "READLOG__SEGMENT_BATCHES_MAX": "3",
    "PERSONAL__RETENTION_DAYS": "0",
    # So few that some have no entry of their own.
    "SEQUENCER__REFUSALS_PER_INTERVAL_MAX": "20",
    "SEQUENCER__REFUSAL_INTERVAL_SECONDS": "2",
}
# What a walk shows to the antennas, and which way it went.
IN, OUT, TURNED_BACK, STRAY, UNDETERMINED = range(1, 6)
WALKS: dict[str, tuple[list[int], int]] = {
    "in": ([OUTER] * 10 + [INNER] * 10, IN),
    "out": ([INNER] * 10 + [OUTER] * 10, OUT),
    "turned": ([INNER] * 8 + [OUTER] * 4 + [INNER] * 8, TURNED_BACK),
    "stood": ([INNER] * 20, UNDETERMINED),
    "mixed": ([INNER, OUTER] * 10, UNDETERMINED),
    "brushed": ([OUTER] * 3, STRAY),
}


class Step(NamedTuple):
    """One thing to do: a method of `History` and what it is given."""

    do: str
    arguments: tuple[Any, ...]


class Gate:
    """One portal's stream, and what it was told."""

    def __init__(self, running: Running, name: str) -> None:
        self.presented: list[PresentedTag] = []
        self.alarms: list[Alarm] = []
        self.passages: list[Passage] = []
        handlers = Handlers(
            presentation=lambda one: self.presented.extend(one.tags),
            alarm=self.alarms.append,
            passage=self.passages.append,
        )
        # Portal's clock: every walk is later than the one before, and nobody waits for it.
        self.now_ns = time.time_ns()
        hello = Hello(portal_epoch=self.now_ns, antennas=[INNER, OUTER], frequencies_khz=[920_625])
        self.client = PortalClient(running.portal(name), hello, handlers)

    def walk(self, tag: SoftTag, antennas: list[int]) -> None:
        count = len(antennas)
        reads = make_reads(tag.identity, self.now_ns, count)
        reads.time_ns[:] = self.now_ns + np.arange(count) * SECOND // count
        reads.antenna[:] = antennas
        self.now_ns += 2 * SECOND
        live = self.client.wait_challenge()
        evidence = answer_tam1(tag, live.challenge, count)
        self.client.send(make_batch(reads, TAM1, evidence, live.challenge_id))
        self.client.flush()

    def forget(self) -> None:
        for heard in (self.presented, self.alarms, self.passages):
            heard.clear()


class History:
    """A service, two vaults with a gate each, and an auditor who has seen every entry."""

    def __init__(self, running: Running, patience_s: float = PATIENCE_SECONDS) -> None:
        self.running = running
        self.patience_s = patience_s
        self.channels = {
            who: running.channel(running.files(f"service-{who}"))
            for who in ("registrar", "privacy", "auditor")
        }
        self.ledger = LedgerClient(self.channels["auditor"])
        self.registry = RegistryClient(self.channels["auditor"])
        self.requests: dict[bytes, Message] = {}
        self.sent: list[tuple[str, Message]] = []
        key = running.service.ledger.verifier_key
        self.auditor = Auditor(self.requests, verifier_key=key)
        self.sequence = 0
        ((_, _, master),) = load_tag_masters(running.settings.keys.directory)
        self.master = bytes(master)
        for request in (institution(), vault("V-1"), vault("V-2"), portal("gate-1", "V-1"),
                        portal("gate-2", "V-2")):  # fmt: skip
            self.command(request)
        self.gates = [Gate(running, "gate-1"), Gate(running, "gate-2")]
        # What names the things of one history, apart from those of the others.
        self.prefix = ""
        self.labels: set[str] = set()

    def close(self) -> None:
        for gate in self.gates:
            gate.client.abandon()

    # -- steps

    def begin(self, prefix: str) -> None:
        """Another history: nothing that was sent before is sent again."""
        self.prefix = prefix
        self.sent.clear()
        self.labels.clear()

    def run(self, steps: list[Step]) -> None:
        for step in steps:
            getattr(self, step.do)(*step.arguments)

    def command(self, request: Message, who: str = "registrar") -> Any:
        """Sends a command with the next id, and has its answer audited."""
        self.sequence += 1
        request.command_id.CopyFrom(  # type: ignore[attr-defined]
            ClientCommandId(epoch=7, sequence=self.sequence)
        )
        answer = self.send(request, who)
        if answer.outcome.HasField("receipt"):
            self.sent.append((who, request))
        return answer

    def send(self, request: Message, who: str) -> Any:
        body = request.SerializeToString(deterministic=True)
        self.requests[hashlib.sha256(body).digest()] = request
        name = request.DESCRIPTOR.name.removesuffix("Request") + "Response"
        response = getattr(registry_pb2, name, None) or getattr(contact_pb2, name)
        call: Any = self.channels[who].unary_unary(path_of(request), None, response.FromString)
        try:
            answer = call(body, timeout=20)
        except grpc.RpcError as error:
            # A portal's name or an antenna can be malformed: no command at all.
            raise from_rpc_error(error) from error
        self.read_on()
        self.auditor.check_answer(body, answer, who)
        return answer

    def register(self, kind: str, name: str, *rest: Any) -> None:
        maker = {"institution": self.institution, "vault": self.vault, "box": self.box}[kind]
        maker(name, *rest)

    def institution(self, code: str, parent: str) -> None:
        above = self.prefix + parent if parent else ""
        request = registry_pb2.RegisterInstitutionRequest(
            code=self.prefix + code,
            name=f"{code} 支行",
            kind=2,
            parent_code=above,  # type: ignore[arg-type]
        )
        self.command(request)

    def vault(self, code: str, owner: str) -> None:
        request = registry_pb2.RegisterVaultRequest(
            code=self.prefix + code, name=f"{code} 金库", kind=1, time_zone="Asia/Shanghai",  # type: ignore[arg-type]
            institution_code=self.prefix + owner,
        )  # fmt: skip
        self.command(request)

    def portal(self, name: str, where: str, antennas: list[tuple[int, int]]) -> None:
        request = registry_pb2.RegisterPortalRequest(
            name=(self.prefix + name).lower(), vault_code=where
        )
        for port, side in antennas:
            request.antennas.add(port=port, side=side)  # type: ignore[arg-type]
        self.command(request)

    def box(self, label: str, owner: str, where: str) -> None:
        """Of an institution and at a vault of this history, or of all of them."""
        self.labels.add(self.prefix + label)
        request = registry_pb2.RegisterContainerRequest(
            label=self.prefix + label, kind=2, vault_code=where,  # type: ignore[arg-type]
            institution_code=owner if owner == "I-1" else self.prefix + owner,
        )  # fmt: skip
        self.command(request)

    def issue(self, label: str, identity: int, scheme: int, replaces: bool, version: int) -> None:
        request = registry_pb2.IssueTagRequest(
            container_label=self.prefix + label, identity=self.identity(identity),
            scheme=scheme, replaces=replaces,  # type: ignore[arg-type]
        )  # fmt: skip
        if version:
            request.key_version = version
        self.command(request)

    def tag(self, act: str, identity: int) -> None:
        kind = {
            "freeze": registry_pb2.FreezeTagRequest,
            "unfreeze": registry_pb2.UnfreezeTagRequest,
            "retire": registry_pb2.RetireTagRequest,
        }[act]
        self.command(kind(identity=self.identity(identity), note=act))

    def repeat(self, which: int) -> None:
        """The same bytes once more: the same answer, and nothing new in the journal."""
        if not self.sent:
            return
        who, request = self.sent[which % len(self.sent)]
        size = len(self.auditor.leaves)
        self.send(request, who)
        # What the service gives itself may have come meanwhile.
        if any(header.command_id.HasField("client") for header in self.auditor.headers[size:]):
            self.auditor.find("a repetition was journalled")

    def alter(self, which: int) -> None:
        """Another body under a command id that was used."""
        if not self.sent:
            return
        who, request = self.sent[which % len(self.sent)]
        altered: Any = type(request)()
        altered.CopyFrom(request)
        fields = ("note", "name", "label", "container_label", "contact_id", "subject_id")
        field = next(name for name in fields if name in request.DESCRIPTOR.fields_by_name)
        value = getattr(altered, field)
        setattr(altered, field, bytes(16) if isinstance(value, bytes) else value + "-x")
        self.send(altered, who)

    def walk(self, gate: int, identity: int, how: str, forged: bool) -> None:
        """A tag goes through a door. What the gate is told, and what is journalled, is audited."""
        door, name = self.gates[gate], self.identity(identity)
        antennas, direction = WALKS[how]
        books = self.auditor.books
        tag_id, vault_id = books.identities.get(name, b""), books.vaults[f"V-{gate + 1}"]
        known = books.tags.get(tag_id)
        genuine = known is not None and known.state == 1 and not forged
        key = os.urandom(16) if forged else tag_key(self.master, name, books.realm)
        door.forget()
        began_ns = door.now_ns
        door.walk(SoftTag(name, TAM1, key), antennas)
        if not self.hear(lambda: bool(door.presented)):
            self.auditor.find(f"the gate was told nothing of {name.hex()}")
            return
        self.auditor.check_presented(door.presented[0], vault_id, forged=forged)

        def passed() -> list[Passage]:
            """What was said of this walk: of one before it, something may come late."""
            return [one for one in door.passages if one.first_read_ns >= began_ns]

        heard = self.hear(lambda: bool(passed() if genuine else door.alarms))
        if not heard:
            self.auditor.find(f"no {'passage' if genuine else 'alarm'} of {name.hex()} came")
        if genuine and direction == UNDETERMINED and not self.hear(lambda: bool(door.alarms)):
            self.auditor.find("an undetermined passage was not alarmed")
        self.read_on()
        for told in (*door.alarms, *passed()):
            # A stray is told and not journalled.
            if told.HasField("receipt"):
                self.auditor.check_receipt(told.receipt)
        if genuine and heard and {one.direction for one in passed()} != {direction}:
            self.auditor.find(f"a walk {how} was called {[one.direction for one in passed()]}")

    def contact(self, code: str, replaces: bool) -> None:
        request = contact_pb2.RegisterContactRequest(
            institution_code=code, name="卓文君", telephone="+86 28 8777", replaces=replaces,
            salt=os.urandom(32),
        )  # fmt: skip
        self.command(request)

    def end(self, code: str) -> None:
        """Changes the institution's contact and ends it, twice."""
        person = self.auditor.books.contacts.get(self.auditor.books.institutions[code], b"")
        for _ in range(2 if person else 0):
            changed = contact_pb2.ChangeContactRequest(
                contact_id=person, telephone="+86 28 8778", salt=os.urandom(32)
            )
            self.command(changed)
            self.command(contact_pb2.EndContactRequest(contact_id=person))

    def erase(self, which: int, asker: str) -> None:
        """Has somebody erased who is or was a contact: asked for twice, confirmed by another."""
        persons = list(self.auditor.books.persons)
        if not persons:
            return
        person = persons[-1 - which % len(persons)]
        request = contact_pb2.RequestErasureRequest
        asked = [self.command(request(subject_id=person), asker) for _ in range(2)]
        confirmation = contact_pb2.ConfirmErasureRequest(
            erasure_id=asked[0].erasure_id or bytes(16), subject_id=person
        )
        self.command(confirmation, "privacy")

    # -- reading along

    def identity(self, number: int) -> bytes:
        """12 bytes; 0 is none, and a negative number one of a size that no tag has."""
        if number <= 0:
            return bytes(12) if number == 0 else b"\x33" * 13
        return hashlib.sha256(f"{self.prefix}{number}".encode()).digest()[:12]

    def hear(self, heard: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + self.patience_s
        while not heard() and time.monotonic() < deadline:
            time.sleep(0.005)
        return heard()

    def read_on(self) -> None:
        """Hands the auditor every entry that is new, as the service lists it."""
        request = ListEntriesRequest(start_index=len(self.auditor.leaves))
        while True:
            page = self.ledger.list_entries(request)
            for entry in page.entries:
                self.auditor.take(entry.header, entry.events)
            if not page.HasField("next_index"):
                return
            request.start_index = page.next_index

    def agree(self) -> None:
        """The service's answers about every box of this history, and its signed checkpoint."""
        for label in sorted(self.labels & self.auditor.books.labels.keys()):
            self.auditor.check_box(self.registry.get_container(GetContainerRequest(label=label)))
        answer = self.ledger.get_checkpoint(GetCheckpointRequest())
        self.read_on()
        key = notes.VerifierKey.parse(answer.verifier_key)
        checkpoint = notes.open_checkpoint(answer.checkpoint, key)
        if checkpoint.tree_size == len(self.auditor.leaves):
            self.auditor.check_root(checkpoint)

    def wait_counted(self) -> None:
        """Until the journal counts what it did not record one by one."""

        def counted() -> bool:
            self.read_on()
            return self.auditor.all_counted

        if not self.hear(counted):
            books = self.auditor.books
            self.auditor.find(f"{books.counted} of {self.auditor.unrecorded} refusals are counted")


@contextmanager
def history(
    directory: Path, patience_s: float = PATIENCE_SECONDS, **settings: str
) -> Iterator[History]:
    with serving(found(directory), **{**SETTINGS, **settings}) as running:
        made = History(running, patience_s)
        try:
            yield made
        finally:
            made.close()
