"""Questions, answered from what is durable. Nothing here is journalled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

from core.decisions import reason
from core.errors import InvalidRequest, LedgerCorrupt, Violation
from core.ledger.ledger import RECEIPT_SIZE_MAX, Ledger
from core.ledger.tables import CONTAINERS, INSTITUTIONS, TAGS, VAULTS, IndexKind, State, Table
from core.ledger.tiles import read_tile
from core.mechanisms.history import newest_places
from core.procedures.tags import show_identity
from core.reasons import refusal
from core.store.v1.rows_pb2 import ContainerRow
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events
from jinku.type.v1.command_pb2 import DurabilityLevel
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.v1.common_pb2 import Receipt
from jinku.v1.ledger_pb2 import (
    GetCheckpointRequest,
    GetCheckpointResponse,
    GetConsistencyProofRequest,
    GetConsistencyProofResponse,
    GetEntryRequest,
    GetEntryResponse,
    GetProofRequest,
    GetProofResponse,
    GetTileRequest,
    GetTileResponse,
)
from jinku.v1.registry_pb2 import GetContainerRequest, GetContainerResponse, HistoryItem

R = TypeVar("R", bound=Message)

HISTORY_MAX = 1_000


@dataclass(frozen=True)
class Query:
    """One question: its request and how it is answered. InvalidRequest names a field at fault."""

    request: type[Message]
    answer: Callable[[Any, Ledger], Message]


def get_container(request: GetContainerRequest, ledger: Ledger) -> GetContainerResponse:
    """A container by its label, its id or an identity it carries or ever carried (TAG-03).

    Not found is an answer, with the reason. All of it is of one commit, or, in the history, of
    entries up to that commit.
    """
    with ledger.read() as state:
        container_id, why = _find_container(request, state)
        row = state.get(CONTAINERS, container_id) if container_id else None
        if row is None:
            return GetContainerResponse(found=False, refused=refusal([why]))
        response = _describe(container_id, row, state)
        newest = newest_places(state, container_id, HISTORY_MAX)
    response.history.extend(_history(newest, ledger, [container_id, *row.tag_ids]))
    return response


def _find_container(request: GetContainerRequest, state: State) -> tuple[bytes, ReasonRecord]:
    """The container's id, or none, and what to say if it leads to nothing."""
    by = request.WhichOneof("by")
    if by == "identity":
        why = reason(ReasonCode.REASON_CODE_TAG_NOT_REGISTERED, show_identity(request.identity))
        tag_id = state.find(IndexKind.TAG_IDENTITY, request.identity)
        tag = state.get(TAGS, tag_id) if tag_id else None
        return (tag.container_id if tag else b""), why
    if by == "container_id":
        why = reason(
            ReasonCode.REASON_CODE_CONTAINER_NOT_REGISTERED,
            request.container_id.hex(),
            request.container_id,
        )
        return request.container_id, why
    why = reason(ReasonCode.REASON_CODE_CONTAINER_NOT_REGISTERED, request.label)
    return state.find(IndexKind.CONTAINER_LABEL, request.label.encode()) or b"", why


def _describe(container_id: bytes, row: ContainerRow, state: State) -> GetContainerResponse:
    response = GetContainerResponse(
        found=True,
        container_id=container_id,
        label=row.label,
        kind=row.kind,
        institution_code=_named(state, INSTITUTIONS, row.institution_id).code,
        vault_code=_named(state, VAULTS, row.vault_id).code,
        custody=row.custody,
    )
    for tag_id in row.tag_ids:
        tag = _named(state, TAGS, tag_id)
        response.tags.add(
            tag_id=tag_id,
            identity=tag.identity,
            scheme=tag.scheme,
            state=tag.state,
            issuing_realm=tag.issuing_realm,
            key_version=tag.key_version,
        )
    return response


def _named(state: State, table: Table[R], id_: bytes) -> R:
    """The row that a container names: `apply` never writes one without it."""
    row = state.get(table, id_)
    if row is None:
        raise LedgerCorrupt(f"{table.row.DESCRIPTOR.name} {id_.hex()}", "is named and missing")
    return row


def _history(
    where: list[tuple[int, int]], ledger: Ledger, subjects: list[bytes]
) -> list[HistoryItem]:
    """The events at these places, each entry opened once; they stand in order of entries.

    LedgerCorrupt if an entry names none of the subjects.
    """
    items: list[HistoryItem] = []
    opened, header, events = -1, EntryHeader(), Events()
    for entry_index, ordinal in where:
        if entry_index != opened:
            entry = ledger.entry(entry_index)
            opened = entry_index
            if not any(subject in entry.events for subject in subjects):
                raise LedgerCorrupt(
                    f"entry {entry_index}", "is in the history of what it does not name"
                )
            header, events = EntryHeader.FromString(entry.header), Events.FromString(entry.events)
        item = HistoryItem(
            entry_index=entry_index,
            decided_at_ns=header.decided_at_ns,
            event=events.events[ordinal],
        )
        items.append(item)
    return items


