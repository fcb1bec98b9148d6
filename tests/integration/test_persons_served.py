"""Contacts and erasures through the public API: `jinkud` as a process, mutual TLS, the client package."""

from __future__ import annotations

import hmac
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jinku import receipts
from jinku.calls import path_of, prepare
from jinku.commands import CommandIds
from jinku.demo.service import Service
from jinku.errors import NotAllowed, Refused, RequestInvalid, require_accepted
from jinku.event.v1.event_pb2 import Events
from jinku.ledger import LedgerClient
from jinku.registry import RegistryClient
from jinku.type.v1.personal_pb2 import ReadPurpose, SubjectState
from jinku.v1.contact_pb2 import (
    ChangeContactRequest,
    ConfirmErasureRequest,
    ConfirmErasureResponse,
    EndContactRequest,
    GetContactRequest,
    GetContactResponse,
    ReadContactRequest,
    ReadContactResponse,
    RegisterContactRequest,
    RegisterContactResponse,
    RequestErasureRequest,
)
from jinku.v1.ledger_pb2 import GetCheckpointRequest, GetProofRequest
from jinku.v1.registry_pb2 import RegisterInstitutionRequest

JINKU = Path(sys.executable).with_name("jinku")
NAME, TELEPHONE = "司马相如", "+86 28 8777-6655"
PURPOSE = ReadPurpose.READ_PURPOSE_CONTACTING
COMPLETE = SubjectState.SUBJECT_STATE_ERASURE_COMPLETE


class Bank:
    """A service whose retention is over at once, and everybody who calls it."""

    def __init__(self, directory: Path) -> None:
        self.service = Service(directory)
        self.service.initialise()
        with self.service.config.open("a", encoding="utf-8") as settings:
            settings.write("\n[personal]\nretention_days = 0\n")
        self.institutions = 0
        self.open()

    def open(self) -> None:
        self.service.start()
        self.channels = {
            who: self.service.connect("service", who).open()
            for who in ("registrar", "privacy", "auditor")
        }
        state = self.service.directory
        self.clients = {
            who: RegistryClient(channel, CommandIds(state / f"{who}.json", block=256))
            for who, channel in self.channels.items()
        }
        self.registrar, self.privacy, self.auditor = self.clients.values()
        self.ledger = LedgerClient(self.channels["auditor"])

    def close(self) -> None:
        for channel in self.channels.values():
            channel.close()
        assert self.service.stop() == 0

    def institution(self) -> str:
        self.institutions += 1
        code = f"I{self.institutions}"
        request = RegisterInstitutionRequest(code=code, name="支行", kind="INSTITUTION_KIND_BRANCH")
        require_accepted(self.registrar.register_institution(request).outcome)
        return code

    def register(self, code: str, name: str = NAME, **more: Any) -> RegisterContactResponse:
        request = RegisterContactRequest(
            institution_code=code, name=name, telephone=TELEPHONE, **more
        )
        return self.registrar.register_contact(request)

    def contact(self, name: str = NAME) -> tuple[str, bytes]:
        """Of a new institution: its code, and the person's id."""
        code = self.institution()
        response = self.register(code, name)
        require_accepted(response.outcome)
        return code, response.contact_id

    def read(self, contact_id: bytes, who: str = "privacy", **asked: Any) -> ReadContactResponse:
        request = ReadContactRequest(contact_id=contact_id, purpose=PURPOSE, **asked)
        return self.clients[who].read_contact(request)

    def get(self, contact_id: bytes, who: str = "auditor") -> GetContactResponse:
        return self.clients[who].get_contact(GetContactRequest(contact_id=contact_id))

    def erase(self, contact_id: bytes) -> Any:
        ended = self.registrar.end_contact(EndContactRequest(contact_id=contact_id))
        require_accepted(ended.outcome)
        asked = self.registrar.request_erasure(RequestErasureRequest(subject_id=contact_id))
        require_accepted(asked.outcome)
        request = ConfirmErasureRequest(erasure_id=asked.erasure_id, subject_id=contact_id)
        confirmed = self.privacy.confirm_erasure(request)
        require_accepted(confirmed.outcome)
        return confirmed

    def wait_complete(self, contact_id: bytes, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while self.get(contact_id).state != COMPLETE:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.service.directory / "keys/wrapping").iterdir())


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    made = Bank(tmp_path_factory.mktemp("persons") / "realm")
    try:
        yield made
    finally:
        made.close()


