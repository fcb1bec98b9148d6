"""Refusals through the public API: all are answered with their reasons, all are on record."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from core.errors import LedgerBusy
from jinku import receipts
from jinku.event.v1.entry_pb2 import EntryHeader, Outcome
from jinku.event.v1.event_pb2 import Events
from jinku.v1.ledger_pb2 import (
    GetCheckpointRequest,
    GetCheckpointResponse,
    GetEntryRequest,
    GetEntryResponse,
    GetProofRequest,
)
from jinku.v1.registry_pb2 import FreezeTagRequest, FreezeTagResponse
from running import (
    LEDGER,
    REGISTRY,
    Running,
    call,
    call_bytes,
    failure_of,
    running_service,
    wait_until,
)

QUOTA, INJECTED = 4, 11


def read_journal(running: Running) -> list[tuple[EntryHeader, Events]]:
    """As an auditor reads it."""
    auditor = running.auditor()
    head = call(auditor, LEDGER + "GetCheckpoint", GetCheckpointRequest(), GetCheckpointResponse)
    found = []
    for index in range(head.tree_size):
        request = GetEntryRequest(entry_index=index)
        receipt = call(auditor, LEDGER + "GetEntry", request, GetEntryResponse).receipt
        verified = receipts.verify(receipt, head.verifier_key)
        assert verified.events is not None
        found.append((verified.header, verified.events))
    return found


@pytest.mark.req("HND-26")
def test_as_many_refusals_on_record_as_there_were(tmp_path: Path) -> None:
    settings = {
        "SEQUENCER__REFUSALS_PER_INTERVAL_MAX": f"{QUOTA}",
        "SEQUENCER__REFUSAL_INTERVAL_SECONDS": "3",
    }
    with running_service(tmp_path, **settings) as running:
        registrar = running.registrar()
        outcomes = []
        for number in range(INJECTED):
            request = FreezeTagRequest(
                command_id=running.command_id(), identity=number.to_bytes(12, "big")
            )
            outcomes.append(
                call(registrar, REGISTRY + "FreezeTag", request, FreezeTagResponse).outcome
            )
        recorded = [one for one in outcomes if one.HasField("receipt")]
        beyond = [one for one in outcomes if not one.HasField("receipt")]
        assert QUOTA <= len(recorded) < INJECTED
        for one in outcomes:
            assert one.refused.reasons[0].name == "TAG_NOT_REGISTERED"
        for one in beyond:
            why = one.refused.reasons[-1]
            assert (why.name, why.requirement) == ("REFUSAL_NOT_RECORDED", "HND-26")
            assert "no receipt" in why.text_en
            assert "没有记录号和凭证" in why.text_zh
            assert one.entry_index == 0

        def counted() -> int:
            events = [event for _, events in read_journal(running) for event in events.events]
            return sum(event.refusals_counted.count for event in events)

        wait_until(lambda: counted() == len(beyond), 20)
        refused = [
            header
            for header, _ in read_journal(running)
            if header.outcome == Outcome.OUTCOME_REFUSED
        ]
        assert len(refused) + counted() == INJECTED
        assert [one.entry_index for one in recorded] == [header.index for header in refused]


def test_too_many_readers_are_told_so_and_served_again(tmp_path: Path) -> None:
    with running_service(tmp_path) as running:
        auditor = running.auditor()
        request = GetProofRequest(entry_index=0).SerializeToString()
        with ExitStack() as held:
            with pytest.raises(LedgerBusy):
                while True:
                    held.enter_context(running.service.ledger.read())
            with pytest.raises(grpc.RpcError) as caught:
                call_bytes(auditor, LEDGER + "GetProof", request)
            failure = failure_of(caught.value)
            assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert failure.reason == "LEDGER_BUSY"
        assert call_bytes(auditor, LEDGER + "GetProof", request)
