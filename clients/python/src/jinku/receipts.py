"""Receipts checked offline, with nothing but the receipt and the realm's verifier key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from jinku import notes
from jinku.errors import JinkuError
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events
from jinku.v1.common_pb2 import Receipt

RECEIPT_BYTES_MAX = 4096


class ReceiptInvalid(JinkuError):
    """The receipt proves nothing; the message says which of its parts is wrong."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a receipt proves: this entry stands at this place of this signed journal."""

    header: EntryHeader
    # None where the receipt carries only their digest.
    events: Events | None
    checkpoint: notes.Checkpoint
    # Which of the witnesses that were named cosigned the checkpoint, and when (seconds since 1970).
    cosigners: dict[str, int] = field(default_factory=dict)


def verify(
    receipt: Receipt, verifier_key: str, witnesses: Sequence[str] = (), quorum: int = 0
) -> Verified:
    """Checks signatures, proof and digest, in that order; raises `ReceiptInvalid`.

    The leaf is the header's bytes as received and the events' digest: nothing is serialised again.
    With `quorum`, so many of the witnesses with these verifier keys must have cosigned.
    """
    try:
        key = notes.VerifierKey.parse(verifier_key)
        checkpoint = notes.open_checkpoint(receipt.checkpoint, key)
        cosigners = notes.require_quorum(receipt.checkpoint, parse_witnesses(witnesses), quorum)
    except notes.NoteInvalid as error:
        raise ReceiptInvalid(str(error)) from error
    header = parse_header(receipt.header)
    if len(receipt.events_digest) != notes.HASH_SIZE:
        raise ReceiptInvalid(f"events digest: {len(receipt.events_digest)} bytes, not 32")
    leaf = receipt.header + receipt.events_digest
    try:
        root = notes.compute_root(
            notes.hash_leaf(leaf), header.index, checkpoint.tree_size, receipt.inclusion_proof
        )
    except notes.NoteInvalid as error:
        raise ReceiptInvalid(str(error)) from error
    if root != checkpoint.root_hash:
        raise ReceiptInvalid("proof: header and events digest are not in the checkpoint's tree")
    return Verified(header, open_events(receipt), checkpoint, cosigners)


def parse_witnesses(keys: Sequence[str]) -> list[notes.VerifierKey]:
    return [notes.VerifierKey.parse(key, notes.COSIGNATURE) for key in keys]


def parse_header(header: bytes) -> EntryHeader:
    try:
        return EntryHeader.FromString(header)
    except DecodeError as error:
        raise ReceiptInvalid("header: not an entry header") from error


def open_events(receipt: Receipt) -> Events | None:
    """The events, if the receipt carries them. No events at all serialise to no bytes."""
    digest = hashlib.sha256(receipt.events).digest()
    if not receipt.events and digest != receipt.events_digest:
        return None
    if digest != receipt.events_digest:
        raise ReceiptInvalid("events: they are not the ones that were signed for")
    try:
        return Events.FromString(receipt.events)
    except DecodeError as error:
        raise ReceiptInvalid("events: not an event list") from error


def save(receipt: Receipt, path: Path) -> None:
    """Writes the receipt as the file that `jinku ledger verify` reads."""
    path.write_bytes(receipt.SerializeToString(deterministic=True))


def load(path: Path) -> Receipt:
    content = path.read_bytes()
    if not content:
        raise ReceiptInvalid(f"{path}: empty")
    try:
        return Receipt.FromString(content)
    except DecodeError as error:
        raise ReceiptInvalid(f"{path}: not a receipt") from error
