"""Runs of the read log's batches enter the journal, and leave the disk when their time is over; before
those with counters do, the counters that they left behind enter the journal.

The service's own commands: nobody is answered. What cannot be, because the read log itself made
the request, is an error of ours and raises ValueError: nothing is recorded.
"""

from __future__ import annotations

from core.decisions import Context, Decision, Handler
from core.ledger.tables import (
    PORTALS,
    READ_COUNTERS,
    REALM_KEY,
    SEGMENT_KEY_SIZE,
    SEGMENTS,
    State,
    segment_key,
)
from core.store.v1.commands_pb2 import KeepCounters, PruneReadSegment, SealReadSegment
from jinku.event.v1.event_pb2 import CountersKept, Event, ReadSegmentPruned, ReadSegmentSealed

DIGEST_SIZE = 32


def decide_seal_read_segment(request: SealReadSegment, state: State, context: Context) -> Decision:
    """The digest of a complete run. Runs of one epoch follow each other without a gap."""
    if state.get(PORTALS, request.portal_id) is None:
        raise ValueError("a read segment of a portal that is not registered")
    if len(request.digest) != DIGEST_SIZE or request.last_sequence < request.first_sequence:
        raise ValueError("a read segment without batches or digest")
    if request.first_sequence != next_segment(state, request.portal_id, request.portal_epoch):
        raise ValueError("a read segment that does not follow the one before")
    sealed = ReadSegmentSealed(
        portal_id=request.portal_id,
        portal_epoch=request.portal_epoch,
        first_sequence=request.first_sequence,
        last_sequence=request.last_sequence,
        reads=request.reads,
        digest=request.digest,
        first_received_ns=request.first_received_ns,
        last_received_ns=request.last_received_ns,
        first_turn=request.first_turn,
        end_turn=request.end_turn,
        counter_batches=request.counter_batches,
    )
    return Decision(events=[Event(read_segment_sealed=sealed)])


def decide_prune_read_segment(
    request: PruneReadSegment, state: State, context: Context
) -> Decision:
    """A sealed run's batches are deleted, because they were kept as long as they had to be."""
    key = segment_key(request.portal_id, request.portal_epoch, request.first_sequence)
    row = state.get(SEGMENTS, key)
    if row is None or row.pruned:
        raise ValueError("a read segment that is not sealed, or pruned already")
    kept = state.get(READ_COUNTERS, REALM_KEY)
    if row.counter_batches and (kept is None or kept.turn < row.end_turn):
        raise ValueError("a read segment whose counters are kept nowhere else")
    pruned = ReadSegmentPruned(
        portal_id=request.portal_id,
        portal_epoch=request.portal_epoch,
        first_sequence=request.first_sequence,
        last_sequence=row.last_sequence,
        retention_days=request.retention_days,
        retention_article=request.retention_article,
    )
    return Decision(events=[Event(read_segment_pruned=pruned)])


def decide_keep_counters(request: KeepCounters, state: State, context: Context) -> Decision:
    """All counters as of a turn; of a later one than those kept before."""
    before = state.get(READ_COUNTERS, REALM_KEY)
    if len(request.digest) != DIGEST_SIZE or (before is not None and request.turn <= before.turn):
        raise ValueError("counters without a digest, or older than those kept")
    kept = CountersKept(turn=request.turn, tags=request.tags, digest=request.digest)
    return Decision(events=[Event(counters_kept=kept)])


def next_segment(state: State, portal_id: bytes, portal_epoch: int) -> int:
    """The first sequence that no segment of this epoch holds."""
    prefix = segment_key(portal_id, portal_epoch, 0)[:24]
    found = state.last(SEGMENTS, prefix, SEGMENT_KEY_SIZE)
    return found[1].last_sequence + 1 if found is not None else 1


SEGMENT_HANDLERS = (
    Handler(SealReadSegment, decide_seal_read_segment),
    Handler(PruneReadSegment, decide_prune_read_segment),
    Handler(KeepCounters, decide_keep_counters),
)