def texts(response: ReadContactResponse) -> list[str]:
    return [value.text for value in response.values]


def names_of(outcome: Any) -> list[str]:
    return [reason.name for reason in outcome.refused.reasons]


# ── who may what ────────────────────────────────────────────────────────────────────────────────


def test_reading_is_graded(bank: Bank) -> None:
    code, contact_id = bank.contact()
    for who in ("registrar", "privacy"):
        assert texts(bank.read(contact_id, who)) == [NAME, TELEPHONE]
    with pytest.raises(NotAllowed):
        bank.read(contact_id, "auditor")
    known = bank.get(contact_id)
    assert (known.found, known.institution_code) == (True, code)
    assert NAME.encode() not in known.SerializeToString()
    refused = bank.read(contact_id, "registrar", with_openings=True)
    assert names_of(refused.outcome) == ["PRIVACY_OFFICER_ONLY"]
    assert not refused.values
    with pytest.raises(NotAllowed):
        bank.privacy.register_contact(RegisterContactRequest(institution_code=code))
    with pytest.raises(NotAllowed):
        bank.registrar.confirm_erasure(ConfirmErasureRequest())
    with pytest.raises(NotAllowed):
        bank.auditor.request_erasure(RequestErasureRequest())


def test_who_read_what_for_is_in_the_journal(bank: Bank) -> None:
    _, contact_id = bank.contact()
    response = bank.read(contact_id)
    header = receipts.parse_header(response.outcome.receipt.header)
    events = receipts.open_events(response.outcome.receipt)
    assert events is not None
    assert header.principal.endswith("/service/privacy")
    assert events.events[0].personal_values_read.subject_id == contact_id
    assert events.events[0].personal_values_read.purpose == PURPOSE
    assert NAME.encode() not in response.outcome.SerializeToString()


# ── what may be said ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "x" * 129),
        ("name", "李" * 43),
        ("name", "e\u0301"),
        ("name", "李\n四"),
        ("name", "李\u200b四"),
        ("name", "\u202e李四"),
        ("name", " 李四"),
        ("telephone", ""),
        ("telephone", "0" * 33),
        ("telephone", "call me"),
        ("telephone", "010/6600"),
        ("telephone", "１３９"),
    ],
)
def test_malformed_value_is_named_and_not_quoted(bank: Bank, field: str, value: str) -> None:
    values = {"name": NAME, "telephone": TELEPHONE, field: value}
    request = RegisterContactRequest(institution_code="I1", **values)
    with pytest.raises(RequestInvalid) as caught:
        bank.registrar.register_contact(request)
    assert f"{field}:" in str(caught.value)
    assert len(value) < 2 or value not in str(caught.value)


def test_digest_of_a_request_hides_its_values(bank: Bank) -> None:
    """Without a salt whoever holds a receipt could try names until the digest fits."""
    code = bank.institution()
    request = RegisterContactRequest(institution_code=code, name=NAME, telephone=TELEPHONE)
    bodies = [prepare(request, bank.registrar.command_ids) for _ in range(2)]
    salts = {RegisterContactRequest.FromString(body).salt for body in bodies}
    assert {len(salt) for salt in salts} == {32}
    assert len(salts) == 2
    for salt in (b"", bytes(31), bytes(32), b"salt" * 8):
        stamped = RegisterContactRequest.FromString(bodies[0])
        stamped.salt = salt
        with pytest.raises(RequestInvalid, match="salt"):
            bank.registrar.call_bytes(
                path_of(request), stamped.SerializeToString(), RegisterContactResponse
            )


