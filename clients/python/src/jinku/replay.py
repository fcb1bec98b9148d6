"""Plays laid-out reads through a portal client at their own times, with live answers of the tags."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jinku.columns import Reads, Tam2Read, make_batch
from jinku.portal import PortalClient
from jinku.recording import Tracks, cut
from jinku.softtags import COUNTING, SoftTag, TagCounters, answer_many, answer_many_tam2, count_many
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import Tam2Profile

PERIOD_NS = 50_000_000
BATCH_READS_MAX = 4_096
# Of TAM2 tags, the first block of the TID.
TAM2_READ = Tam2Read(Tam2Profile.TAM2_PROFILE_TID, 0, 1)


class Replayer:
    """The tags in front of one portal: `tags[i]` answers for reads of number i."""

    def __init__(
        self,
        client: PortalClient,
        tags: Sequence[SoftTag],
        counters: TagCounters,
        tam2: Tam2Read = TAM2_READ,
    ) -> None:
        self.client = client
        self.tags = tags
        self.counters = counters
        self.tam2 = tam2
        # What a batch holds is of one scheme and width.
        self.kinds = np.array([(int(tag.scheme), len(tag.identity)) for tag in tags])

    def send(self, reads: Reads, which: NDArray[np.intp]) -> list[int]:
        """One batch per scheme and width among the reads; answers their sequences."""
        sequences = []
        kinds = self.kinds[which]
        for scheme, width in np.unique(kinds, axis=0).tolist():
            rows = np.flatnonzero((kinds == (scheme, width)).all(axis=1))
            alike = reads.take(rows)
            alike = replace(alike, identity=alike.identity[:, :width])
            sequences.append(self.send_alike(alike, which[rows]))
        return sequences

    def send_alike(self, reads: Reads, which: NDArray[np.intp]) -> int:
        scheme = self.tags[int(which[0])].scheme
        if scheme in COUNTING:
            batch = make_batch(reads, scheme, count_many(self.tags, which, self.counters))
        elif scheme == TagScheme.TAG_SCHEME_TAM1:
            challenge = self.client.wait_challenge()
            evidence = answer_many(self.tags, which, challenge.challenge)
            batch = make_batch(reads, scheme, evidence, challenge.challenge_id)
        elif scheme == TagScheme.TAG_SCHEME_TAM2:
            challenge = self.client.wait_challenge()
            evidence = answer_many_tam2(self.tags, which, challenge.challenge, self.tam2)
            batch = make_batch(reads, scheme, evidence, challenge.challenge_id, self.tam2)
        else:
            batch = make_batch(reads, TagScheme.TAG_SCHEME_NONE)
        return self.client.send(batch)

    def play(self, tracks: Tracks, on_piece: Callable[[int], None] | None = None) -> None:
        """Sends each 50 ms of reads when they are over; `on_piece` is told how many went."""
        for complete_ns, rows in cut(tracks, PERIOD_NS, BATCH_READS_MAX):
            delay = (complete_ns - time.time_ns()) / 1e9
            if delay > 0:
                time.sleep(delay)
            self.send(tracks.reads.take(rows), tracks.which[rows])
            if on_piece is not None:
                on_piece(rows.stop - rows.start)
