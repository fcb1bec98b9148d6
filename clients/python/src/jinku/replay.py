"""Plays laid-out reads through a portal client at their own times, with live answers of the tags."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from jinku.columns import Reads, make_batch
from jinku.portal import PortalClient
from jinku.recording import Tracks, cut
from jinku.softtags import SoftTag, answer_many, make_frame
from jinku.type.v1.tag_pb2 import TagScheme

PERIOD_NS = 50_000_000
BATCH_READS_MAX = 4_096
# A software tag keeps no counter: it begins with the clock, in sixteenths of a second since this
# instant, so that a later replay counts on.
COUNTER_ORIGIN_S = 1_700_000_000
COUNTS_PER_SECOND = 16


class Replayer:
    """The tags in front of one portal: `tags[i]` answers for reads of number i."""

    def __init__(self, client: PortalClient, tags: Sequence[SoftTag]) -> None:
        self.client = client
        self.tags = tags
        self.schemes = np.array([int(tag.scheme) for tag in tags])
        begin = int((time.time() - COUNTER_ORIGIN_S) * COUNTS_PER_SECOND)
        self.counters = dict.fromkeys(range(len(tags)), begin)

    def send(self, reads: Reads, which: NDArray[np.intp]) -> list[int]:
        """One batch per scheme among the reads; answers their sequences."""
        sequences = []
        for scheme in np.unique(self.schemes[which]):
            rows = np.flatnonzero(self.schemes[which] == scheme)
            sequences.append(self.send_scheme(reads.take(rows), which[rows], int(scheme)))
        return sequences

    def send_scheme(self, reads: Reads, which: NDArray[np.intp], scheme: int) -> int:
        if scheme == TagScheme.TAG_SCHEME_TAM1:
            challenge = self.client.wait_challenge()
            evidence = answer_many(self.tags, which, challenge.challenge)
            batch = make_batch(reads, TagScheme.TAG_SCHEME_TAM1, evidence, challenge.challenge_id)
        elif scheme == TagScheme.TAG_SCHEME_COUNTER_CMAC:
            batch = make_batch(reads, TagScheme.TAG_SCHEME_COUNTER_CMAC, self.frames(which))
        else:
            batch = make_batch(reads, TagScheme.TAG_SCHEME_NONE)
        return self.client.send(batch)

    def frames(self, which: NDArray[np.intp]) -> NDArray[np.uint8]:
        frames = []
        for number in which.tolist():
            self.counters[number] += 1
            frames.append(make_frame(self.tags[number], self.counters[number]))
        return np.frombuffer(b"".join(frames), np.uint8).reshape(len(frames), -1)

    def play(self, tracks: Tracks, on_piece: Callable[[int], None] | None = None) -> None:
        """Sends each 50 ms of reads when they are over; `on_piece` is told how many went."""
        for complete_ns, rows in cut(tracks, PERIOD_NS, BATCH_READS_MAX):
            delay = (complete_ns - time.time_ns()) / 1e9
            if delay > 0:
                time.sleep(delay)
            self.send(tracks.reads.take(rows), tracks.which[rows])
            if on_piece is not None:
                on_piece(rows.stop - rows.start)
