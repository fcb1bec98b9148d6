"""Everything that runs in one `jinkud`, opened in order and closed in order.

keys → ledger → tag directory → sequencer → read log → portals → door. Whatever stops the ledger
or the read log stops the service: nothing is answered any more, and the process ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import structlog

from core.directory import TagDirectory
from core.errors import LedgerCorrupt, LedgerStopped, SettingsError
from core.fsck import fsck
from core.journal_clock import Jump
from core.keys import RealmKeys, load_tag_masters
from core.ledger.ledger import Ledger
from core.ledger.tables import SEGMENTS, SERVICES
from core.portal.challenges import ChallengeBook
from core.portal.desk import PortalDesk
from core.portal.floor import Floor
from core.portal.parts import Parts
from core.portal.retention import Pruner
from core.portal.service_time import ServiceTime
from core.procedures.table import QUERIES, handlers
from core.readlog.log import ReadLog
from core.readlog.verify import Progress, SegmentsReport, check_not_newer, verify_segments
from core.realm import principal_of
from core.refusals import Quota
from core.sequencer import Committed, Sequencer
from core.settings import Settings
from core.snapshot import Keeper, SnapshotFile
from jinku.type.v1.tag_pb2 import Verdict

from . import errors
from .calls import Calls, StreamDesk, note_incident
from .certificates import check_server_files
from .founding import ledger_path, read_log_path, tag_index_path
from .identity import Authority
from .limits import CallKind, Gate
from .logs import configure_logs
from .loop import LoopThread
from .metrics import Metrics, MetricsServer
from .persons import open_eraser, open_office
from .portal import PortalStreams
from .public import PublicDoor
from .server import Door
from .table import build_handlers, build_rpcs, public_services
from .witnesses import Witnesses

log = structlog.get_logger()

VERDICT_NAMES = [name.removeprefix("VERDICT_") for name in Verdict.keys()]  # noqa: SIM118
STREAM_RPC = "jinku.v1.PortalService/Stream"
QUERY_THREADS = 4
# What health calls the witnesses: whether they keep up.
WITNESSES_HEALTH = "witnesses"
# Between two lines about work that takes long.
PROGRESS_SECONDS = 1.0
# For what was decided before the drain's deadline to reach its callers.
FLUSH_SECONDS = 0.2


class _Teller:
    """A line now and then about work that takes long."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told = time.monotonic()

    def __call__(self, done: int, total: int, **more: str) -> None:
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._told = time.monotonic()
            log.info(self._what, count=done, pending=total - done, **more)


def _tell_of_jump(jump: Jump, where: str) -> None:
    log.warning("the clock jumped", where=where, seconds=round(jump.seconds, 3))


def open_ledger(
    settings: Settings,
    keys: RealmKeys | None = None,
    *,
    probed: bool = False,
    as_found: bool = False,
) -> Ledger:
    """The founded ledger of these settings; `probed` and `as_found` as the ledger takes them.

    Raises:
        SettingsError: it is not founded, or the settings name other services than its founding.
        LedgerInUse, LedgerCorrupt, KeyFileError: as they say.
    """
    path = ledger_path(settings)
    if not path.is_dir():
        raise SettingsError(f"storage.directory: no ledger in {path}; `jinkud init` founds one")
    ledger = Ledger(
        path,
        keys or RealmKeys.load(settings.keys.directory),
        settings.realm.number,
        settings.realm.trust_domain,
        map_gib=settings.storage.ledger_map_gib,
        probed=probed,
        as_found=as_found,
    )
    try:
        check_founding(ledger, settings)
    except BaseException:
        ledger.close()
        raise
    return ledger


def check_founding(ledger: Ledger, settings: Settings) -> None:
    """The settings and the founding entry say the same; a silent difference would mislead."""
    if not ledger.size:
        raise SettingsError(f"storage.directory: {ledger.path} is not founded; `jinkud init`")
    with ledger.read() as state:
        founded = {row.name: sorted(row.roles) for _, row in state.scan(SERVICES)}
    configured = {service.name: sorted(service.roles) for service in settings.realm.services}
    if configured != founded:
        names = sorted(
            name
            for name in founded.keys() | configured.keys()
            if founded.get(name) != configured.get(name)
        )
        raise SettingsError(
            f"realm.services: differs from the founding entry about {', '.join(names)}; "
            "services are fixed at the founding"
        )


