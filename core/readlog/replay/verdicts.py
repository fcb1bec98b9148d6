"""One stored batch judged again, and compared read by read."""

from __future__ import annotations

from typing import Final

import numpy as np

from core.errors import LedgerCorrupt
from core.kernels import UNKNOWN_NUMBER, verify_batch
from core.portal.challenges import ChallengeBook
from core.portal.columns import COUNTED, U8, U32, Columns
from core.readlog.counters import advances
from core.readlog.layout import Block
from core.readlog.replay.batches import Batch
from core.readlog.replay.report import Report
from core.readlog.replay.tags import Master, TagsThen
from core.readlog.stored import StoredReads
from core.readlog.terms import parse_terms
from core.store.v1.reads_pb2 import ReadTerms
from jinku.type.v1.tag_pb2 import Verdict
from jinku.v1.portal_pb2 import ChallengeState

# Which of these it is, the counter decides and, of a new one, the tag's state.
_COUNTER_DECIDES: Final = (
    Verdict.VERDICT_GENUINE, Verdict.VERDICT_NOT_ACTIVE, Verdict.VERDICT_REPLAYED,
)  # fmt: skip
_WITHOUT_NUMBER: Final = (Verdict.VERDICT_UNKNOWN_TAG, Verdict.VERDICT_MALFORMED)


class Judge:
    """Judges batches in their order."""

    def __init__(
        self, read_log: StoredReads, tags: TagsThen, challenges: ChallengeBook, report: Report
    ) -> None:
        self._log = read_log
        self._tags = tags
        self._key = challenges.key
        self._report = report
        self._terms: dict[bytes, ReadTerms] = {}
        self._challenges: dict[bytes, ChallengeBook] = {}

    def terms(self, digest: bytes, where: str) -> ReadTerms:
        """What a batch was judged under. LedgerCorrupt if it is not there."""
        if digest not in self._terms:
            packed = self._log.terms(digest)
            if packed is None:
                raise LedgerCorrupt(where, "names terms that are not there")
            terms = self._terms[digest] = parse_terms(packed)
            self._challenges[digest] = ChallengeBook(
                self._key, terms.live_challenge_ns, terms.spool_challenge_ns
            )
        return self._terms[digest]

    def judge(self, batch: Batch, *, counters_known: bool) -> U32:
        """Derive every verdict; the number of each read's tag, as the kernel gives it.

        LedgerCorrupt names the first read whose verdict is stored as another.
        """
        block = batch.block
        terms = self.terms(block.basis.terms, str(batch))
        challenge = self._challenge(batch)
        columns = block.columns
        loaded = {(one.issuing_realm, one.key_version) for one in terms.masters}
        if loaded.issuperset(self._tags.masters) and self._tags.loaded().issuperset(
            self._tags.masters
        ):
            everything = np.ones(len(columns), bool)
            derived, numbers = self._verify(block, columns, everything, challenge)
        else:
            derived, numbers = self._judge_partly(block, loaded, challenge)
        self._compare(batch, derived, counters_known)
        self._report.batches += 1
        self._report.reads += len(columns)
        self._report.portals.add(batch.portal_id)
        return numbers

    def count(self, block: Block) -> None:
        """Let a batch's counters count as they are stored, without judging it."""
        identities, counters = advances(block)
        if len(counters):
            numbers = self._tags.index.find_many(np.ascontiguousarray(identities))
            here = numbers != UNKNOWN_NUMBER
            self._tags.index.advance_counters(numbers[here], np.ascontiguousarray(counters[here]))

    def _challenge(self, batch: Batch) -> bytes | None:
        """The challenge that was answered, if it was one by then."""
        block = batch.block
        state, challenge = ChallengeState.CHALLENGE_STATE_NOT_NEEDED, None
        if block.columns.challenge_id:
            state, challenge = self._challenges[block.basis.terms].judge(
                batch.portal_id, block.columns.challenge_id, block.received_ns
            )
        if state != block.challenge_state:
            raise LedgerCorrupt(
                str(batch),
                f"its challenge is stored as {_name(ChallengeState, block.challenge_state)} and is "
                f"{_name(ChallengeState, state)}",
            )
        return challenge

    def _verify(
        self, block: Block, columns: Columns, rows: np.ndarray, challenge: bytes | None
    ) -> tuple[U8, U32]:
        """What the kernel says of these rows."""
        all_of_them = bool(rows.all())

        def of(column: U8) -> U8:
            return column if all_of_them else np.ascontiguousarray(column[rows])

        result = verify_batch(
            self._tags.index, self._tags.arena, columns.scheme, of(columns.identity),
            of(columns.evidence), of(columns.antenna), block.known_antennas, of(columns.channel),
            block.channel_count, challenge,
        )  # fmt: skip
        return result.verdicts, result.numbers

    def _judge_partly(
        self, block: Block, loaded: set[Master], challenge: bytes | None
    ) -> tuple[U8, U32]:
        """Where not every master was loaded then, or is now.

        Tags under one that was not loaded then were unknown; those under one that is not now are taken
        as they are stored.
        """
        columns = block.columns
        numbers = self._tags.index.find_many(columns.identity)
        known = numbers != UNKNOWN_NUMBER
        was_loaded = np.array([one in loaded for one in self._tags.masters], bool)
        is_here = np.array([one in self._tags.loaded() for one in self._tags.masters], bool)
        master = self._tags.master_of(np.where(known, numbers, 0))
        unknown = known & ~was_loaded[master]
        gone = known & was_loaded[master] & ~is_here[master]
        rest = ~(unknown | gone)
        derived = np.where(gone, block.verdicts, np.uint8(Verdict.VERDICT_UNKNOWN_TAG))
        outside = (block.known_antennas[columns.antenna] == 0) | (
            columns.channel >= block.channel_count
        )
        derived[~rest & outside] = Verdict.VERDICT_MALFORMED
        if rest.any():
            derived[rest], numbers[rest] = self._verify(block, columns, rest, challenge)
        for place in np.unique(master[gone]).tolist():
            reads = int((gone & ~outside & (master == place)).sum())
            self._report.reads_without_master[self._tags.masters[place]] += reads
        if columns.scheme in COUNTED:
            # Of the others they are counted already.
            self.count(block)
        numbers[np.isin(derived, _WITHOUT_NUMBER)] = UNKNOWN_NUMBER
        return derived, numbers

    def _compare(self, batch: Batch, derived: U8, counters_known: bool) -> None:
        stored = batch.block.verdicts
        differing = derived != stored
        if not counters_known:
            open_ones = np.isin(derived, _COUNTER_DECIDES) & np.isin(stored, _COUNTER_DECIDES)
            differing &= ~open_ones
            self._report.reads_before_counters += int(open_ones.sum())
        rows = np.flatnonzero(differing)
        if len(rows):
            row = int(rows[0])
            raise LedgerCorrupt(
                f"{batch}, row {row}",
                f"is stored as {_name(Verdict, stored[row])}, and its reads make it "
                f"{_name(Verdict, derived[row])}",
            )


def _name(enum: object, number: int) -> str:
    """Without the enum's name; of what is no number of it, the number."""
    values: dict[int, str] = {value: name for name, value in enum.items()}  # type: ignore[attr-defined]
    name = values.get(int(number), str(number))
    return name.removeprefix("VERDICT_").removeprefix("CHALLENGE_STATE_")
