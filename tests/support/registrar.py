"""A registrar for tests: commands decided, applied and journalled on a real ledger, and answered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from core.fsck import Report, fsck
from core.ledger.ledger import Ledger
from core.ledger.tables import COMMANDS, REFUSALS, TABLES
from core.procedures.table import QUERIES
from core.sequencer import Committed, Writer
from jinku.type.v1.place_pb2 import Antenna
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.v1.common_pb2 import Outcome
from jinku.v1.registry_pb2 import (
    FreezeTagRequest,
    GetContainerRequest,
    GetContainerResponse,
    IssueTagRequest,
    RegisterContainerRequest,
    RegisterInstitutionRequest,
    RegisterPortalRequest,
    RegisterVaultRequest,
    RetireTagRequest,
    UnfreezeTagRequest,
)
from ledgers import HANDLERS, command, found, reopen

ANTENNAS = (
    Antenna(port=1, side="ANTENNA_SIDE_INNER"),
    Antenna(port=2, side="ANTENNA_SIDE_OUTER"),
)


def institution(code: str = "I-1", parent: str = "") -> RegisterInstitutionRequest:
    return RegisterInstitutionRequest(
        code=code, name=f"{code} 支行", kind="INSTITUTION_KIND_BRANCH", parent_code=parent
    )


def vault(code: str = "V-1", owner: str = "I-1") -> RegisterVaultRequest:
    return RegisterVaultRequest(
        institution_code=owner,
        code=code,
        name=f"{code} 金库",
        kind="VAULT_KIND_BRANCH",
        time_zone="Asia/Shanghai",
    )


def portal(
    name: str = "gate-1", vault_code: str = "V-1", antennas: tuple[Antenna, ...] = ANTENNAS
) -> RegisterPortalRequest:
    return RegisterPortalRequest(vault_code=vault_code, name=name, antennas=antennas)


def container(
    label: str = "K-1", owner: str = "I-1", vault_code: str = "V-1"
) -> RegisterContainerRequest:
    return RegisterContainerRequest(
        institution_code=owner,
        label=label,
        kind="CONTAINER_KIND_CASH_BOX",
        vault_code=vault_code,
    )


def issue(
    identity: bytes, label: str = "K-1", *, replaces: bool = False, **fields: Any
) -> IssueTagRequest:
    fields = {"scheme": "TAG_SCHEME_TAM1", **fields}
    return IssueTagRequest(container_label=label, identity=identity, replaces=replaces, **fields)


def freeze(identity: bytes) -> FreezeTagRequest:
    return FreezeTagRequest(identity=identity, note="lost")


def unfreeze(identity: bytes) -> UnfreezeTagRequest:
    return UnfreezeTagRequest(identity=identity, note="found")


def retire(identity: bytes) -> RetireTagRequest:
    return RetireTagRequest(identity=identity, note="worn out")


@dataclass
class Answered:
    """What came of a command: its entry and its response."""

    committed: Committed
    response: Any

    @property
    def reasons(self) -> list[str]:
        """Names of the reasons against it, in their order."""
        return [
            ReasonCode.Name(record.code).removeprefix("REASON_CODE_")
            for record in self.committed.header.reasons
        ]


class Registrar:
    """One ledger and its writer, without a thread."""

    def __init__(self, directory: Path) -> None:
        found(directory)
        self._take(reopen(directory))

    @classmethod
    def of(cls, ledger: Ledger) -> Registrar:
        """On a ledger that is open already."""
        made = cls.__new__(cls)
        made._take(ledger)
        return made

    def _take(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.writer = Writer(ledger, HANDLERS)

    def run(self, request: Message) -> Answered:
        """Commit one command and answer it from its entry. What the procedure raised is raised."""
        (committed,) = self.writer.commit([command(request)])
        if isinstance(committed, Exception):
            raise committed
        answer = HANDLERS[type(request)].answer
        assert answer is not None
        outcome = Outcome(entry_index=committed.entry_index)
        return Answered(committed, answer(committed.header, committed.events, outcome))

    def accept(self, request: Message) -> Any:
        """The response of a command that must be accepted."""
        answered = self.run(request)
        assert answered.reasons == []
        return answered.response

    def refuse(self, request: Message) -> list[str]:
        """The reasons against a command that must be refused, and that changed no table but
        those that remember commands and count refusals."""
        before = self.tables()
        answered = self.run(request)
        assert answered.reasons
        assert not answered.committed.events.events
        assert self.tables() == before
        return answered.reasons

    def get(self, **by: Any) -> GetContainerResponse:
        """GetContainer."""
        response = QUERIES[GetContainerRequest].answer(GetContainerRequest(**by), self.ledger)
        assert isinstance(response, GetContainerResponse)
        return response

    def tables(self) -> list[list[tuple[bytes, bytes]]]:
        """Every sealed row of every table but the commands' and the refusals'."""
        numbers = [table.number for table in TABLES if table not in (COMMANDS, REFUSALS)]
        return [list(self.ledger.raw_rows(number)) for number in numbers]

    def verify(self) -> Report:
        """fsck: the journal replayed over empty tables gives the same bytes."""
        return fsck(self.ledger)