def test_same_bytes_again_get_the_same_answer(bank: Bank) -> None:
    code = bank.institution()
    request = RegisterContactRequest(institution_code=code, name=NAME, telephone=TELEPHONE)
    body = prepare(request, bank.registrar.command_ids)
    answers = [
        bank.registrar.call_bytes(path_of(request), body, RegisterContactResponse) for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert answers[0].contact_id


def test_commitment_is_checked_by_anybody_who_is_given_the_opening(bank: Bank) -> None:
    code = bank.institution()
    registered = bank.register(code)
    events = Events.FromString(registered.outcome.receipt.events)
    committed = {one.field: one.commitment for one in events.events[-1].contact_registered.values}
    response = bank.read(registered.contact_id, with_openings=True)
    for value in response.values:
        message = b"jinku commitment v1\x00" + registered.contact_id
        message += struct.pack(">I", value.field) + value.text.encode()
        assert hmac.digest(value.opening, message, "sha256") == committed[value.field]
        assert value.entry_index == registered.outcome.entry_index


# ── erasing ─────────────────────────────────────────────────────────────────────────────────────


def test_erasure_takes_two_and_leaves_proofs_valid(bank: Bank) -> None:
    code, gone = bank.contact("蔺相如")
    _, kept = bank.contact("廉颇")
    changed = bank.registrar.change_contact(ChangeContactRequest(contact_id=gone, telephone="110"))
    before = [changed.outcome.receipt, bank.read(gone).outcome.receipt]
    newest = bank.ledger.get_checkpoint(GetCheckpointRequest())
    size = newest.tree_size
    proof = bank.ledger.get_proof(GetProofRequest(entry_index=size - 1, tree_size=size))
    confirmed = bank.erase(gone)
    bank.wait_complete(gone)
    # What was proved stays proved, by the same root.
    for receipt in [*before, confirmed.outcome.receipt]:
        receipts.verify(receipt, newest.verifier_key)
    again = bank.ledger.get_proof(GetProofRequest(entry_index=size - 1, tree_size=size))
    assert again == proof
    refused = bank.read(gone)
    assert names_of(refused.outcome) == ["SUBJECT_ERASED"]
    (reason,) = refused.outcome.refused.reasons
    assert f"entry {confirmed.outcome.entry_index}" in reason.text_en
    assert f"entry {confirmed.outcome.entry_index}" in reason.text_zh
    assert not refused.values
    assert texts(bank.read(kept))[0] == "廉颇"
    assert bank.get(gone).erased_entry_index == confirmed.outcome.entry_index
    require_accepted(bank.register(code, "蔺相如之子").outcome)


def test_one_principal_does_not_erase(bank: Bank) -> None:
    _, contact_id = bank.contact()
    require_accepted(bank.registrar.end_contact(EndContactRequest(contact_id=contact_id)).outcome)
    asked = bank.privacy.request_erasure(RequestErasureRequest(subject_id=contact_id))
    request = ConfirmErasureRequest(erasure_id=asked.erasure_id, subject_id=contact_id)
    assert names_of(bank.privacy.confirm_erasure(request).outcome) == ["ERASURE_BY_ITS_REQUESTER"]
    assert texts(bank.read(contact_id)) == [NAME, TELEPHONE]
    again = bank.registrar.request_erasure(RequestErasureRequest(subject_id=contact_id))
    assert names_of(again.outcome) == ["ERASURE_UNDER_WAY"]


def test_replayed_confirmation_erases_nobody_else(bank: Bank) -> None:
    _, contact_id = bank.contact()
    require_accepted(bank.registrar.end_contact(EndContactRequest(contact_id=contact_id)).outcome)
    asked = bank.registrar.request_erasure(RequestErasureRequest(subject_id=contact_id))
    request = ConfirmErasureRequest(erasure_id=asked.erasure_id, subject_id=contact_id)
    body = prepare(request, bank.privacy.command_ids)
    path = path_of(request)
    first = bank.privacy.call_bytes(path, body, ConfirmErasureResponse)
    assert bank.privacy.call_bytes(path, body, ConfirmErasureResponse) == first
    second = bank.privacy.confirm_erasure(request)
    assert names_of(second.outcome) == ["SUBJECT_ERASED"]


def test_retention_holds_by_default(tmp_path: Path) -> None:
    service = Service(tmp_path / "realm")
    service.initialise()
    service.start()
    try:
        with service.connect("service", "registrar").open() as channel:
            registrar = RegistryClient(channel, CommandIds(tmp_path / "ids.json"))
            registrar.register_institution(
                RegisterInstitutionRequest(code="1", name="x", kind="INSTITUTION_KIND_BRANCH")
            )
            request = RegisterContactRequest(institution_code="1", name=NAME, telephone=TELEPHONE)
            contact_id = registrar.register_contact(request).contact_id
            registrar.end_contact(EndContactRequest(contact_id=contact_id))
            asked = registrar.request_erasure(RequestErasureRequest(subject_id=contact_id))
            (reason,) = asked.outcome.refused.reasons
            assert reason.name == "RETENTION_RUNS"
            assert "personal.retention_days" in reason.text_zh
    finally:
        assert service.stop() == 0


def test_erasure_is_finished_by_the_next_start_and_verified(bank: Bank) -> None:
    """Killed right after the confirmation; `jinkud fsck` agrees before and after."""
    _, gone = bank.contact("荆轲")
    _, kept = bank.contact("高渐离")
    bank.erase(gone)
    process = bank.service.process
    assert process is not None
    process.kill()
    process.wait()
    assert "persons erased" in bank.service.fsck()
    for channel in bank.channels.values():
        channel.close()
    bank.open()
    bank.wait_complete(gone)
    assert texts(bank.read(kept))[0] == "高渐离"
    bank.close()
    assert ", 0 of these erasures not complete" in bank.service.fsck()
    assert len(bank.names()) == 2
    bank.open()
    assert texts(bank.read(kept))[0] == "高渐离"


def test_backup_from_before_gives_back_everybody_but_the_erased(bank: Bank, tmp_path: Path) -> None:
    """With the commands that an operator has; the keys are those of now."""
    _, gone = bank.contact("杞梁")
    _, kept = bank.contact("孟姜")
    service = bank.service
    config, data = ("--config", str(service.config)), service.directory / "data"
    service.run("backup", *config, "--output", str(tmp_path / "backup"))
    bank.erase(gone)
    bank.wait_complete(gone)
    bank.close()
    data.rename(tmp_path / "newer")
    said = service.run("restore", *config, "--from", str(tmp_path / "backup"))
    assert "1 of these erasures not complete" in said
    bank.open()
    bank.wait_complete(gone)
    assert names_of(bank.read(gone).outcome) == ["SUBJECT_ERASED"]
    assert texts(bank.read(kept))[0] == "孟姜"
    bank.close()
    assert ", 0 of these erasures not complete" in service.fsck()
    # The same backup with the keys of then is what destroying them is for.
    assert not list((service.directory / "keys/wrapping").glob("1.*"))
    bank.open()


# ── the command ─────────────────────────────────────────────────────────────────────────────────


class Cli:
    """`jinku` with the connection in its environment."""

    def __init__(self, bank: Bank, state: Path) -> None:
        self.bank, self.state = bank, state

    def __call__(self, *arguments: str, said: str = "", code: int = 0, who: str = "privacy") -> str:
        own = self.bank.service.connect("service", who)
        answer = subprocess.run(
            [JINKU, "contacts", *arguments],
            input=said, capture_output=True, text=True, check=False, timeout=100,
            env={
                **os.environ,
                "JINKU_TARGET": own.target,
                "JINKU_CERTIFICATE": str(own.certificate),
                "JINKU_KEY": str(own.key),
                "JINKU_CA": str(own.ca),
                "XDG_STATE_HOME": str(self.state / who),
            },
        )  # fmt: skip
        assert answer.returncode == code, answer.stdout + answer.stderr
        return answer.stdout + answer.stderr


def test_a_person_is_erased_from_the_command_line(bank: Bank, tmp_path: Path) -> None:
    contacts = Cli(bank, tmp_path)
    code = bank.institution()
    said = contacts("register", code, said="屈原\n0717-1234567\n", who="registrar")
    (contact,) = [line.split()[-1] for line in said.splitlines() if line.startswith("contact ")]
    contacts("change", contact, said="\n0717-7654321\n", who="registrar")
    shown = contacts("read", "--institution", code, "--purpose", "checking")
    assert "屈原" in shown
    assert "0717-7654321" in shown
    assert "0717-1234567" not in shown
    everything = contacts("read", "--id", contact, "--purpose", "evidence", "--superseded",
                          "--openings")  # fmt: skip
    assert "0717-1234567" in everything
    assert everything.count("opening") == 3
    assert "屈原" not in contacts("show", "--id", contact, who="auditor")
    refused = contacts("erase", contact, code=1)
    assert "CONTACT_NOT_ENDED" in refused
    contacts("end", contact, who="registrar")
    asked = contacts("erase", contact, who="registrar")
    erasure = asked.split("erasure ")[1].split(",")[0]
    contacts("confirm", erasure, contact)
    gone = contacts("read", "--id", contact, "--purpose", "checking", code=1)
    assert "SUBJECT_ERASED" in gone
    assert "erased / 已删除" in contacts("show", "--id", contact, who="auditor")
    contacts("confirm", "x", contact, code=2)
    contacts("show", code=2)


def test_refused_is_an_exception_for_who_wants_one(bank: Bank) -> None:
    with pytest.raises(Refused, match="SUBJECT_NOT_REGISTERED"):
        require_accepted(bank.read(b"n" * 16).outcome)
