"""Persons for tests of the core: a ledger with wrapping keys, its writer, and who calls it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import lmdb
from google.protobuf.message import Message

from core.clock import Clock, system_clock
from core.fsck import fsck
from core.keys import RealmKeys
from core.ledger.ledger import Ledger
from core.ledger.seal import Sealer
from core.ledger.tables import REALM_KEY, SUBJECTS, WRAPPING, IndexKind
from core.personal.eraser import Eraser, EraserParts
from core.personal.office import Office
from core.personal.verify import PersonalReport, verify_personal
from core.personal.wrapping import WrappingKeys
from core.procedures.contact_queries import get_contact
from core.procedures.table import handlers
from core.realm import found_realm, principal_of
from core.sequencer import Command, Committed, Writer
from core.settings import PersonalSettings
from core.store.v1.commands_pb2 import FoundingServiceSpec, FoundRealm
from core.store.v1.personal_pb2 import SubjectRow, WrappingRow
from jinku.type.v1.command_pb2 import ClientCommandId, CommandId
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.v1.common_pb2 import Outcome
from jinku.v1.contact_pb2 import (
    ChangeContactRequest,
    ConfirmErasureRequest,
    EndContactRequest,
    GetContactRequest,
    GetContactResponse,
    ReadContactRequest,
    ReadContactResponse,
    RegisterContactRequest,
    RequestErasureRequest,
)
from jinku.v1.registry_pb2 import RegisterInstitutionRequest

REALM = 7
TRUST_DOMAIN = "test.example"
SERVICES = {
    "registrar": "REGISTRAR",
    "privacy": "PRIVACY_OFFICER",
    "deputy": "PRIVACY_OFFICER",
    "auditor": "AUDITOR",
}
AT_ONCE = PersonalSettings(retention_days=0)
NAME, TELEPHONE = "欧阳娜娜", "+86 139-8765-4321"

_sequences = count(1)


def found(directory: Path) -> None:
    """Keys and a founded ledger, with services that may erase."""
    keys = RealmKeys.create(directory / "keys")
    specs = [FoundingServiceSpec(name=name, roles=[role]) for name, role in SERVICES.items()]
    request = FoundRealm(realm=REALM, trust_domain=TRUST_DOMAIN, services=specs)
    found_realm(directory / "ledger", keys, request, map_gib=1)


class Direct:
    """The part of a sequencer that the eraser uses, without a thread."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def submit(self, command: Command) -> Future[Committed]:
        future: Future[Committed] = Future()
        (result,) = self._writer.commit([command])
        if isinstance(result, Committed):
            future.set_result(result)
        else:
            future.set_exception(result)
        return future


