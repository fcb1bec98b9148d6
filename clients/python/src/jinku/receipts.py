"""Receipts checked offline, with nothing but the receipt and the realm's verifier key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from jinku import notes
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events
from jinku.v1.common_pb2 import Receipt
from jinku.verdicts import (
    Fault,
    NotProven,
    check_inclusion,
    find_cosigners,
    open_checkpoint,
    parse_key,
)

RECEIPT_BYTES_MAX = 4096

M = TypeVar("M", bound=Message)


class ReceiptInvalid(NotProven):
    """The receipt proves nothing; the message says which of its parts is wrong."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a receipt proves: this entry stands at this place of this signed journal."""

    header: EntryHeader
    # None where the receipt carries only their digest.
    events: Events | None
    checkpoint: notes.Checkpoint
    # Which of the witnesses that were named cosigned the checkpoint, and when (seconds since 1970).
    cosigners: dict[notes.VerifierKey, int] = field(default_factory=dict)

    def verdict(self) -> tuple[str, str]:
        """What is proven, in Chinese and in English."""
        origin, size, index = self.checkpoint.origin, self.checkpoint.tree_size, self.header.index
        return (
            f"凭证有效: 第 {index} 条记录在 {origin} 共 {size} 条的签名检查点中",
            f"valid: entry {index} is in the checkpoint of {size} entries signed by {origin}",
        )


def verify(
    receipt: Receipt, verifier_key: str, witnesses: Sequence[str] = (), quorum: int = 0
) -> Verified:
    """Checks signatures, proof and digest, in that order; raises `ReceiptInvalid`.

    The leaf is the header's bytes as received and the events' digest: nothing is serialised again.
    With `quorum`, so many of the witnesses with these verifier keys must have cosigned.
    """
    try:
        checkpoint = open_checkpoint(receipt.checkpoint, parse_key(verifier_key))
        cosigners = find_cosigners(receipt.checkpoint, witnesses, quorum)
        header = parse_header(receipt.header)
        if len(receipt.events_digest) != notes.HASH_SIZE:
            size = len(receipt.events_digest)
            raise NotProven(Fault.ENTRY_MALFORMED, "events digest", f"{size} bytes, not 32")
        leaf = receipt.header + receipt.events_digest
        check_inclusion(leaf, header.index, checkpoint, receipt.inclusion_proof)
        return Verified(header, open_events(receipt), checkpoint, cosigners)
    except NotProven as error:
        raise ReceiptInvalid(error.fault, error.where, error.detail) from error


def parse_header(header: bytes, where: str = "header") -> EntryHeader:
    return parse_message(EntryHeader, header, Fault.ENTRY_MALFORMED, where)


def parse_message(kind: type[M], content: bytes, fault: Fault, where: str) -> M:
    try:
        return kind.FromString(content)
    except DecodeError as error:
        what = f"not a {kind.DESCRIPTOR.full_name}"
        raise ReceiptInvalid(fault, where, what) from error


def open_events(receipt: Receipt) -> Events | None:
    """The events, if the receipt carries them. No events at all serialise to no bytes."""
    digest = hashlib.sha256(receipt.events).digest()
    if not receipt.events and digest != receipt.events_digest:
        return None
    if digest != receipt.events_digest:
        raise ReceiptInvalid(Fault.EVENTS_ALTERED, "events")
    return parse_message(Events, receipt.events, Fault.ENTRY_MALFORMED, "events")


def save(receipt: Receipt, path: Path) -> None:
    """Writes the receipt as the file that `jinku ledger verify` reads."""
    path.write_bytes(receipt.SerializeToString(deterministic=True))


def load(path: Path) -> Receipt:
    """The receipt in a file, however large that is; ReceiptInvalid if there is none in it."""
    with path.open("rb") as file:
        return parse(file.read(RECEIPT_BYTES_MAX + 1), str(path))


def parse(content: bytes, where: str = "") -> Receipt:
    """A receipt as it is saved: whole, and nothing beside it. Nothing is verified."""
    if len(content) > RECEIPT_BYTES_MAX:
        raise ReceiptInvalid(Fault.TOO_LARGE, where, f"more than {RECEIPT_BYTES_MAX} bytes")
    if not content:
        raise ReceiptInvalid(Fault.NO_RECEIPT, where, "empty")
    receipt = parse_message(Receipt, content, Fault.NO_RECEIPT, where)
    # What follows from other fields is proven by nobody.
    if len(UnknownFieldSet(receipt)) or receipt.SerializeToString(deterministic=True) != content:
        raise ReceiptInvalid(Fault.NO_RECEIPT, where, "not as receipts are written")
    if not (receipt.header and receipt.checkpoint and receipt.events_digest):
        raise ReceiptInvalid(Fault.NO_RECEIPT, where, "header, digest or checkpoint are missing")
    return receipt
