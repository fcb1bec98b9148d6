"""A realm's ledger to measure, without a service around it, and the commands of its days."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from google.protobuf.message import Message

from core.errors import DecideFailed
from core.keys import RealmKeys
from core.ledger.ledger import Ledger
from core.procedures.table import handlers
from core.realm import found_realm, principal_of
from core.sequencer import Command, Committed, Writer
from core.store.v1.commands_pb2 import FoundRealm, RecordPassage
from jinku.type.v1.command_pb2 import ClientCommandId, CommandId, PassageCommandId, PassageStage
from jinku.type.v1.place_pb2 import Antenna, ContainerKind, InstitutionKind, VaultKind
from jinku.type.v1.tag_pb2 import AntennaSide, Direction, TagScheme
from jinku.v1.registry_pb2 import (
    IssueTagRequest,
    RegisterContainerRequest,
    RegisterInstitutionRequest,
    RegisterPortalRequest,
    RegisterVaultRequest,
)

REALM, TRUST_DOMAIN = 1, "bench.example"
REGISTRAR = principal_of(TRUST_DOMAIN, REALM, "service", "registrar")
OWN = principal_of(TRUST_DOMAIN, REALM, "service", "jinkud")
HANDLERS = handlers(lambda: frozenset({(REALM, 1)}))
DIGEST = bytes(32)
ANTENNAS = (
    Antenna(port=1, side=AntennaSide.ANTENNA_SIDE_OUTER),
    Antenna(port=2, side=AntennaSide.ANTENNA_SIDE_INNER),
)

SETUP_BATCH = 256


class Realm:
    """A founded realm with a vault and a portal, in `directory`, and commands to give it."""

    def __init__(self, directory: Path, *, map_gib: int = 64) -> None:
        self.directory = directory
        self.keys = RealmKeys.create(directory / "keys")
        request = FoundRealm(realm=REALM, trust_domain=TRUST_DOMAIN)
        found_realm(directory / "ledger", self.keys, request, map_gib=map_gib)
        self.ledger = Ledger(directory / "ledger", self.keys, REALM, TRUST_DOMAIN, map_gib=map_gib)
        self.writer = Writer(self.ledger, HANDLERS)
        self._sequences = count(1)
        self._boxes = count()
        self._times = count(1)
        head, kind = InstitutionKind.INSTITUTION_KIND_HEAD_OFFICE, VaultKind.VAULT_KIND_CASH_CENTRE
        self.commit(
            [
                self._asked(RegisterInstitutionRequest(code="1", name="bench", kind=head)),
                self._asked(
                    RegisterVaultRequest(
                        institution_code="1", code="V", name="V", kind=kind, time_zone="Etc/UTC"
                    )
                ),
            ]
        )
        (portal,) = self.commit(
            [self._asked(RegisterPortalRequest(vault_code="V", name="p", antennas=ANTENNAS))]
        )
        self.portal_id = portal.header.made_ids[0]

    def commit(self, commands: Sequence[Command]) -> list[Committed]:
        """All in one commit, each accepted."""
        return [check(result) for result in self.writer.commit(commands)]

    def register(self, boxes: int, batch: int) -> list[bytes]:
        """Boxes with tags, two entries each; the tags' ids."""
        tags: list[bytes] = []
        while len(tags) < boxes:
            labels = [self.new_label() for _ in range(min(batch, boxes - len(tags)))]
            self.commit([self.box(label) for label in labels])
            tags += [c.header.made_ids[0] for c in self.commit([self.tag(x) for x in labels])]
        return tags

    def new_label(self) -> str:
        """Of a box that is not registered."""
        return f"B{next(self._boxes):08d}"

    def box(self, label: str) -> Command:
        """Registers it: one event."""
        kind = ContainerKind.CONTAINER_KIND_CASH_BOX
        return self._asked(
            RegisterContainerRequest(institution_code="1", label=label, kind=kind, vault_code="V")
        )

    def tag(self, label: str) -> Command:
        """Issues a tag for the box: one event."""
        identity = b"\x33\x14\x99\x00" + int(label[1:]).to_bytes(8, "big")
        scheme = TagScheme.TAG_SCHEME_TAM1
        return self._asked(IssueTagRequest(container_label=label, identity=identity, scheme=scheme))

    def passage(self, tag_id: bytes, inwards: bool) -> Command:
        """The tag's box comes in or leaves: two events, the passage and the change of custody."""
        at = next(self._times)
        request = RecordPassage(
            portal_id=self.portal_id,
            tag_id=tag_id,
            direction=Direction.DIRECTION_IN if inwards else Direction.DIRECTION_OUT,
            confidence_permille=900,
            first_read_ns=at * 1000,
            last_read_ns=at * 1000 + 500,
            reads_inner=10,
            reads_outer=10,
            portal_epoch=1,
            first_sequence=at,
            last_sequence=at + 1,
        )
        passage = PassageCommandId(
            portal_id=self.portal_id,
            portal_epoch=1,
            tag=tag_id,
            first_sequence=at,
            stage=PassageStage.PASSAGE_STAGE_PASSAGE,
        )
        return Command(request, OWN, self.portal_id, CommandId(passage=passage))

    def day(self, count: int) -> list[Command]:
        """So many commands that do not wait for each other, a third of them each: a box is
        registered, a box gets its tag, a tag's box comes in. Four events in three commands.
        """
        third = -(-count // 3)
        waiting = [self.new_label() for _ in range(third)]
        for at in range(0, third, SETUP_BATCH):
            self.commit([self.box(label) for label in waiting[at : at + SETUP_BATCH]])
        tags = self.register(third, SETUP_BATCH)
        commands = []
        for label, tag_id in zip(waiting, tags, strict=True):
            commands += [
                self.box(self.new_label()), self.tag(label), self.passage(tag_id, inwards=True)
            ]  # fmt: skip
        return commands[:count]

    def _asked(self, request: Message) -> Command:
        command_id = ClientCommandId(epoch=1, sequence=next(self._sequences))
        return Command(request, REGISTRAR, b"", CommandId(client=command_id), DIGEST)

    def close(self) -> None:
        self.ledger.close()


def check(result: Committed | DecideFailed) -> Committed:
    """RuntimeError if the command was not accepted: a benchmark of refusals measures nothing."""
    if isinstance(result, DecideFailed) or not result.accepted:
        raise RuntimeError(f"not accepted: {result}")
    return result


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory on the disk that is measured, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="jinku-bench-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def opened() -> Iterator[Realm]:
    """A new realm, gone afterwards."""
    with scratch() as directory:
        realm = Realm(directory)
        try:
            yield realm
        finally:
            realm.close()
