"""`jinkud` with one thing wrong in it, for campaigns that must notice: `wrong_jinkud.py WHAT serve …`.

Everything is bent from outside: the product has no switch for any of it.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final

import lmdb
from google.protobuf.message import Message

from core import writer
from core.errors import LedgerStopped
from core.files import OwnerFile
from core.ledger import layout
from core.ledger.currency import Currency
from core.ledger.ledger import Ledger
from core.ledger.merkle import inclusion_proof
from core.readlog.log import ReadLog
from core.sequencer import Sequencer
from core.store.v1.commands_pb2 import RaisePortalAlarm, RecordPassage
from core.writer import Writer
from jinku.event.v1.event_pb2 import Events
from jinku.v1.common_pb2 import Receipt

# Between an answer and the commit that it should have waited for.
HASTE_SECONDS: Final = 0.1


def answer_before_commit() -> None:
    """Callers get their answer, with a receipt that proves it, and then it is committed."""
    early: dict[int, Receipt] = {}
    deciding: list[Any] = [None, None]
    take, decide_all, commit, receipt = (
        Sequencer._take, Writer._decide_all, Ledger._commit, Ledger.receipt,
    )  # fmt: skip

    def wrong_take(self: Sequencer, *gathering: Any) -> Any:
        batch, closed = take(self, *gathering)
        deciding[:] = batch, None
        return batch, closed

    def wrong_decide_all(self: Writer, commands: Any, batch: Any) -> Any:
        results = decide_all(self, commands, batch)
        same = [one for one, _ in deciding[0] or []] == list(commands)
        deciding[1] = results if same else None
        return results

    def wrong_commit(self: Ledger, txn: lmdb.Transaction) -> None:
        tip = self._checkpoint(txn, None)
        for index in range(self.size, tip.tree_size):
            early[index] = make_receipt(self, txn, index, tip)
        if deciding[1] is not None:
            waiting, results = deciding
            deciding[1] = None
            for at, ((command, future), result) in enumerate(zip(waiting, results, strict=True)):
                future.set_result(result)
                waiting[at] = (command, Future())
            time.sleep(HASTE_SECONDS)
        commit(self, txn)

    def wrong_receipt(self: Ledger, index: int) -> Receipt:
        return early.get(index) or receipt(self, index)

    def make_receipt(self: Ledger, txn: lmdb.Transaction, index: int, tip: Any) -> Receipt:
        sealed = txn.get(layout.index_key(self.size), db=self._opened().handles[layout.JOURNAL])
        entry = self._journal._open(self.size, bytes(sealed or b""), txn)[index - self.size]
        return Receipt(
            header=entry.header,
            events_digest=entry.leaf[len(entry.header) :],
            events=entry.events,
            inclusion_proof=inclusion_proof(index, tip.tree_size, self._fetch(txn)),
            checkpoint=tip.note,
        )

    Sequencer._take = wrong_take  # type: ignore[method-assign]
    Writer._decide_all = wrong_decide_all  # type: ignore[method-assign]
    Ledger._commit = wrong_commit  # type: ignore[method-assign]
    Ledger.receipt = wrong_receipt  # type: ignore[assignment, method-assign]


def acknowledge_before_commit() -> None:
    """Portals are told that their batches are durable, and then they are."""
    commit = ReadLog._commit

    def wrong(self: ReadLog, writes: Any) -> None:
        for at, write in enumerate(writes):
            write.settled(None)
            writes[at] = replace(write, settled=lambda _: None)
        time.sleep(HASTE_SECONDS)
        commit(self, writes)

    ReadLog._commit = wrong  # type: ignore[method-assign]


def skip_idempotency() -> None:
    """Nobody looks whether a command was decided already. Answers are late, so that some are not heard."""
    commit = Ledger._commit

    def late(self: Ledger, txn: lmdb.Transaction) -> None:
        commit(self, txn)
        time.sleep(HASTE_SECONDS)

    writer._recall = lambda *_: None
    Ledger._commit = late  # type: ignore[method-assign]


def forget_counters() -> None:
    """Counters advance in memory alone."""
    ReadLog._raise_counter = lambda *_: 0  # type: ignore[method-assign]


def drop(kind: type[Message], every: int) -> Callable[[], None]:
    """Of the commands that reads cause, one in so many of a kind is called decided, and nobody did."""

    def bend() -> None:
        submit, number = Sequencer.submit, itertools.count(1)

        def wrong(self: Sequencer, command: Any) -> Any:
            if not isinstance(command.request, kind) or next(number) % every:
                return submit(self, command)
            dropped: Future[Any] = Future()
            # As of reads that had been decided before.
            dropped.set_result(SimpleNamespace(events=Events(), entry_index=0))
            return dropped

        Sequencer.submit = wrong  # type: ignore[method-assign]

    return bend


def believe_rows() -> None:
    """A row that opens is taken for the current version of itself."""
    Currency.opener = property(lambda self: self._sealer)  # type: ignore[assignment]


def trust_what_is_suspect() -> None:
    """Whatever a last owner noted, its ledger is taken as it is."""
    OwnerFile.suspect = property(lambda self: False)  # type: ignore[assignment]


def open_with(**options: bool) -> Callable[[], None]:
    """LMDB opened otherwise than it must be."""

    def bend() -> None:
        right: Any = lmdb.open
        module: Any = lmdb
        module.open = lambda *given, **named: right(*given, **{**named, **options})

    return bend


def go_on_after_errors() -> None:
    """A commit that fails fails alone, and the writer takes the next one; the read log tries again."""
    read_log_commit = ReadLog._commit

    def commit_again(self: ReadLog, writes: Any) -> None:
        try:
            read_log_commit(self, writes)
        except lmdb.Error:
            read_log_commit(self, writes)

    def commit(self: Ledger, txn: lmdb.Transaction) -> None:
        self._stopped = False
        txn.commit()

    def fail(self: Sequencer, batch: Any, error: BaseException) -> None:
        for _, future in batch:
            future.set_exception(LedgerStopped(str(error)))

    def run(self: Sequencer) -> None:
        while True:
            batch, closed = self._take(0, 0.0)
            self._commit(batch)
            if closed and not batch:
                return

    ReadLog._commit = commit_again  # type: ignore[method-assign]
    Ledger._commit = commit  # type: ignore[method-assign]
    Sequencer._fail = fail  # type: ignore[method-assign]
    Sequencer._run = run  # type: ignore[method-assign]


WRONG: Final[dict[str, Callable[[], None]]] = {
    "answer_before_commit": answer_before_commit,
    "acknowledge_before_commit": acknowledge_before_commit,
    "skip_idempotency": skip_idempotency,
    "forget_counters": forget_counters,
    "drop_passages": drop(RecordPassage, every=5),
    "drop_alarms": drop(RaisePortalAlarm, every=5),
    "believe_rows": believe_rows,
    "trust_what_is_suspect": trust_what_is_suspect,
    "no_metasync": open_with(metasync=False),
    "no_sync": open_with(sync=False),
    "go_on_after_errors": go_on_after_errors,
}


if __name__ == "__main__":
    WRONG[sys.argv.pop(1)]()
    from grpc_api.main import main

    main()