class Persons:
    """One open realm. `refused` holds the reasons of the last command."""

    def __init__(
        self,
        directory: Path,
        settings: PersonalSettings = AT_ONCE,
        clock: Clock = system_clock,
        steady: Clock | None = None,
        *,
        as_found: bool = False,
    ) -> None:
        """`as_found`: also where somebody edited the files, for what is under the rows."""
        realm_keys = RealmKeys.load(directory / "keys")
        self.epoch = time.time_ns()
        self.ledger = Ledger(
            directory / "ledger", realm_keys, REALM, TRUST_DOMAIN, map_gib=1, as_found=as_found
        )
        try:
            self.keys = WrappingKeys.open(directory / "keys", REALM, self.taken())
        except BaseException:
            self.ledger.close()
            raise
        office = Office(self.ledger, self.keys, settings)
        self.office = office if steady is None else replace(office, steady=steady)
        self.table = handlers(lambda: frozenset({(REALM, 1)}), lambda: self.office)
        held_still = {} if clock is system_clock else {"steady": lambda: 0}
        self.writer = Writer(self.ledger, self.table, clock, **held_still)
        sequencer: Any = Direct(self.writer)
        self.parts = EraserParts(self.ledger, self.keys, sequencer, "spiffe://x/7/service/jinkud")
        self.eraser = Eraser(self.parts)
        self.refused: list[str] = []

    def close(self) -> None:
        self.keys.close()
        self.ledger.close()

    def threaded(
        self, on_incident: Callable[[BaseException], object], on_replaced: Callable[[int], None]
    ) -> Eraser:
        """An eraser that can be started; nobody else may write while it does something."""
        return Eraser(replace(self.parts, on_incident=on_incident, on_replaced=on_replaced))

    def taken(self) -> WrappingRow:
        with self.ledger.read() as state:
            return state.get(WRAPPING, REALM_KEY) or WrappingRow()

    def command(self, request: Message, who: str = "registrar") -> Command:
        identifier = ClientCommandId(epoch=self.epoch, sequence=next(_sequences))
        request.command_id.CopyFrom(identifier)  # type: ignore[attr-defined]
        with self.ledger.read() as state:
            device_id = state.find(IndexKind.SERVICE_NAME, who.encode())
        assert device_id is not None
        return Command(
            request=request,
            principal=principal_of(TRUST_DOMAIN, REALM, "service", who),
            device_id=device_id,
            command_id=CommandId(client=identifier),
            request_digest=sha256(request.SerializeToString()).digest(),
        )

    def commit(self, command: Command) -> Committed:
        (result,) = self.writer.commit([command])
        if isinstance(result, Exception):
            raise result.__cause__ or result
        self.refused = [
            ReasonCode.Name(one.code).removeprefix("REASON_CODE_") for one in result.header.reasons
        ]
        return result

    def run(self, request: Message, who: str = "registrar") -> Any:
        """Commit one command and answer it from its entry."""
        committed = self.commit(self.command(request, who))
        answer = self.table[type(request)].answer
        assert answer is not None
        outcome = Outcome(entry_index=committed.entry_index)
        return answer(committed.header, committed.events, outcome)

    def accept(self, request: Message, who: str = "registrar") -> Any:
        response = self.run(request, who)
        assert self.refused == []
        return response

    def refuse(self, request: Message, who: str = "registrar") -> list[str]:
        self.run(request, who)
        assert self.refused
        return self.refused

    def institution(self, code: str = "1001") -> None:
        request = RegisterInstitutionRequest(code=code, name=f"{code} 支行", kind=2)  # type: ignore[arg-type]
        self.accept(request)

    def contact(self, code: str = "1001", name: str = NAME, telephone: str = TELEPHONE) -> bytes:
        """A new institution's contact; the person's id."""
        self.institution(code)
        contact_id: bytes = self.accept(register(code, name, telephone)).contact_id
        return contact_id

    def former(self, code: str = "1001", name: str = NAME) -> bytes:
        """Somebody who was a contact and may be erased."""
        contact_id = self.contact(code, name)
        self.accept(EndContactRequest(contact_id=contact_id))
        return contact_id

    def read(self, contact_id: bytes, who: str = "privacy", **asked: bool) -> ReadContactResponse:
        request = ReadContactRequest(contact_id=contact_id, purpose=1, **asked)  # type: ignore[arg-type]
        response = self.run(request, who)
        assert isinstance(response, ReadContactResponse)
        return response

    def texts(self, contact_id: bytes) -> list[str]:
        """The current values."""
        return [value.text for value in self.read(contact_id).values]

    def get(self, **by: Any) -> GetContactResponse:
        return get_contact(GetContactRequest(**by), self.ledger)

    def subject(self, subject_id: bytes) -> SubjectRow:
        with self.ledger.read() as state:
            row = state.get(SUBJECTS, subject_id)
        assert row is not None
        return row

    def request_erasure(self, subject_id: bytes, who: str = "registrar") -> bytes:
        response = self.accept(RequestErasureRequest(subject_id=subject_id), who)
        erasure_id: bytes = response.erasure_id
        return erasure_id

    def erase(self, subject_id: bytes) -> None:
        """Asked for and confirmed; not yet complete."""
        erasure_id = self.request_erasure(subject_id)
        self.accept(confirm(erasure_id, subject_id), "privacy")

    def verify(self) -> PersonalReport:
        """The journal replayed, and what lies beside it held to it."""
        fsck(self.ledger)
        return verify_personal(self.ledger, self.keys)


def register(
    code: str = "1001", name: str = NAME, telephone: str = TELEPHONE, *, replaces: bool = False
) -> RegisterContactRequest:
    return RegisterContactRequest(
        institution_code=code,
        name=name,
        telephone=telephone,
        replaces=replaces,
        salt=os.urandom(32),
    )


def change(contact_id: bytes, **values: str) -> ChangeContactRequest:
    return ChangeContactRequest(contact_id=contact_id, salt=os.urandom(32), **values)  # type: ignore[arg-type]


def confirm(erasure_id: bytes, subject_id: bytes) -> ConfirmErasureRequest:
    return ConfirmErasureRequest(erasure_id=erasure_id, subject_id=subject_id)


class Files:
    """What a thief of the files can do, or, `resealed`, one of the realm's key for rows too."""

    def __init__(self, directory: Path, resealed: bool = False) -> None:
        self._path = str(directory / "ledger")
        self._sealer = None
        if resealed:
            keys = RealmKeys.load(directory / "keys")
            self._sealer = Sealer(keys.row_key, keys.index_key, REALM)

    @contextmanager
    def _table(self, number: int) -> Iterator[tuple[lmdb.Transaction, Any]]:
        with lmdb.open(self._path, map_size=1 << 30, max_dbs=128) as env:
            table = env.open_db(b"%d" % number, create=False)
            with env.begin(write=True) as txn:
                yield txn, table

    def keys_of(self, number: int, prefix: bytes) -> list[bytes]:
        with self._table(number) as (txn, table), txn.cursor(db=table) as cursor:
            return [bytes(key) for key, _ in cursor if bytes(key).startswith(prefix)]

    def get(self, number: int, key: bytes) -> bytes:
        with self._table(number) as (txn, table):
            sealed = bytes(txn.get(key, db=table) or b"")
        return sealed if self._sealer is None else self._sealer.open(number, key, sealed)

    def put(self, number: int, key: bytes, value: bytes | None) -> None:
        with self._table(number) as (txn, table):
            if value is None:
                txn.delete(key, db=table)
                return
            sealed = value if self._sealer is None else self._sealer.seal(number, key, value)
            txn.put(key, sealed, db=table)


@contextmanager
def opened(directory: Path, **more: Any) -> Iterator[Persons]:
    made = Persons(directory, **more)
    try:
        yield made
    finally:
        made.close()
