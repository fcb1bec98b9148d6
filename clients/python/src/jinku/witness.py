"""A witness (https://c2sp.org/tlog-witness): it cosigns a log's checkpoint if that goes on from the
last one it cosigned, and never two that do not.

One bank, or its auditor, runs it for another: `jinku witness`. What it saw last of each log is on
disk before anybody is told of it; that memory is all its worth, so it is never put back from a copy.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from jinku.durable import hold, write_bytes
from jinku.errors import JinkuError
from jinku.notes import (
    EMPTY_ROOT,
    KEY_SIZE,
    Checkpoint,
    Cosigner,
    Note,
    NoteInvalid,
    SignatureWrong,
    VerifierKey,
    check_consistency,
    find_cosigners,
    is_key_name,
    open_checkpoint,
    parse_checkpoint,
)
from jinku.plain_http import TEXT, Answer, Request, refuse
from jinku.witnessing import ADD_CHECKPOINT, SIZE_TYPE, AddCheckpoint, hash_origin

KEY_FILE = "witness.key"
NAME_FILE = "name"
LOGS_FILE = "logs"
SEEN = "seen"
LOGS_HEADING = (
    "# Verifier keys of the logs that are witnessed, one a line. Restart after a change.\n"
)


class WitnessFault(JinkuError):
    """The witness's directory is not what it has to be; the message names the file."""


def create(directory: Path, name: str) -> VerifierKey:
    """A new witness in a new directory; its verifier key. WitnessFault if there is one."""
    if not is_key_name(name):
        raise WitnessFault("the name: without spaces and +, e.g. witness.bank.example/w1")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (directory / KEY_FILE).exists():
        raise WitnessFault(f"{directory / KEY_FILE}: exists already and is never overwritten")
    key = Ed25519PrivateKey.generate()
    (directory / SEEN).mkdir(exist_ok=True, mode=0o700)
    write_bytes(directory / NAME_FILE, name.encode())
    write_bytes(directory / LOGS_FILE, LOGS_HEADING.encode())
    write_bytes(directory / KEY_FILE, key.private_bytes_raw())
    return Cosigner(name, key).verifier_key


