"""A realm under load through many lives of its service, and what must hold after each of them."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from core.errors import LedgerCorrupt
from core.files import OWNER_FILE, OwnerFile
from core.keys import RealmKeys
from core.ledger.merkle import EMPTY_ROOT
from core.ledger.port import Head
from core.ledger.tables import IndexKind
from core.readlog.log import ReadLog
from core.settings import Settings
from grpc_api.config import load_settings
from grpc_api.founding import ledger_path, read_log_path
from grpc_api.service import open_ledger
from jinku import receipts
from jinku.calls import RetryPolicy
from jinku.channel import Connection
from jinku.errors import CallFailed, ServiceUnavailable
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events
from jinku.ledger import LedgerClient
from jinku.v1.ledger_pb2 import GetCheckpointRequest, GetEntryRequest
from process import JINKUD, clean_environment
from registrar import container, institution, issue, portal, vault
from running import REGISTRY, call_bytes, found, serving
from traffic import Clerk, Found, Gate, Gone, run_all

START_SECONDS_MAX: Final = 60.0
TAGS_PER_GATE: Final = 3
# A tag's passage is decided by then, also where a start came between its reads.
VISIT_NS_MAX: Final = 120 * 1_000_000_000
NOTHING: Final = Head(0, EMPTY_ROOT)
ENVIRONMENT: Final = {
    "JINKU_SEQUENCER__REFUSALS_PER_INTERVAL_MAX": "1000000",
    "JINKU_PORTAL__QUIET_MS": "100",
    # What is alarmed so seldom that one might be missing is nobody's finding.
    "JINKU_PORTAL__ALARM_REPEAT_SECONDS": "1",
    "JINKU_READLOG__SEGMENT_BATCHES_MAX": "64",
}


@dataclass
class Realm:
    """Its files, its callers, and how far it was verified."""

    directory: Path
    settings: Settings
    port: int
    clerks: list[Clerk]
    gates: list[Gate]
    environment: dict[str, str]
    # Steps of each clerk that were looked up after the life in which they were answered.
    confirmed: dict[int, int] = field(default_factory=dict)
    # How far the ledger went that was verified, per clerk its entries in it, and per gate the batches.
    kept: Head = NOTHING
    steps: dict[int, int] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)
    passages: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    # Until when reads were judged again.
    judged_ns: int = 0
    lives: int = 0

    @property
    def config(self) -> Path:
        return self.directory / "jinku.toml"

    def account(self) -> str:
        answers, batches = self.acknowledged
        return f"{self.lives} lives, {answers} answers, {batches} batches, {self.kept.size} entries"

    @property
    def acknowledged(self) -> tuple[int, int]:
        """Answers and batches."""
        return sum(len(one.told) for one in self.clerks), sum(one.durable for one in self.gates)

    def connect(self, name: str) -> Connection:
        own = self.directory / "certificates" / name
        ca = own.with_name("ca.pem")
        target = f"127.0.0.1:{self.port}"
        return Connection(target, own.with_suffix(".pem"), own.with_suffix(".key"), ca)

    def move(self, storage: Path) -> None:
        """Keep ledger and read log elsewhere from now on. Nobody serves it."""
        shutil.copytree(self.settings.storage.directory, storage)
        self.environment["JINKU_STORAGE__DIRECTORY"] = str(storage)
        self.settings = load_settings(self.config, self.environment)

    # -- one life ----------------------------------------------------------------------------------

    @contextmanager
    def service(self, launcher: Sequence[str] = (str(JINKUD),)) -> Iterator[Life]:
        """The service as a process; killed at the end of the block if it still runs."""
        with tempfile.TemporaryFile(mode="w+") as log:
            process = subprocess.Popen(
                [*launcher, "serve", "--config", str(self.config)],
                stderr=log,
                env=clean_environment(**self.environment),
            )
            life = Life(process, log)
            self.lives += 1
            try:
                yield life
            except Found as found:
                found.add_note(life.said()[-4000:])
                raise
            finally:
                process.kill()
                process.wait()

    def wait_serving(self, life: Life, *, or_end: bool = False) -> None:
        """Until it answers. Gone if it was killed before; Found if it ended by itself, or Gone."""
        deadline = time.monotonic() + START_SECONDS_MAX
        retry = RetryPolicy(attempts_max=1, timeout_s=5)
        while True:
            with self.connect("service-auditor").open() as channel:
                try:
                    LedgerClient(channel, retry=retry).get_checkpoint(GetCheckpointRequest())
                except ServiceUnavailable:
                    life.check(or_end=or_end)
                else:
                    return
            if time.monotonic() > deadline:
                raise Found(f"did not open within {START_SECONDS_MAX:g} s:\n{life.said()}")
            time.sleep(0.05)

    def confirm(self, chance: random.Random) -> None:
        """What was acknowledged in earlier lives is what this one says. Gone if it is killed."""
        with (
            self.connect("service-auditor").open() as channel,
            self.connect("service-registrar").open() as registrar,
        ):
            ledger = LedgerClient(channel, retry=RetryPolicy(attempts_max=1))
            for clerk in self.clerks:
                answered = len(clerk.told)
                for step in range(self.confirmed.get(clerk.number, 0), answered):
                    self._confirm(ledger, clerk, step)
                self.confirmed[clerk.number] = answered
                clerk.repeat(registrar, clerk.some(chance, 4))

    def _confirm(self, ledger: LedgerClient, clerk: Clerk, step: int) -> None:
        told = clerk.told[step]
        try:
            found = ledger.get_entry(GetEntryRequest(entry_index=told.entry_index)).receipt
            header = receipts.verify(found, clerk.verifier_key).header
        except ServiceUnavailable:
            raise Gone(f"at step {step}") from None
        except (CallFailed, receipts.ReceiptInvalid) as error:
            raise Found(f"lost: clerk {clerk.number}, step {step}: {error}") from None
        digest = sha256(header.SerializeToString(deterministic=True)).digest()
        if digest != told.header_digest:
            raise Found(f"lost: clerk {clerk.number}, step {step}: its place has another entry")

    def load(self, seconds: float) -> None:
        """All callers at once, for so long or until the service is gone."""
        registrar = self.connect("service-registrar")
        with registrar.open() as one, registrar.open() as other:
            lines = [self.connect(f"portal-{gate.name}").open() for gate in self.gates]
            works = [partial(clerk.work, (one, other)[clerk.number % 2]) for clerk in self.clerks]
            rides = [partial(gate.ride, line) for gate, line in zip(self.gates, lines, strict=True)]
            try:
                run_all([*works, *rides], seconds)
            finally:
                for line in lines:
                    line.close()

    # -- when nobody serves it ---------------------------------------------------------------------

    def verify(self, *, whole: bool = True) -> None:
        """Everything since the last time: the journal goes on from what it was, with each clerk's
        commands once, in order and decided as they must be; the read log has every acknowledged
        batch as it was sent, and nothing else. `whole`: `jinkud fsck` and `judge_again` too.
        """
        keys = RealmKeys.load(self.settings.keys.directory)
        try:
            ledger = open_ledger(self.settings, keys)
        except LedgerCorrupt as error:
            raise Found(f"does not open: {error}") from None
        try:
            size = self.kept.size
            if ledger.size < size or ledger.root(size) != self.kept.root_hash:
                raise Found(f"lost: a ledger of {ledger.size} entries has not the {size} of before")
            for _, entry in ledger.entries(size):
                self._verify_entry(EntryHeader.FromString(entry.header), entry.events)
            self.kept = ledger.head
            with ledger.read() as state:
                ids = {
                    gate.name: state.find(IndexKind.PORTAL_NAME, gate.name.encode())
                    for gate in self.gates
                }
        finally:
            ledger.close()
        for clerk in self.clerks:
            recorded = self.steps.get(clerk.number, 0)
            # The one that was not answered may be there.
            if not len(clerk.told) <= recorded <= len(clerk.told) + 1:
                raise Found(
                    f"lost: clerk {clerk.number} was told {len(clerk.told)}, {recorded} are"
                )
        log = ReadLog(read_log_path(self.settings), keys.readlog_key, map_gib=1)
        try:
            for gate in self.gates:
                self._verify_batches(gate, log, ids[gate.name] or b"")
        except LedgerCorrupt as error:
            raise Found(f"read log: {error}") from None
        finally:
            log.start()
            log.close()
        if whole:
            self.judge_again()
            self._check("fsck")

    @property
    def is_suspect(self) -> bool:
        """Whether a start has to verify all of the ledger first."""
        with self._owner() as owner:
            return owner.suspect

    def mark_suspect(self) -> None:
        """As a service does that stops itself."""
        with self._owner() as owner:
            owner.mark_suspect(True)

    @contextmanager
    def _owner(self) -> Iterator[OwnerFile]:
        owner = OwnerFile(ledger_path(self.settings) / OWNER_FILE)
        try:
            yield owner
        finally:
            owner.release()

    def judge_again(self) -> None:
        """The journal has the passages and alarms that the batches since the last time make, and no
        others.
        """
        now_ns = time.time_ns()
        since = datetime.fromtimestamp(max(0, self.judged_ns - VISIT_NS_MAX) / 1e9, UTC)
        self._check("replay-reads", "--from", since.isoformat())
        self.judged_ns = now_ns

    def _check(self, *command: str) -> None:
        checked = subprocess.run(
            [JINKUD, *command, "--config", self.config], capture_output=True, text=True,
            env=clean_environment(**self.environment),
        )  # fmt: skip
        if checked.returncode:
            raise Found(f"{command[0]}: {checked.stdout}{checked.stderr}")

    def _verify_entry(self, header: EntryHeader, events: bytes) -> None:
        client = header.command_id.client
        number = client.epoch - 1000
        for clerk in self.clerks:
            if clerk.number != number or not header.command_id.HasField("client"):
                continue
            step = self.steps.get(number, 0)
            if client.sequence != step + 1:
                raise Found(f"twice or lost: clerk {number}: {client.sequence} after {step}")
            self.steps[number] = step + 1
            _, reason = clerk.step(step)
            reasons = [bool(header.reasons)]
            digest = sha256(clerk.body(step)).digest()
            if header.request_digest != digest or reasons != [bool(reason)]:
                raise Found(f"decided otherwise: clerk {number}, step {step}")
            if step < len(clerk.told) and clerk.told[step].entry_index != header.index:
                raise Found(f"moved: clerk {number}, step {step}")
        for event in Events.FromString(events).events:
            if event.HasField("passage_recorded"):
                one = event.passage_recorded
                seen = self.passages.get((one.portal_id, one.tag_id), 0)
                if one.first_read_ns <= seen:
                    raise Found(f"passage twice: entry {header.index}")
                self.passages[one.portal_id, one.tag_id] = one.last_read_ns

    def _verify_batches(self, gate: Gate, log: ReadLog, portal_id: bytes) -> None:
        at = self.batches.get(gate.name, 0)
        for sequence, block in log.batches(portal_id, 1, at + 1):
            at += 1
            if sequence != at:
                raise Found(f"lost: {gate.name}, batch {at}")
            sent = gate.batch(sequence)
            columns = block.columns
            if (columns.identity.tobytes(), columns.evidence.tobytes(), columns.antenna.tobytes(),
                    columns.base_time_ns) != (
                        sent.identity, sent.evidence, sent.antenna, sent.base_time_ns):  # fmt: skip
                raise Found(f"altered: {gate.name}, batch {sequence}")
            if block.verdicts.tolist() != [4, 1][-len(block.verdicts) :]:
                raise Found(f"counters: {gate.name}, batch {sequence}: {block.verdicts}")
        position = log.position(portal_id)
        stands_at = position.last_sequence if position is not None else 0
        if not gate.durable <= at == stands_at:
            raise Found(f"lost: {gate.name} was told {gate.durable}, {at} are, at {stands_at}")
        self.batches[gate.name] = at


@dataclass
class Life:
    """One process."""

    process: subprocess.Popen[bytes]
    log: Any

    def said(self) -> str:
        self.log.seek(0)
        return str(self.log.read())

    def kill_after(self, seconds: float) -> None:
        after(seconds, self.process.kill)

    def wait(self, seconds: float) -> int | None:
        """Its exit code; None if it still runs."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def check(self, *, or_end: bool = False) -> None:
        """Gone if it was killed, or may have ended; Found if it ended otherwise."""
        code = self.process.poll()
        if code == -signal.SIGKILL or (or_end and code is not None):
            raise Gone("killed")
        if code is not None:
            raise Found(f"does not open: ended with {code}:\n{self.said()}")