def verify_read_log(
    settings: Settings, keys: RealmKeys, ledger: Ledger, progress: Progress
) -> SegmentsReport:
    """Prove the read log against the journal. LedgerCorrupt names the first difference."""
    path = read_log_path(settings)
    if not path.is_dir():
        with ledger.read() as state:
            if next(state.scan(SEGMENTS), None) is not None:
                raise LedgerCorrupt("read log", "is not there, and the journal has segments of it")
        return SegmentsReport(0, 0, 0, 0)
    read_log = ReadLog(path, keys.readlog_key, map_gib=settings.storage.readlog_map_gib)
    try:
        check_not_newer(read_log, ledger.size)
        with ledger.read() as state:
            return verify_segments(state, read_log, progress)
    finally:
        read_log.close()


class Service:
    """One running service. `open` returns when it answers; `close` when all is on disk."""

    def __init__(self, settings: Settings, on_failure: Callable[[], None]) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.failure: BaseException | None = None
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._closed = False
        # Undone from the last to the first.
        self._opened = ExitStack()
        server = settings.server
        self.gate = Gate({CallKind.CALL: server.calls_max, CallKind.STREAM: server.streams_max})

    @classmethod
    def open(cls, settings: Settings, on_failure: Callable[[], None] = lambda: None) -> Service:
        """Opens everything; calls are answered on return.

        `on_failure` is called once, from another thread, if the service has stopped itself; the
        cause is then in `failure`, and the process must end without `close`.

        Raises:
            JinkuError: nothing is left open.
        """
        service = cls(settings, on_failure)
        try:
            service._open()
        except BaseException:
            service._opened.close()
            raise
        return service

    def _open(self) -> None:
        settings, opened = self.settings, self._opened
        if not structlog.is_configured():
            # structlog's own default prints tracebacks with the values in them.
            configure_logs(settings.log.level, settings.log.format)
        expires_at = check_server_files(settings)
        keys = RealmKeys.load(settings.keys.directory)
        self.ledger = open_ledger(settings, keys)
        opened.callback(self.ledger.close)
        self.ledger.watch(self.fail)
        self._open_witnesses()
        self._prove_ledger()
        self._open_directory(keys)
        self.office = open_office(settings, self.ledger)
        opened.callback(self.office.keys.close)
        self.handlers = handlers(self.directory.loaded_keys, lambda: self.office)
        self.sequencer = Sequencer(
            self.ledger,
            self.handlers,
            queue_max=settings.sequencer.queue_max,
            batch_max=settings.sequencer.batch_max,
            quota=Quota.of(settings.sequencer),
            on_committed=self._on_committed,
            on_stop=self.fail,
            on_jump=partial(_tell_of_jump, where="journal"),
        )
        self.eraser = open_eraser(self.office, self.sequencer, self.principal, note_incident)
        self.sequencer.start()
        opened.callback(self.sequencer.stop)
        opened.callback(self.eraser.stop)
        self.eraser.start()
        self.read_log = ReadLog(
            read_log_path(settings),
            keys.readlog_key,
            map_gib=settings.storage.readlog_map_gib,
            on_stop=self.fail,
        )
        opened.callback(self.read_log.close)
        self.read_log.start()
        self._open_door(keys)
        self.public_listen = self._open_public()
        self.witnesses.start()
        log.info(
            "serving",
            listen=self.door.listen,
            metrics_listen=self.metrics_listen,
            public_listen=self.public_listen,
            profile=settings.realm.profile,
            realm=settings.realm.number,
            ledger_size=self.ledger.size,
            count=self.replayed_batches,
            tags=len(self.directory.index),
            expires_at=expires_at.isoformat(),
        )

    def _prove_ledger(self) -> None:
        """Where it is not known that rows are the current versions of themselves, all of them are
        derived from the journal again; and what keeps that knowledge for the next start.
        """
        ledger, begun = self.ledger, time.monotonic()
        if ledger.doubt:
            log.warning("verifying the whole ledger first", reason=ledger.doubt)
            tell = _Teller("verifying the ledger")
            fsck(ledger, lambda stage, done, total: tell(done, total, stage=stage))
            try:
                ledger.believe()
            except OSError as error:
                log.warning("marks of rows not saved", exc_info=error)
            log.info("ledger verified", seconds=round(time.monotonic() - begun, 3))
        keeper = Keeper(
            ledger.marks_due,
            ledger.save_marks,
            lambda seconds: log.info("marks of rows saved", seconds=round(seconds, 3)),
            lambda error: log.warning("marks of rows not saved", exc_info=error),
            "marks",
        )
        self._opened.callback(keeper.stop)
        keeper.start()

    def _open_directory(self, keys: RealmKeys) -> None:
        """The tag index, and what keeps a snapshot of it for the next start."""
        settings, begun = self.settings, time.monotonic()
        self.directory = TagDirectory(
            self.ledger,
            load_tag_masters(settings.keys.directory),
            SnapshotFile(tag_index_path(settings), keys.tag_index_key, settings.realm.number),
            _Teller("filling the tag index"),
        )
        self._opened.callback(self.directory.arena.close)
        filled = self.directory.filled
        log.info(
            "tag index filled",
            where="tables" if filled.why_rebuilt else "snapshot",
            reason=filled.why_rebuilt,
            tags=len(self.directory.index),
            count=filled.entries,
            seconds=round(time.monotonic() - begun, 3),
        )
        keeper = Keeper(
            self.directory.is_due,
            self.directory.save,
            lambda seconds: log.info("tag index saved", seconds=round(seconds, 3)),
            lambda error: log.warning("tag index not saved", exc_info=error),
        )
        self._opened.callback(keeper.stop)
        keeper.start()

    def _open_witnesses(self) -> None:
        """Before anything is decided or answered: nobody has seen more of this ledger than it holds."""
        self.witnesses = Witnesses(
            self.settings.witnesses,
            self.ledger,
            self.metrics,
            self.fail,
            lambda late: self.door.report(WITNESSES_HEALTH, not late),
        )
        self._opened.callback(self.witnesses.stop)
        self.witnesses.check()

    def _open_public(self) -> str:
        """The door for checkpoints and hash tiles; where it is, if it is wanted."""
        if not self.settings.public.listen:
            return ""
        public = PublicDoor(self.settings.public, self.ledger, partial(note_incident, rpc="public"))
        self._opened.callback(public.close)
        return public.listen

    def _open_door(self, keys: RealmKeys) -> None:
        server, opened = self.settings.server, self._opened
        self.loop = LoopThread()
        opened.callback(self.loop.close)
        readers = ThreadPoolExecutor(QUERY_THREADS, thread_name_prefix="query")
        opened.callback(readers.shutdown, wait=False, cancel_futures=True)
        self.calls = calls = Calls(
            ledger=self.ledger,
            sequencer=self.sequencer,
            handlers=self.handlers,
            queries=QUERIES,
            authority=Authority(self.ledger),
            streams=self._open_streams(keys),
            gate=self.gate,
            metrics=self.metrics,
            readers=readers,
        )
        services = public_services()
        rpcs = build_rpcs(services, self.handlers, QUERIES)
        self.metrics_listen = self._open_metrics()
        handlers = build_handlers(rpcs, calls.unary, calls.stream)
        self.door = Door(server, handlers, services, self.loop)
        opened.callback(self.door.stop, 0)
        self.door.start()
        if self.witnesses.asked:
            self.door.report(WITNESSES_HEALTH, True)
        self.metrics.serving(True)

    def _open_streams(self, keys: RealmKeys) -> dict[str, StreamDesk]:
        """The portals' desk, restored from the read log to where it stood."""
        portal = self.settings.portal
        challenges = ChallengeBook.of(
            keys.challenge_key, portal.live_challenge_seconds, portal.spool_challenge_hours
        )
        floor = Floor(self.loop.loop)
        self._opened.callback(floor.close)
        parts = Parts(
            ledger=self.ledger,
            directory=self.directory,
            sequencer=self.sequencer,
            read_log=self.read_log,
            challenges=challenges,
            settings=portal,
            principal=self.principal,
            floor=floor,
            retention=self.settings.readlog,
            on_failure=self.fail,
            on_incident=self._note_incident,
            on_verdicts=self._count_verdicts,
            on_untracked=self.metrics.portal_untracked,
            service_time=ServiceTime(on_jump=partial(_tell_of_jump, where="portals")),
        )
        self.metrics.watch_portal_clock(lambda: parts.service_time.ahead_ns() / 1e9)
        self.desk = PortalDesk(parts)
        self._opened.callback(lambda: self.loop.run(self.desk.stop()))
        self.replayed_batches = self.desk.start()
        pruner = Pruner(parts)
        self._opened.callback(pruner.stop)
        pruner.start()
        self.metrics.watch_stages(
            parts.profiles.batches, lambda: parts.profiles.seconds(self.read_log.commit_ns)
        )
        streams = PortalStreams(
            self.desk,
            self.settings.server.write_deadline_seconds,
            is_open=lambda: self.gate.is_open,
            on_cut=self.metrics.call_cut,
        )
        return {STREAM_RPC: streams}

    def _note_incident(self, error: BaseException) -> None:
        note_incident(error, STREAM_RPC)

    def _count_verdicts(self, counts: Sequence[int]) -> None:
        self.metrics.portal_reads(dict(zip(VERDICT_NAMES, counts, strict=False)))

    def _open_metrics(self) -> str:
        metrics = self.metrics
        metrics.watch_queue(lambda: self.sequencer.waiting)
        metrics.watch_ledger(lambda: self.ledger.size, self.ledger.usage)
        metrics.watch_clock(lambda: self.sequencer.ahead_ns / 1e9)
        for kind in CallKind:
            metrics.watch_in_flight(kind.value, partial(self.gate.count, kind))
        if not self.settings.server.metrics_listen:
            return ""
        try:
            endpoint = MetricsServer(metrics, self.settings.server.metrics_listen)
        except OSError as error:
            raise SettingsError(
                f"server.metrics_listen: cannot listen there ({error.strerror})"
            ) from None
        self._opened.callback(endpoint.close)
        return endpoint.listen

    @property
    def target(self) -> str:
        """host:port that answers."""
        return self.door.listen

    @property
    def principal(self) -> str:
        """Under which the service gives itself commands."""
        realm = self.settings.realm
        return principal_of(realm.trust_domain, realm.number, "service", "jinkud")

    def _on_committed(self, committed: Sequence[Committed]) -> None:
        """In the writer's thread, before anybody is answered."""
        self.directory.on_committed(committed)
        self.eraser.on_committed(committed)
        if committed:
            self.metrics.committed(len(committed))

    # -- ending -----------------------------------------------------------------------------------

    def fail(self, failure: BaseException) -> None:
        """The outcome of a commit is unknown: answer nothing more. Safe from any thread."""
        with self._lock:
            if self.failure is not None:
                return
            self.failure = failure
        self.gate.close(errors.stopped)
        self.metrics.serving(False)
        door = getattr(self, "door", None)
        if door is not None:
            door.stop_serving()
        desk = getattr(self, "desk", None)
        if desk is not None:
            desk.fail(LedgerStopped("the outcome of a commit is unknown"))
        self._on_failure()

    def drain(self) -> bool:
        """Takes no new calls and waits for those under way; whether all ended in time.

        Health answers NOT_SERVING meanwhile, so that whoever balances load turns away first.
        """
        deadline = time.monotonic() + self.settings.server.drain_seconds
        self.gate.close(errors.draining)
        self.metrics.serving(False)
        self.door.stop_serving()
        seconds = max(0.0, deadline - time.monotonic())
        return self.gate.wait_empty((CallKind.CALL, CallKind.STREAM), seconds)

    def close(self) -> None:
        """Drains, then closes the door, the writers and the files, in this order. Once is enough.

        Everything that was answered is on disk when this returns.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        finished = self.drain()
        if not finished:
            log.warning(
                "cutting calls",
                calls=self.gate.count(CallKind.CALL),
                streams=self.gate.count(CallKind.STREAM),
            )
        self.door.stop(FLUSH_SECONDS)
        self._opened.close()

    def abandon(self, grace_seconds: float) -> None:
        """After a failure: lets waiting callers hear UNAVAILABLE, closes nothing else."""
        self.gate.wait_empty((CallKind.CALL,), grace_seconds)
        self.door.stop(FLUSH_SECONDS)
