"""Asking witnesses to cosign our checkpoints (c2sp.org/tlog-witness), and what they know of us.

In a thread of its own: the writer never waits for it. A witness that has seen a later checkpoint, or
another tree, knows that this ledger was put back to an older state or that a copy of it runs: at the
start the service then refuses to serve; later it stops, if our own signature proves it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import structlog

from core.errors import LedgerCorrupt, SettingsError, WitnessesUnreachable
from core.ledger.ledger import Ledger
from core.ledger.note import Checkpoint
from core.settings import WitnessesSettings, WitnessSettings
from jinku.errors import JinkuError as ClientError
from jinku.notes import (
    COSIGNATURE,
    Note,
    NoteInvalid,
    Signature,
    VerifierKey,
    open_checkpoint,
    require_quorum,
)
from jinku.plain_http import NoAnswer
from jinku.witnessing import (
    AddCheckpoint,
    WitnessConflict,
    WitnessInconsistent,
    WitnessRefused,
    add_checkpoint,
    fetch_latest,
)

from .metrics import Metrics

log = structlog.get_logger()

# A witness tells which size it wants a proof from; after that it changes only if somebody else asks.
ATTEMPTS = 3
PAUSE_SECONDS_MAX = 60.0
# What a failure is counted as.
REASONS: dict[type[ClientError], str] = {
    NoAnswer: "unreachable",
    WitnessRefused: "refused",
    NoteInvalid: "wrong_answer",
}


class Contradicted(ClientError):
    """A witness has seen what this ledger does not hold. `proven`: under our own signature."""

    def __init__(self, text: str, *, proven: bool) -> None:
        super().__init__(text)
        self.proven = proven


@dataclass
class Asked:
    """One witness and how it stands. Used by one thread at a time."""

    settings: WitnessSettings
    key: VerifierKey
    # What it cosigned last, as far as we know; none: it will tell.
    tree_size: int | None = None
    cosignature: Signature | None = None
    failures: int = 0
    retry_at: float = 0.0

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def monitoring_url(self) -> str:
        return self.settings.monitoring_url or self.settings.url


@dataclass
class Lag:
    """For how long entries have not been witnessed."""

    tree_size: int = 0
    since: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    def update(self, newest: int, witnessed: int) -> float:
        now = time.monotonic()
        if witnessed >= self.tree_size:
            self.tree_size, self.since = newest, now
        self.seconds = 0.0 if witnessed >= newest else now - self.since
        return self.seconds


class Witnesses:
    """Asks all of them; keeps what a quorum cosigned in `ledger.witnessed`."""

    def __init__(
        self,
        settings: WitnessesSettings,
        ledger: Ledger,
        metrics: Metrics,
        on_contradiction: Callable[[BaseException], None],
        on_late: Callable[[bool], None],
    ) -> None:
        """`on_contradiction` and `on_late` are called from another thread, after `start`.

        Raises:
            SettingsError: a key is no witness's verifier key, or stands twice.
        """
        self._settings = settings
        self._ledger = ledger
        self._metrics = metrics
        self._on_contradiction = on_contradiction
        self._on_late = on_late
        self._own_key = VerifierKey.parse(ledger.verifier_key)
        self.asked = [Asked(one, read_key(index, one)) for index, one in enumerate(settings.asked)]
        check_distinct([one.key for one in self.asked])
        self._target: Checkpoint | None = None
        self._lag = Lag()
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(max(1, len(self.asked)), thread_name_prefix="witness")
        self._thread = threading.Thread(target=self._run, name="witnesses", daemon=True)

    # -- at the start

    def check(self) -> None:
        """What was kept, and every witness, agree with this ledger; before anything is served.

        Raises:
            LedgerCorrupt: the ledger is older than a witnessed checkpoint, or another one.
            WitnessesUnreachable: too few answered, and the settings say `refuse`.
        """
        self._check_kept()
        if not self.asked:
            return
        failed = list(self._round())
        for one, error in failed:
            if isinstance(error, Contradicted):
                raise LedgerCorrupt(f"witness {one.name}", str(error)) from None
        # Every quorum that cosigned something later has a member among so many.
        needed = len(self.asked) - self._settings.quorum + 1
        answered = len(self.asked) - len(failed)
        if answered >= needed:
            return
        if self._settings.when_unreachable == "refuse":
            lines = [
                f"{answered} of {len(self.asked)} witnesses answered, {needed} are needed to know "
                "that none has seen a later checkpoint of this ledger; start again when they can be "
                "reached, or set witnesses.when_unreachable",
                *(f"witness {one.name}: {error}" for one, error in failed),
            ]
            raise WitnessesUnreachable("\n".join(lines))
        log.warning("serving without the word of enough witnesses", count=answered)

    def _check_kept(self) -> None:
        kept = self._ledger.witnessed.load()
        if kept is None:
            return
        if self._contradicts(kept.note):
            raise LedgerCorrupt(
                "the ledger",
                f"does not hold the checkpoint of {kept.tree_size} entries that witnesses cosigned: "
                "it was put back to an older state, or is another one",
            )
        keys = [one.key for one in self.asked]
        try:
            require_quorum(kept.note, keys, max(1, self._settings.quorum))
        except NoteInvalid:
            # Of witnesses that are no longer asked: true, and no longer enough.
            return
        self._ledger.witnessed.serve(kept)

    def _contradicts(self, note: str) -> bool:
        """Whether we signed this checkpoint, and the ledger does not hold it."""
        try:
            seen = open_checkpoint(note, self._own_key)
        except NoteInvalid:
            return False
        if seen.tree_size > self._ledger.size:
            return True
        return seen.root_hash != self._ledger.root(seen.tree_size)

    # -- while it serves

    def start(self) -> None:
        if self.asked:
            self._thread.start()

    def stop(self) -> None:
        """Asks no more. A question under way is not waited for longer than its time."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    def _run(self) -> None:
        late = False
        while not self._ending.wait(self._settings.interval_seconds):
            try:
                for one, error in self._round():
                    self._note_failure(one, error)
            except Exception as error:
                # E.g. a full disk; the writer has its own way to notice.
                log.error("asking witnesses failed", exc_info=error)
            now_late = self._update_lag() > self._settings.late_seconds
            if now_late != late:
                late = now_late
                log.warning("witnesses are late" if late else "witnesses are on time")
                self._on_late(late)

    def _update_lag(self) -> float:
        witnessed = self._ledger.witnessed.newest
        tree_size = witnessed.tree_size if witnessed else 0
        seconds = self._lag.update(self._ledger.size, tree_size)
        self._metrics.witnessed(tree_size, seconds)
        return seconds

    def _note_failure(self, one: Asked, error: ClientError) -> None:
        if isinstance(error, Contradicted):
            log.critical("a witness contradicts", witness=one.name, proven=error.proven)
            if error.proven:
                self._on_contradiction(error)

    # -- one round

    def _round(self) -> Iterator[tuple[Asked, ClientError]]:
        """Show the newest checkpoint to everyone who has not cosigned it; who failed, and how."""
        target = self._ledger.checkpoint()
        if self._target is None or self._target.tree_size != target.tree_size:
            self._target = target
            for one in self.asked:
                one.cosignature = None
        now = time.monotonic()
        waiting = [one for one in self.asked if one.cosignature is None and one.retry_at <= now]
        futures = {self._pool.submit(self._ask, one, target): one for one in waiting}
        for future in as_completed(futures):
            error = self._settle(futures[future], future)
            if error is not None:
                yield futures[future], error
            else:
                self._publish(target)

    def _settle(self, one: Asked, future: Future[Signature]) -> ClientError | None:
        try:
            one.cosignature = future.result()
        except ClientError as error:
            one.failures += 1
            pause = self._settings.interval_seconds * 2 ** min(one.failures, 16)
            one.retry_at = time.monotonic() + min(pause, PAUSE_SECONDS_MAX)
            self._metrics.witness_failed(one.name, find_reason(error))
            if one.failures == 1:
                log.warning(
                    "a witness does not cosign", witness=one.name, reason=find_reason(error)
                )
            return error
        if one.failures:
            log.info("a witness cosigns again", witness=one.name)
        one.failures, one.retry_at = 0, 0.0
        self._metrics.witness_cosigned(one.name, one.tree_size or 0)
        return None

    def _publish(self, target: Checkpoint) -> None:
        """Keep the checkpoint with its cosignatures, if they are enough."""
        cosignatures = [one.cosignature for one in self.asked if one.cosignature is not None]
        if len(cosignatures) < self._settings.quorum or self._ending.is_set():
            return
        note = Note.parse(target.note)
        self._ledger.witnessed.keep(str(Note(note.text, (*note.signatures, *cosignatures))))

    def _ask(self, one: Asked, target: Checkpoint) -> Signature:
        """Its cosignature of this checkpoint, verified."""
        size = target.tree_size
        old = size if one.tree_size is None else one.tree_size
        for _ in range(ATTEMPTS):
            if self._ending.is_set():
                raise NoAnswer("not asked: the service ends")
            request = AddCheckpoint(old, tuple(self._prove(old, size)), target.note)
            try:
                found = add_checkpoint(
                    one.settings.url, one.key, request, self._settings.timeout_seconds
                )
            except WitnessConflict as conflict:
                if conflict.tree_size > size:
                    raise self._contradiction(one, f"has seen {conflict.tree_size}") from None
                old = conflict.tree_size
            except WitnessInconsistent:
                raise self._contradiction(one, f"has seen another tree of {old}") from None
            else:
                one.tree_size = size
                return found[-1]
        raise WitnessRefused("it tells another last size each time: does another ask for us?")

    def _prove(self, old: int, size: int) -> Sequence[bytes]:
        if old in {0, size}:
            return ()
        return self._ledger.consistency(old, size)[0]

    def _contradiction(self, one: Asked, what: str) -> Contradicted:
        """What the witness says, and whether it can show it."""
        try:
            note = fetch_latest(
                one.monitoring_url, self._own_key.name, self._settings.timeout_seconds
            )
            proven = self._contradicts(note)
        except ClientError:
            proven = False
        shown = "shown by our own signature" if proven else "it shows no signature of ours for it"
        return Contradicted(
            f"{what} entries of this log, and this ledger has {self._ledger.size}: it was put back "
            f"to an older state, or a copy of it is running elsewhere ({shown})",
            proven=proven,
        )


def read_key(index: int, witness: WitnessSettings) -> VerifierKey:
    try:
        return VerifierKey.parse(witness.key, COSIGNATURE)
    except NoteInvalid as error:
        raise SettingsError(f"witnesses.asked[{index}].key: {error}") from None


def check_distinct(keys: Sequence[VerifierKey]) -> None:
    """One witness under two names would count twice."""
    if len({key.public_key for key in keys}) != len(keys) or len({k.name for k in keys}) != len(
        keys
    ):
        raise SettingsError("witnesses.asked: a witness's key or name stands there twice")


def find_reason(error: ClientError) -> str:
    """As what the metrics count it; contradictions and whatever is new have names too."""
    if isinstance(error, Contradicted):
        return "contradiction"
    return next((name for kind, name in REASONS.items() if isinstance(error, kind)), "other")
