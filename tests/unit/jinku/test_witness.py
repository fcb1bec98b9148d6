"""A witness over HTTP against a tree and a signer of its own: the protocol's answers, and memory."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jinku import witness as witness_module
from jinku.notes import COSIGNATURE, EMPTY_ROOT, NoteInvalid, VerifierKey, find_cosigners
from jinku.plain_http import Answer, fetch
from jinku.plain_server import Limits, Server
from jinku.witness import LOGS_FILE, SEEN, Witness, WitnessFault, create
from jinku.witnessing import (
    REQUEST_BYTES_MAX,
    SIZE_TYPE,
    AddCheckpoint,
    WitnessConflict,
    WitnessInconsistent,
    WitnessRefused,
    add_checkpoint,
    fetch_latest,
)
from signed_tree import KEY, NAME, consistency, sign, tree_hash
from witnessing import liar

C2SP = json.loads((Path(__file__).parents[2] / "vectors" / "c2sp.json").read_text("utf-8"))
LEAVES = [b"%d" % number for number in range(64)]
FORKED = [*LEAVES[:9], b"another", *LEAVES[10:]]
NOW = 1_700_000_000


def note_of(size: int, leaves: list[bytes] = LEAVES) -> str:
    return sign(size, tree_hash(leaves[:size]) if size else EMPTY_ROOT)


def grow(old: int, new: int, leaves: list[bytes] = LEAVES) -> AddCheckpoint:
    proof = consistency(old, leaves[:new]) if old else []
    return AddCheckpoint(old, tuple(proof), note_of(new, leaves))


class Running:
    """One witness, served; opened again by `restart`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = create(directory, "witness.example/w1")
        (directory / LOGS_FILE).write_text(f"# ours\n{KEY}\n\n", encoding="utf-8")
        self.errors: list[Exception] = []
        self.open()

    def open(self) -> None:
        self.witness = Witness(self.directory, clock=lambda: NOW + 0.9)
        limits = Limits(body_bytes_max=REQUEST_BYTES_MAX)
        self.server = Server("127.0.0.1:0", self.witness.answer, limits, self.errors.append)
        self.server.start()
        self.url = f"http://{self.server.listen}"

    def close(self) -> None:
        self.server.close()
        self.witness.close()

    def restart(self) -> None:
        self.close()
        self.open()

    def post(self, body: bytes) -> Answer:
        return fetch(f"{self.url}/add-checkpoint", body=body)

    def ask(self, request: AddCheckpoint) -> int:
        """The witness cosigns this; the time it says."""
        (signature,) = add_checkpoint(self.url, self.key, request, 5)
        return int.from_bytes(signature.value[:8], "big")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path / "w")
    yield made
    made.close()


def test_it_cosigns_a_log_that_grows(running: Running) -> None:
    last = 0
    for size in (1, 2, 2, 7, 8, 33, 64):
        assert running.ask(grow(last, size)) == NOW
        last = size
    latest = fetch_latest(running.url, NAME, 5)
    assert find_cosigners(latest, [running.key]) == {running.key: NOW}
    assert latest.startswith(note_of(64))


def test_the_first_checkpoint_may_be_of_the_empty_tree(running: Running) -> None:
    assert running.ask(grow(0, 0)) == NOW
    assert running.ask(grow(0, 5)) == NOW
    forged = AddCheckpoint(0, (), sign(0, bytes(32)))
    running.restart()
    with pytest.raises(WitnessConflict):
        running.ask(forged)


def test_the_empty_tree_has_one_root(running: Running) -> None:
    with pytest.raises(WitnessInconsistent):
        running.ask(AddCheckpoint(0, (), sign(0, bytes(32))))


def test_another_old_size_is_told(running: Running) -> None:
    running.ask(grow(0, 8))
    for old in (0, 3, 9):
        answer = running.post(grow(old, 16).encode())
        assert (answer.status, answer.body, answer.content_type) == (409, b"8\n", SIZE_TYPE)
        with pytest.raises(WitnessConflict) as caught:
            running.ask(grow(old, 16))
        assert caught.value.tree_size == 8
    running.ask(grow(8, 16))


@pytest.mark.parametrize(
    "forged",
    [
        AddCheckpoint(16, grow(16, 32, FORKED).proof, note_of(32, FORKED)),
        AddCheckpoint(16, (), note_of(16, FORKED)),
        AddCheckpoint(16, (), note_of(32)),
        AddCheckpoint(16, grow(16, 32).proof[:-1], note_of(32)),
        AddCheckpoint(16, (*grow(16, 32).proof, bytes(32)), note_of(32)),
        AddCheckpoint(16, (bytes(32),), note_of(16)),
    ],
    ids=["fork", "fork of the same size", "no proof", "short", "long", "a proof of nothing"],
)
def test_what_does_not_go_on_is_not_cosigned(running: Running, forged: AddCheckpoint) -> None:
    running.ask(grow(0, 16))
    with pytest.raises(WitnessInconsistent):
        running.ask(forged)
    running.restart()
    with pytest.raises(WitnessInconsistent):
        running.ask(forged)
    running.ask(grow(16, 32))


