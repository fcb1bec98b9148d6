"""Judges stored reads again, and decides again what followed from them.

Everything that a verdict rests on is stored with the batch, journalled, or derived: so the same kernels
must give the same verdicts, read by read, and the same rules the same passages and alarms. Nothing is
written. The journal itself is taken as it is: `jinkud fsck` is for that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from core.errors import LedgerCorrupt, SettingsError
from core.keys import RealmKeys
from core.ledger.ledger import Ledger
from core.ledger.tables import PORTALS, IndexKind, State
from core.portal.challenges import ChallengeBook
from core.readlog.layout import KEPT
from core.readlog.replay.batches import Batch, Source, in_order
from core.readlog.replay.decisions import Decisions
from core.readlog.replay.report import Report
from core.readlog.replay.tags import TagsThen
from core.readlog.replay.verdicts import Judge
from core.readlog.stored import StoredReads
from core.readlog.verify import verify_kept

__all__ = ["Report", "Wanted", "replay_reads"]

Progress = Callable[[str, int, int], None]
_TELL_EVERY = 256


@dataclass(frozen=True)
class Wanted:
    """Which reads: of these portals (none: of all), received from then on."""

    portals: Collection[str] = ()
    from_ns: int = 0


def replay_reads(
    ledger: Ledger,
    read_log: StoredReads,
    keys: RealmKeys,
    masters: Sequence[tuple[int, int, bytearray]],
    principal: str,
    wanted: Wanted,
    progress: Progress = lambda _stage, _done, _total: None,
) -> Report:
    """Judge every stored read again; of others than those wanted, take counters as they are stored.

    Of a ledger and read log that nobody writes. `masters` are moved into the locked arena and wiped;
    `principal` is whom the service gives its own commands as. LedgerCorrupt names the first difference:
    portal, epoch, batch and row, what is stored and what was derived. SettingsError names a portal that
    is not registered.
    """
    report = Report()
    tags = TagsThen(ledger, masters)
    try:
        with ledger.read() as state:
            verify_kept(state, read_log)
            source = Source(state, read_log)
            names = _portals(state, wanted)
            decisions = Decisions(ledger, state, read_log, principal, tags, report)
            replayer = _Replayer(read_log, tags, keys, report, decisions, names, wanted.from_ns)
            total = source.total
            progress("replay", 0, total)
            for done, batch in enumerate(in_order(source, report), 1):
                replayer.take(batch)
                if done % _TELL_EVERY == 0:
                    progress("replay", done, total)
            replayer.end()
            progress("replay", total, total)
            decisions.finish(progress)
    finally:
        tags.close()
    return report


def _portals(state: State, wanted: Wanted) -> dict[bytes, str]:
    """The portals whose reads are judged, by id."""
    if not wanted.portals:
        return {portal_id: row.name for portal_id, row in state.scan(PORTALS)}
    names = {}
    for name in wanted.portals:
        portal_id = state.find(IndexKind.PORTAL_NAME, name.encode())
        if portal_id is None:
            raise SettingsError(f"--portal: no portal is registered as {name!r}")
        names[portal_id] = name
    return names


class _Replayer:
    """Takes all batches in the order in which they were judged."""

    def __init__(
        self,
        read_log: StoredReads,
        tags: TagsThen,
        keys: RealmKeys,
        report: Report,
        decisions: Decisions,
        names: dict[bytes, str],
        from_ns: int,
    ) -> None:
        self._log = read_log
        self._tags = tags
        self._report = report
        self._decisions = decisions
        self._names = names
        self._from_ns = from_ns
        self._kept_turn = self._next_turn = read_log.kept_turn or 0
        self._counters_loaded = False
        challenges = ChallengeBook(keys.challenge_key, 0, 0)
        self._judge = Judge(read_log, tags, challenges, report)

    def take(self, batch: Batch) -> None:
        """Judge it again, if it is wanted; let its counters count."""
        basis = batch.block.basis
        self._tags.advance(basis.journal_size, str(batch))
        turn = batch.block.turn
        counters_known = turn is None or turn >= self._kept_turn
        if turn is not None and counters_known:
            self._take_turn(turn, batch)
        if batch.portal_id in self._names and batch.block.received_ns >= self._from_ns:
            numbers = self._judge.judge(batch, counters_known=counters_known)
            self._decisions.follow(batch, numbers)
        elif turn is not None and counters_known:
            self._judge.count(batch.block)

    def _take_turn(self, turn: int, batch: Batch) -> None:
        if turn != self._next_turn:
            raise LedgerCorrupt(
                str(batch), f"was judged in turn {turn}, and no batch in turn {self._next_turn}"
            )
        self._next_turn += 1
        if not self._counters_loaded:
            self._load_counters()

    def _load_counters(self) -> None:
        """Those that the first batch found which is kept."""
        self._counters_loaded = True
        for identities, counters in self._log.counter_arrays(KEPT):
            self._tags.load_counters(identities, counters)

    def end(self) -> None:
        """No batch with counters is missing at the end either."""
        if self._next_turn != max(self._log.turns, self._kept_turn):
            raise LedgerCorrupt("read log", f"has no batch of turn {self._next_turn}")
