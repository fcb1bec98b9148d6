"""Boxes and tags through the public API: one service, mutual TLS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from jinku import aio, receipts
from jinku.calls import RetryPolicy
from jinku.channel import Connection, ConnectionIncomplete
from jinku.commands import CommandIds
from jinku.errors import NotAllowed, Refused, RequestInvalid, ServiceUnavailable, require_accepted
from jinku.ledger import LedgerClient
from jinku.registry import RegistryClient
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.type.v1.tag_pb2 import TagScheme, TagState
from jinku.v1.common_pb2 import Outcome
from jinku.v1.ledger_pb2 import GetCheckpointRequest, GetEntryRequest, GetProofRequest
from jinku.v1.registry_pb2 import (
    FreezeTagRequest,
    GetContainerRequest,
    GetContainerResponse,
    IssueTagRequest,
    RegisterInstitutionRequest,
    RetireTagRequest,
    UnfreezeTagRequest,
)
from served_realm import Realm, serve

TAM1 = TagScheme.TAG_SCHEME_TAM1


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Realm]:
    with serve(tmp_path_factory.mktemp("served") / "realm") as running:
        yield running


def issue(realm: Realm, label: str, identity: bytes, replaces: bool = False) -> Outcome:
    request = IssueTagRequest(
        container_label=label, identity=identity, scheme=TAM1, replaces=replaces
    )
    return realm.registry.issue_tag(request).outcome


def codes(outcome: Outcome) -> list[int]:
    return [reason.code for reason in outcome.refused.reasons]


def states(found: GetContainerResponse) -> list[int]:
    return [tag.state for tag in found.tags]


def history(found: GetContainerResponse) -> list[str | None]:
    return [item.event.WhichOneof("event") for item in found.history]


@pytest.mark.req("TAG-01")
def test_replaced_tag_is_dead_and_history_goes_on(realm: Realm) -> None:
    label, old = realm.add_tagged_box()
    new = realm.new_identity()
    require_accepted(issue(realm, label, new, replaces=True))
    found = realm.registry.get_container(GetContainerRequest(label=label))
    assert states(found) == [TagState.TAG_STATE_RETIRED, TagState.TAG_STATE_ACTIVE]
    assert [tag.identity for tag in found.tags] == [old, new]
    assert history(found).count("tag_issued") == 2
    assert "tag_retired" in history(found)
    # Dead for ever: it is neither unfrozen nor issued again.
    unfrozen = realm.registry.unfreeze_tag(UnfreezeTagRequest(identity=old))
    assert ReasonCode.REASON_CODE_TAG_RETIRED in codes(unfrozen.outcome)
    assert codes(issue(realm, realm.add_box(), old)) != []


@pytest.mark.req("TAG-01")
def test_freeze_unfreeze_retire_leave_history(realm: Realm) -> None:
    label, identity = realm.add_tagged_box()
    registry = realm.registry
    require_accepted(registry.freeze_tag(FreezeTagRequest(identity=identity, note="报失")).outcome)
    again = registry.freeze_tag(FreezeTagRequest(identity=identity))
    assert codes(again.outcome) == [ReasonCode.REASON_CODE_TAG_ALREADY_FROZEN]
    require_accepted(registry.unfreeze_tag(UnfreezeTagRequest(identity=identity)).outcome)
    require_accepted(registry.retire_tag(RetireTagRequest(identity=identity)).outcome)
    found = registry.get_container(GetContainerRequest(label=label))
    assert states(found) == [TagState.TAG_STATE_RETIRED]
    assert [name for name in history(found) if name and name.startswith("tag_")] == [
        "tag_issued",
        "tag_frozen",
        "tag_unfrozen",
        "tag_retired",
    ]


@pytest.mark.req("TAG-02")
def test_one_tag_one_box(realm: Realm) -> None:
    label, identity = realm.add_tagged_box()
    other = realm.add_box()
    assert codes(issue(realm, other, identity)) == [ReasonCode.REASON_CODE_TAG_ALREADY_BOUND]
    second = issue(realm, label, realm.new_identity())
    assert codes(second) == [ReasonCode.REASON_CODE_CONTAINER_HAS_LIVE_TAG]
    found = realm.registry.get_container(GetContainerRequest(label=label))
    assert [tag.identity for tag in found.tags] == [identity]
    assert not realm.registry.get_container(GetContainerRequest(label=other)).tags


@pytest.mark.req("TAG-03")
def test_tag_and_box_look_up_agree(realm: Realm) -> None:
    label, identity = realm.add_tagged_box()
    registry = realm.registry
    by_label = registry.get_container(GetContainerRequest(label=label))
    by_tag = registry.get_container(GetContainerRequest(identity=identity))
    by_id = registry.get_container(GetContainerRequest(container_id=by_label.container_id))
    assert by_label == by_tag == by_id
    assert (by_label.found, by_label.label) == (True, label)
    assert (by_label.institution_code, by_label.vault_code) == ("1", "V")


@pytest.mark.req("TAG-03")
def test_unknown_tag_is_not_registered(realm: Realm) -> None:
    found = realm.registry.get_container(GetContainerRequest(identity=realm.new_identity()))
    assert not found.found
    assert [r.code for r in found.refused.reasons] == [ReasonCode.REASON_CODE_TAG_NOT_REGISTERED]
    assert found.refused.reasons[0].text_zh
    assert found.refused.reasons[0].text_en


def test_same_bytes_are_done_once(realm: Realm) -> None:
    label, identity = realm.add_tagged_box()
    request = FreezeTagRequest(identity=identity)
    assert realm.registry.command_ids is not None
    request.command_id.CopyFrom(realm.registry.command_ids.draw())
    first = realm.registry.freeze_tag(request)
    second = realm.registry.freeze_tag(request)
    assert require_accepted(first.outcome).entry_index == second.outcome.entry_index
    assert second.outcome.accepted == first.outcome.accepted
    request.note = "another body"
    reused = realm.registry.freeze_tag(request)
    assert codes(reused.outcome) == [ReasonCode.REASON_CODE_COMMAND_ID_REUSED]
    found = realm.registry.get_container(GetContainerRequest(label=label))
    assert history(found).count("tag_frozen") == 1


def test_refusal_reads_well(realm: Realm) -> None:
    outcome = issue(realm, "no-such-box", realm.new_identity())
    with pytest.raises(Refused, match=r"208 CONTAINER_NOT_REGISTERED \(.*no-such-box") as caught:
        require_accepted(outcome)
    assert caught.value.reasons[0].requirement


def test_answer_has_a_receipt_that_verifies(realm: Realm) -> None:
    label, identity = realm.add_tagged_box()
    frozen = realm.registry.freeze_tag(FreezeTagRequest(identity=identity, note="n"))
    outcome = require_accepted(frozen.outcome)
    with realm.service.connect("service", "auditor").open() as channel:
        ledger = LedgerClient(channel)
        checkpoint = ledger.get_checkpoint(GetCheckpointRequest())
        entry = ledger.get_entry(GetEntryRequest(entry_index=outcome.entry_index))
        proof = ledger.get_proof(GetProofRequest(entry_index=0))
    for receipt in (outcome.receipt, entry.receipt):
        verified = receipts.verify(receipt, checkpoint.verifier_key)
        assert verified.header.index == outcome.entry_index
        assert verified.header.command == "jinku.v1.FreezeTagRequest"
        assert receipt.ByteSize() <= receipts.RECEIPT_BYTES_MAX
    assert proof.tree_size > outcome.entry_index
    assert label


def test_wrong_fields_are_named(realm: Realm) -> None:
    with pytest.raises(RequestInvalid, match="identity") as caught:
        realm.registry.freeze_tag(FreezeTagRequest(identity=b"short"))
    assert caught.value.details


def test_registrar_may_not_read_entries(realm: Realm) -> None:
    with pytest.raises(NotAllowed, match="PERMISSION_DENIED"):
        LedgerClient(realm.channel).get_entry(GetEntryRequest(entry_index=0))


def test_nobody_calls_without_a_certificate(realm: Realm) -> None:
    own = realm.service.connect("service", "auditor")
    credentials = grpc.ssl_channel_credentials(own.ca.read_bytes())
    with grpc.secure_channel(own.target, credentials) as channel:
        client = LedgerClient(channel, retry=RetryPolicy(attempts_max=1))
        with pytest.raises(ServiceUnavailable):
            client.get_checkpoint(GetCheckpointRequest())


def test_missing_certificate_is_named(tmp_path: Path) -> None:
    connection = Connection("localhost:1", tmp_path / "a.pem", tmp_path / "a.key", tmp_path / "ca")
    with pytest.raises(ConnectionIncomplete, match="CA"):
        connection.open()
    (tmp_path / "ca").write_text("nothing")
    with pytest.raises(ConnectionIncomplete, match="not a PEM file"):
        connection.open()


def test_unavailable_is_retried_with_the_same_bytes(realm: Realm, tmp_path: Path) -> None:
    """The service is away for the first attempts; the command is done once all the same."""
    label, identity = realm.add_tagged_box()
    pauses: list[float] = []
    realm.service.stop()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            realm.service.start()
        time.sleep(seconds)

    client = RegistryClient(
        realm.channel,
        CommandIds(tmp_path / "commands.json"),
        RetryPolicy(attempts_max=40, timeout_s=20),
        sleep,
    )
    frozen = client.freeze_tag(FreezeTagRequest(identity=identity))
    require_accepted(frozen.outcome)
    assert len(pauses) >= 2
    found = client.get_container(GetContainerRequest(label=label))
    assert history(found).count("tag_frozen") == 1


def test_asyncio_twin_answers_the_same(realm: Realm, tmp_path: Path) -> None:
    label, identity = realm.add_tagged_box()

    async def ask() -> tuple[GetContainerResponse, Outcome, list[Outcome]]:
        channel = realm.service.connect("service", "registrar").open_aio()
        async with channel:
            client = aio.RegistryClient(channel, CommandIds(tmp_path / "commands.json"))
            found = await client.get_container(GetContainerRequest(label=label))
            frozen = await client.freeze_tag(FreezeTagRequest(identity=identity))
            many = await asyncio.gather(
                *(
                    client.register_institution(
                        RegisterInstitutionRequest(code=f"a{n}", name="x", kind=3, parent_code="1")
                    )
                    for n in range(5)
                )
            )
            return found, frozen.outcome, [one.outcome for one in many]

    found, frozen, many = asyncio.run(ask())
    assert found.label == label
    require_accepted(frozen)
    assert len({require_accepted(one).entry_index for one in many}) == 5
