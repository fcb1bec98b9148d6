"""A receipt proves its entry; with any byte of it changed it proves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jinku import accounts, receipts
from jinku.event.v1.entry_pb2 import EntryHeader, Outcome
from jinku.event.v1.event_pb2 import Event, Events
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from made_receipt import EVENTS, HEADER, make_receipt
from signed_tree import KEY


def test_receipt_is_verified() -> None:
    verified = receipts.verify(make_receipt(), KEY)
    assert verified.header == HEADER
    assert verified.events == EVENTS
    assert verified.checkpoint.tree_size == 9


def test_events_may_be_absent() -> None:
    receipt = make_receipt()
    receipt.events = b""
    assert receipts.verify(receipt, KEY).events is None
    assert receipts.verify(make_receipt(events=Events()), KEY).events == Events()


@given(st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    receipt = make_receipt()
    part = data.draw(st.sampled_from(["header", "events_digest", "events", "inclusion_proof"]))
    value = receipt.inclusion_proof[0] if part == "inclusion_proof" else getattr(receipt, part)
    at, flip = data.draw(st.integers(0, len(value) - 1)), data.draw(st.integers(1, 255))
    changed = value[:at] + bytes([value[at] ^ flip]) + value[at + 1 :]
    if part == "inclusion_proof":
        receipt.inclusion_proof[0] = changed
    else:
        setattr(receipt, part, changed)
    with pytest.raises(receipts.ReceiptInvalid):
        receipts.verify(receipt, KEY)


def test_another_key_does_not_verify() -> None:
    other = KEY.replace("realm-1", "realm-2")
    with pytest.raises(receipts.ReceiptInvalid, match="verifier key"):
        receipts.verify(make_receipt(), other)


def test_file_comes_back(tmp_path: Path) -> None:
    receipts.save(make_receipt(), tmp_path / "r")
    assert receipts.load(tmp_path / "r") == make_receipt()
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(receipts.ReceiptInvalid, match="empty"):
        receipts.load(tmp_path / "empty")


def test_entry_is_told_in_both_languages() -> None:
    header = EntryHeader()
    header.CopyFrom(HEADER)
    header.outcome = Outcome.OUTCOME_REFUSED
    header.reasons.append(ReasonRecord(code=ReasonCode.REASON_CODE_TAG_RETIRED, item="E280"))
    account = accounts.read_entry(make_receipt(header))
    assert len(account.zh) == len(account.en)
    assert any("冻结" in line and "遗失" in line for line in account.zh)
    assert any("304 TAG_RETIRED E280" in line for line in account.en)
    assert "2023-11-14 22:13:20.123 UTC" in account.en[0]


def test_every_event_has_words() -> None:
    kinds = Event.DESCRIPTOR.oneofs_by_name["event"].fields
    assert {field.name for field in kinds} == accounts.DESCRIBERS.keys()
    for field in kinds:
        event = Event()
        getattr(event, field.name).SetInParent()
        assert all(accounts.describe_event(event))