def get_entry(request: GetEntryRequest, ledger: Ledger) -> GetEntryResponse:
    """One entry's receipt, with its events where they fit. InvalidRequest if it is not there."""
    if request.entry_index >= ledger.size:
        raise InvalidRequest([_beyond("entry_index", ledger.size)])
    if request.witnessed:
        receipt = _witnessed_receipt(request.entry_index, ledger)
        if receipt is not None:
            level = DurabilityLevel.DURABILITY_LEVEL_WITNESSED
            return GetEntryResponse(receipt=receipt, level=level)
    level = DurabilityLevel.DURABILITY_LEVEL_LOCAL
    return GetEntryResponse(receipt=ledger.receipt(request.entry_index), level=level)


def _witnessed_receipt(index: int, ledger: Ledger) -> Receipt | None:
    """The entry under the newest witnessed checkpoint, at most 4 KB; None if there is no such."""
    witnessed = ledger.witnessed.newest
    if witnessed is None or index >= witnessed.tree_size:
        return None
    receipt = ledger.receipt(index)
    events = receipt.events
    receipt.ClearField("events")
    receipt.ClearField("inclusion_proof")
    receipt.inclusion_proof.extend(ledger.proof(index, witnessed.tree_size))
    receipt.checkpoint = witnessed.note
    if receipt.ByteSize() > RECEIPT_SIZE_MAX:
        return None
    receipt.events = events
    if receipt.ByteSize() > RECEIPT_SIZE_MAX:
        receipt.ClearField("events")
    return receipt


def get_proof(request: GetProofRequest, ledger: Ledger) -> GetProofResponse:
    """The inclusion proof of an entry in the tree of a size, the newest checkpoint's if none is
    named (RFC 6962 section 2.1.1). InvalidRequest if the tree or the entry is not there.
    """
    newest = ledger.checkpoint().tree_size
    tree_size = request.tree_size if request.HasField("tree_size") else newest
    if tree_size > newest:
        raise InvalidRequest([_too_large("tree_size", tree_size, newest)])
    if request.entry_index >= tree_size:
        raise InvalidRequest([_beyond("entry_index", tree_size)])
    return GetProofResponse(
        leaf_hash=ledger.node(0, request.entry_index),
        inclusion_proof=ledger.proof(request.entry_index, tree_size),
        tree_size=tree_size,
        root_hash=ledger.root(tree_size),
    )


def get_checkpoint(request: GetCheckpointRequest, ledger: Ledger) -> GetCheckpointResponse:
    """The newest signed checkpoint, the key that checks it, and the newest that is witnessed."""
    checkpoint, witnessed = ledger.checkpoint(), ledger.witnessed.newest
    return GetCheckpointResponse(
        checkpoint=checkpoint.note,
        verifier_key=ledger.verifier_key,
        tree_size=checkpoint.tree_size,
        witnessed_checkpoint=witnessed.note if witnessed else "",
        witnessed_tree_size=witnessed.tree_size if witnessed else 0,
    )


def get_consistency_proof(
    request: GetConsistencyProofRequest, ledger: Ledger
) -> GetConsistencyProofResponse:
    """That the journal of the first size begins that of the second, the newest checkpoint's if none
    is named (RFC 6962 section 2.1.2).

    InvalidRequest if the sizes are not in order, beyond the journal, or the first is 0: from the
    empty tree there is nothing to prove, and an empty proof would read like one.
    """
    newest = ledger.checkpoint().tree_size
    first = request.first_tree_size
    second = request.second_tree_size if request.HasField("second_tree_size") else newest
    if second > newest:
        raise InvalidRequest([_too_large("second_tree_size", second, newest)])
    if not 0 < first <= second:
        fault = Violation("first_tree_size", f"{first}, must be 1 to {second}")
        raise InvalidRequest([fault])
    proof, first_root, second_root = ledger.consistency(first, second)
    return GetConsistencyProofResponse(
        consistency_proof=proof,
        first_tree_size=first,
        second_tree_size=second,
        first_root_hash=first_root,
        second_root_hash=second_root,
    )


def get_tile(request: GetTileRequest, ledger: Ledger) -> GetTileResponse:
    """The beginning of a hash tile. InvalidRequest if the journal has not so much of it."""
    try:
        hashes = read_tile(ledger, request.level, request.tile_index, request.width)
    except IndexError as error:
        raise InvalidRequest([Violation("width", f"{request.width}, and {error}")]) from None
    return GetTileResponse(hashes=hashes)


def _too_large(field: str, tree_size: int, newest: int) -> Violation:
    return Violation(field, f"{tree_size}, the journal has {newest} entries")


def _beyond(field: str, size: int) -> Violation:
    return Violation(field, f"there are {size} entries, numbered from 0")


ALL_QUERIES = (
    Query(GetContainerRequest, get_container),
    Query(GetEntryRequest, get_entry),
    Query(GetProofRequest, get_proof),
    Query(GetCheckpointRequest, get_checkpoint),
    Query(GetConsistencyProofRequest, get_consistency_proof),
    Query(GetTileRequest, get_tile),
)