def test_another_root_of_the_same_size_is_a_422(running: Running) -> None:
    """So since 2026-07 (C2SP 95978ca); version 1.0.0 of the protocol had a 409 without a size."""
    running.ask(grow(0, 16))
    assert running.post(AddCheckpoint(16, (), note_of(16, FORKED)).encode()).status == 422


def test_a_proof_from_size_0_is_refused(running: Running) -> None:
    with pytest.raises(WitnessInconsistent):
        running.ask(AddCheckpoint(0, (bytes(32),), note_of(4)))


def test_who_signed_and_which_log(running: Running) -> None:
    another = sign(4, tree_hash(LEAVES[:4]), name="bank.example/realm-2")
    unsigned = note_of(4).replace(f"— {NAME}", "— somebody.example")
    assert running.post(b"old 0\n\n" + another.encode()).status == 404
    assert running.post(b"old 0\n\n" + unsigned.encode()).status == 403
    wrong = note_of(4).replace("\n4\n", "\n5\n")
    assert running.post(b"old 0\n\n" + wrong.encode()).status == 403
    # One right signature does not make up for a wrong one of the same key.
    both = note_of(4) + note_of(5).splitlines()[-1] + "\n"
    assert running.post(b"old 0\n\n" + both.encode()).status == 403
    with pytest.raises(WitnessRefused, match="403: it trusts another key"):
        running.ask(AddCheckpoint(0, (), unsigned))
    assert running.witness.seen == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"old 0",
        b"old 0\n" + note_of(4).encode(),
        b"old 00\n\n" + note_of(4).encode(),
        b"old -1\n\n" + note_of(4).encode(),
        b"old  0\n\n" + note_of(4).encode(),
        b"Old 0\n\n" + note_of(4).encode(),
        b"old 5\n\n" + note_of(4).encode(),
        b"old 0\nAAAA\n\n" + note_of(4).encode(),
        b"old 0\n!\n\n" + note_of(4).encode(),
        b"old 0\n" + b"A" * 43 + b"=\n\n" + note_of(4).encode()[:-1],
        b"old 0\n" + (b"A" * 43 + b"=\n") * 64 + b"\n" + note_of(4).encode(),
        b"old 0\r\n\r\n" + note_of(4).encode(),
        b"old 0\n\nfour lines\nof\nnothing\n\n- x y\n",
        b"old 0\n\n" + note_of(4).replace("\n4\n", "\n04\n").encode(),
    ],
)
def test_malformed_requests(running: Running, body: bytes) -> None:
    assert running.post(body).status == 400
    assert running.witness.seen == {}


def test_other_methods_paths_and_sizes(running: Running) -> None:
    running.ask(grow(0, 4))
    where = f"{running.url}/{hashlib.sha256(NAME.encode()).hexdigest()}/checkpoint"
    assert fetch(f"{running.url}/add-checkpoint").status == 405
    assert fetch(where).status == 200
    assert fetch(where, body=b"x").status == 405
    for path in ("/", "/add-checkpoint/", "/checkpoint", "/sign-subtree", f"{'0' * 64}/checkpoint"):
        assert fetch(running.url + "/" + path.lstrip("/")).status == 404
    assert running.post(bytes(REQUEST_BYTES_MAX + 1)).status == 413
    assert running.errors == []


def test_published_request_is_read() -> None:
    example = C2SP["add_checkpoint"]
    request = AddCheckpoint.parse(example["body"].encode())
    assert (request.old_size, len(request.proof)) == (example["old_size"], example["hashes"])
    assert request.encode().decode() == example["body"]


# -- what a log makes of a witness's answers


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(200, b""), NoteInvalid),
        (Answer(200, b"\xff"), NoteInvalid),
        (Answer(200, note_of(4).splitlines()[-1].encode() + b"\n"), NoteInvalid),
        (Answer(409, b"8\n", SIZE_TYPE + "; charset=utf-8"), WitnessConflict),
        (Answer(409, b"4\n", SIZE_TYPE), WitnessConflict),
        (Answer(409, b"8\n"), WitnessRefused),
        (Answer(409, b"", SIZE_TYPE), WitnessRefused),
        (Answer(409, b"eight\n", SIZE_TYPE), NoteInvalid),
        (Answer(500, b""), WitnessRefused),
        (Answer(302, b""), WitnessRefused),
    ],
)
def test_answers_of_strange_witnesses(
    tmp_path: Path, answer: Answer, error: type[Exception]
) -> None:
    with liar(answer) as url, pytest.raises(error):
        add_checkpoint(url, create(tmp_path / "w", "w.example"), grow(0, 4), 5)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(409, b"4\n", SIZE_TYPE), WitnessInconsistent),
        (Answer(409, b"", SIZE_TYPE), WitnessInconsistent),
        (Answer(409, b""), WitnessInconsistent),
        (Answer(409, b"Conflict\n"), WitnessInconsistent),
        (Answer(409, b"5\n", SIZE_TYPE), WitnessConflict),
        (Answer(409, b"3\n", SIZE_TYPE), WitnessConflict),
        (Answer(409, b"four\n", SIZE_TYPE), NoteInvalid),
    ],
)
def test_another_root_of_the_same_size_as_older_witnesses_tell_it(
    tmp_path: Path, answer: Answer, error: type[Exception]
) -> None:
    with liar(answer) as url, pytest.raises(error):
        add_checkpoint(url, create(tmp_path / "w", "w.example"), grow(4, 4), 5)


