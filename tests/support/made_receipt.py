"""A receipt made by hand, of a tree and a signer that are independent of ours."""

from __future__ import annotations

import hashlib

from jinku.event.v1.entry_pb2 import EntryHeader, Outcome
from jinku.event.v1.event_pb2 import Event, Events, TagFrozen
from jinku.v1.common_pb2 import Receipt
from signed_tree import path, sign, tree_hash

EVENTS = Events(events=[Event(tag_frozen=TagFrozen(tag_id=b"t" * 16, note="遗失"))])
HEADER = EntryHeader(
    realm=1,
    index=5,
    salt=b"s" * 16,
    principal="spiffe://bank.example/1/service/desk",
    command="jinku.v1.FreezeTagRequest",
    decided_at_ns=1_700_000_000_123_456_789,
    outcome=Outcome.OUTCOME_ACCEPTED,
)


def make_receipt(header: EntryHeader = HEADER, events: Events = EVENTS) -> Receipt:
    leaf_header, packed = header.SerializeToString(), events.SerializeToString()
    digest = hashlib.sha256(packed).digest()
    leaves = [bytes([number]) for number in range(9)]
    leaves[5] = leaf_header + digest
    return Receipt(
        header=leaf_header,
        events_digest=digest,
        events=packed,
        inclusion_proof=path(5, leaves),
        checkpoint=sign(9, tree_hash(leaves)),
    )