def after(seconds: float, work: Callable[[], object]) -> None:
    """Do it then, whatever goes on."""
    timer = threading.Timer(seconds, work)
    timer.daemon = True
    timer.start()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def busy_realm(tmp_path: Path, clerks: int = 3, gates: int = 2) -> Realm:
    """A founded realm with gates and tagged boxes, and callers that have not yet called."""
    directory = found(tmp_path)
    names = [f"gate-{number}" for number in range(1, gates + 1)]
    identities: dict[str, list[bytes]] = {}
    with serving(directory) as running:
        channel = running.registrar()
        requests: list[Any] = [institution(), vault(), *map(portal, names)]
        for at, name in enumerate(names):
            tags = range(at * TAGS_PER_GATE, (at + 1) * TAGS_PER_GATE)
            identities[name] = [b"\x04" + tag.to_bytes(6, "big") for tag in tags]
            for tag, identity in zip(tags, identities[name], strict=True):
                scheme = "TAG_SCHEME_COUNTER_CMAC"
                requests += [container(f"G-{tag}"), issue(identity, f"G-{tag}", scheme=scheme)]
        for request in requests:
            request.command_id.CopyFrom(running.command_id())
            method = type(request).__name__.removesuffix("Request")
            call_bytes(channel, REGISTRY + method, request.SerializeToString())
        for name in names:
            running.issue("portal", name)
        settings = running.settings
        verifier_key = running.service.ledger.verifier_key
    (master,) = [path.read_bytes() for path in (settings.keys.directory / "tag-masters").iterdir()]
    realm = settings.realm.number
    port = free_port()
    environment = {**ENVIRONMENT, "JINKU_SERVER__LISTEN": f"127.0.0.1:{port}"}
    return Realm(
        directory, settings, port,
        [Clerk(number, verifier_key) for number in range(1, clerks + 1)],
        [Gate(name, master, realm, identities[name]) for name in names],
        environment,
    )  # fmt: skip