class Witness:
    """Answers the protocol's requests; from any thread."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        """WitnessFault if the directory has not what `create` made, another process has it, or what
        was seen of a log cannot be read: a witness that forgot must not begin anew.
        """
        self.clock = clock
        self.lock = threading.Lock()
        self.seen_directory = directory / SEEN
        self.cosigner = load_cosigner(directory)
        self.logs = load_logs(directory / LOGS_FILE)
        self.seen: dict[str, tuple[Checkpoint, str]] = {}
        self.guard = hold(directory)
        if self.guard is None:
            raise WitnessFault(f"{directory}: another process runs this witness")
        try:
            for origin in self.logs:
                self.load_seen(origin)
        except WitnessFault:
            self.close()
            raise

    def close(self) -> None:
        """Lets another process have the directory."""
        if self.guard is not None:
            self.guard.close()

    def answer(self, request: Request) -> Answer:
        """add-checkpoint, and the latest checkpoint of each log for monitors."""
        path = request.path.removeprefix("/")
        if path == ADD_CHECKPOINT:
            if request.method != "POST":
                return refuse(405, "add-checkpoint is a POST", ("Allow", "POST"))
            return self.add_checkpoint(request.body)
        for origin, (_, note) in list(self.seen.items()):
            if path == f"{hash_origin(origin)}/checkpoint":
                if request.method not in {"GET", "HEAD"}:
                    return refuse(405, "a checkpoint is fetched", ("Allow", "GET, HEAD"))
                return Answer(200, note.encode(), TEXT, (("Cache-Control", "no-cache"),))
        return refuse(404, "nothing is here")

    def add_checkpoint(self, body: bytes) -> Answer:
        """The protocol's checks in its order. What is answered with 200 is on disk."""
        try:
            asked = AddCheckpoint.parse(body)
            note = Note.parse(asked.note)
            checkpoint = parse_checkpoint(note.text)
        except NoteInvalid as error:
            return refuse(400, str(error))
        key = self.logs.get(checkpoint.origin)
        if key is None:
            return refuse(404, "the log is not known here")
        try:
            open_checkpoint(asked.note, key)
        except SignatureWrong as error:
            return refuse(403, str(error))
        if asked.old_size > checkpoint.tree_size:
            return refuse(400, "the old size is greater than the checkpoint's")
        with self.lock:
            return self.compare_and_cosign(asked, checkpoint, note, key)

    def compare_and_cosign(
        self, asked: AddCheckpoint, checkpoint: Checkpoint, note: Note, key: VerifierKey
    ) -> Answer:
        latest = self.latest(checkpoint.origin)
        if asked.old_size != latest.tree_size:
            no_store = (("Cache-Control", "no-store"),)
            return Answer(409, f"{latest.tree_size}\n".encode(), SIZE_TYPE, no_store)
        try:
            check_progress(latest, checkpoint, asked.proof)
        except NoteInvalid as error:
            return refuse(422, str(error))
        cosignature = self.cosigner.cosign(note.text, int(self.clock()))
        kept = Note(note.text, (*note.verify(key), cosignature))
        self.keep(checkpoint, str(kept))
        return Answer(200, str(cosignature).encode(), TEXT, (("Cache-Control", "no-store"),))

    def latest(self, origin: str) -> Checkpoint:
        """The last cosigned checkpoint; that of the empty tree if there was none."""
        return self.seen[origin][0] if origin in self.seen else Checkpoint(origin, 0, EMPTY_ROOT)

    def keep(self, checkpoint: Checkpoint, note: str) -> None:
        """Durable on return."""
        write_bytes(self.seen_directory / hash_origin(checkpoint.origin), note.encode())
        self.seen[checkpoint.origin] = (checkpoint, note)

    def load_seen(self, origin: str) -> None:
        path = self.seen_directory / hash_origin(origin)
        try:
            note = path.read_bytes().decode()
            checkpoint = open_checkpoint(note, self.logs[origin])
            if not find_cosigners(note, [self.cosigner.verifier_key]):
                raise NoteInvalid("checkpoint: no cosignature of ours")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError, NoteInvalid) as error:
            raise WitnessFault(
                f"{path}: what was seen of {origin} is not readable: {error}"
            ) from error
        self.seen[origin] = (checkpoint, note)


def check_progress(latest: Checkpoint, checkpoint: Checkpoint, proof: tuple[bytes, ...]) -> None:
    """NoteInvalid unless the log only grew. Of a log that was never seen, the beginning is taken
    without a proof, and a proof is refused.
    """
    if checkpoint.tree_size == 0 and checkpoint.root_hash != EMPTY_ROOT:
        raise NoteInvalid("checkpoint: the empty tree has another root")
    if latest.tree_size == 0:
        if proof:
            raise NoteInvalid("proof: from size 0 there is none")
        return
    check_consistency(
        latest.tree_size, checkpoint.tree_size, latest.root_hash, checkpoint.root_hash, proof
    )


def load_cosigner(directory: Path) -> Cosigner:
    path = directory / KEY_FILE
    try:
        if path.stat().st_mode & 0o077:
            raise WitnessFault(f"{path}: others may read it; chmod 600 it")
        secret, name = path.read_bytes(), (directory / NAME_FILE).read_text(encoding="utf-8")
    except OSError as error:
        raise WitnessFault(
            f"{error.filename}: {os.strerror(error.errno or 0)}; `jinku witness create` makes it"
        ) from error
    if len(secret) != KEY_SIZE or not is_key_name(name):
        raise WitnessFault(f"{path}: it or the name beside it is damaged")
    return Cosigner(name, Ed25519PrivateKey.from_private_bytes(secret))


def load_logs(path: Path) -> dict[str, VerifierKey]:
    """Origin → key of the logs in the file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise WitnessFault(f"{path}: {os.strerror(error.errno or 0)}") from error
    logs: dict[str, VerifierKey] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            key = VerifierKey.parse(line)
        except NoteInvalid as error:
            raise WitnessFault(f"{path}:{number}: {error}") from error
        if logs.setdefault(key.name, key) != key:
            raise WitnessFault(f"{path}:{number}: {key.name} has another key above")
    if not logs:
        raise WitnessFault(f"{path}: names no log; put its verifier key in, a line each")
    return logs