def test_cosignatures_of_others_are_ignored(running: Running, tmp_path: Path) -> None:
    another = create(tmp_path / "another", "witness.example/w2")
    with pytest.raises(NoteInvalid, match="no signature"):
        add_checkpoint(running.url, another, grow(0, 4), 5)


# -- memory


def test_memory_outlives_the_process(running: Running) -> None:
    running.ask(grow(0, 16))
    running.restart()
    with pytest.raises(WitnessConflict):
        running.ask(grow(0, 4))
    running.ask(grow(16, 20))


def test_one_of_two_that_race_is_cosigned(running: Running) -> None:
    """Both go on from size 8: whoever comes second is told where the witness stands."""
    running.ask(grow(0, 8))
    for round_number in range(20):
        base = 8 + 2 * round_number
        requests = [grow(base, base + 1).encode(), grow(base, base + 2).encode()]
        with ThreadPoolExecutor(2) as pool:
            states = [answer.status for answer in pool.map(running.post, requests)]
        assert sorted(states) == [200, 409]
        latest = running.witness.seen[NAME][0].tree_size
        if latest == base + 1:
            running.ask(grow(base + 1, base + 2))


def test_what_could_not_be_kept_is_not_cosigned(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    running.ask(grow(0, 8))
    with monkeypatch.context() as patched:
        patched.setattr(witness_module, "write_bytes", full)
        answer = running.post(grow(8, 16).encode())
    assert (answer.status, "—" in answer.body.decode()) == (500, False)
    assert [str(error) for error in running.errors] == ["[Errno 28] No space left on device"]
    running.ask(grow(8, 12))


@pytest.mark.parametrize("content", [b"", b"nonsense", note_of(4).encode()])
def test_a_memory_that_cannot_be_read_is_no_fresh_start(running: Running, content: bytes) -> None:
    running.ask(grow(0, 8))
    running.close()
    (seen,) = (running.directory / SEEN).iterdir()
    seen.write_bytes(content)
    with pytest.raises(WitnessFault, match=NAME):
        Witness(running.directory)
    seen.unlink()
    running.open()


def test_a_directory_serves_one_process(running: Running) -> None:
    with pytest.raises(WitnessFault, match="another process"):
        Witness(running.directory)


# -- the directory


def test_create_overwrites_nothing(tmp_path: Path) -> None:
    key = create(tmp_path / "w", "w.example/1")
    assert VerifierKey.parse(str(key), COSIGNATURE) == key
    with pytest.raises(WitnessFault, match="never overwritten"):
        create(tmp_path / "w", "w.example/1")
    for name in ("", "a b", "a+b"):
        with pytest.raises(WitnessFault, match="name"):
            create(tmp_path / "x", name)


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("logs", "", "names no log"),
        ("logs", "nonsense\n", r"logs:1: verifier key"),
        ("logs", f"{KEY}\n{KEY.replace('bank', 'Bank')}\n", r"logs:2: verifier key: id"),
        ("witness.key", "short", "damaged"),
        ("name", "a b", "damaged"),
        ("logs", None, "logs: No such file"),
        ("witness.key", None, "witness.key: No such file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, file: str, content: str | None, why: str) -> None:
    create(tmp_path, "w.example")
    (tmp_path / LOGS_FILE).write_text(f"{KEY}\n", encoding="utf-8")
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(WitnessFault, match=why):
        Witness(tmp_path)


def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    create(tmp_path, "w.example")
    (tmp_path / "witness.key").chmod(0o640)
    with pytest.raises(WitnessFault, match="chmod 600"):
        Witness(tmp_path)


def test_two_keys_for_one_log(tmp_path: Path) -> None:
    create(tmp_path, "w.example")
    public = bytes(range(32))
    key_id = hashlib.sha256(NAME.encode() + b"\n\x01" + public).digest()[:4].hex()
    other = f"{NAME}+{key_id}+{base64.b64encode(bytes([1]) + public).decode()}"
    (tmp_path / LOGS_FILE).write_text(f"{KEY}\n{other}\n", encoding="utf-8")
    with pytest.raises(WitnessFault, match="another key above"):
        Witness(tmp_path)
