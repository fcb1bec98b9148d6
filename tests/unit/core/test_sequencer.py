"""The one writer: durable before answered, once for ever, and stopped for good when the outcome is unknown."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.decisions import Decision, Handler, reason
from core.errors import (
    DecideFailed,
    LedgerCorrupt,
    LedgerFull,
    LedgerInUse,
    LedgerStopped,
    QueueFull,
)
from core.fsck import fsck
from core.ledger.ledger import HEADER_SIZE_MAX, RECEIPT_SIZE_MAX, Ledger
from core.ledger.merkle import leaf_hash
from core.ledger.note import NoteSigner, open_note
from core.realm import principal_of
from core.sequencer import Committed, Sequencer, Writer
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.notes import compute_root
from jinku.type.v1.place_pb2 import Antenna, InstitutionKind
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.v1.common_pb2 import Receipt
from jinku.v1.registry_pb2 import (
    IssueTagRequest,
    RegisterContainerRequest,
    RegisterInstitutionRequest,
    RegisterPortalRequest,
)
from ledgers import HANDLERS, command, found, reopen

HEAD = InstitutionKind.INSTITUTION_KIND_HEAD_OFFICE


def institution(code: str) -> RegisterInstitutionRequest:
    return RegisterInstitutionRequest(code=code, name=code, kind=HEAD)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found(tmp_path)
    opened = reopen(tmp_path)
    yield opened
    opened.close()


def one(ledger: Ledger, what: RegisterInstitutionRequest, **ids: int) -> Committed:
    (result,) = Writer(ledger, HANDLERS).commit([command(what, **ids)])
    assert isinstance(result, Committed)
    return result


def test_committed_is_there_after_reopening(tmp_path: Path, ledger: Ledger) -> None:
    result = one(ledger, institution("A"))
    root, size = ledger.checkpoint().root_hash, ledger.size
    ledger.close()
    again = reopen(tmp_path)
    assert (again.checkpoint().root_hash, again.size) == (root, size) == (root, 2)
    header = EntryHeader.FromString(again.entry(result.entry_index).header)
    assert header == result.header
    assert fsck(again).entries == 2
    again.close()


def test_the_same_command_again_is_answered_and_not_done(ledger: Ledger) -> None:
    first = one(ledger, institution("A"), epoch=5, sequence=1)
    again = one(ledger, institution("A"), epoch=5, sequence=1)
    assert again.repeated
    assert (again.header, again.events) == (first.header, first.events)
    assert ledger.size == 2


def test_the_same_command_twice_in_one_commit(ledger: Ledger) -> None:
    commands = [command(institution("A"), epoch=5, sequence=1) for _ in range(2)]
    first, again = Writer(ledger, HANDLERS).commit(commands)
    assert isinstance(first, Committed)
    assert isinstance(again, Committed)
    assert (first.repeated, again.repeated) == (False, True)
    assert first.header == again.header


def test_a_command_id_with_another_body_is_refused_and_alarmed(ledger: Ledger) -> None:
    one(ledger, institution("A"), epoch=5, sequence=1)
    altered = one(ledger, institution("B"), epoch=5, sequence=1)
    assert not altered.accepted
    assert [r.code for r in altered.header.reasons] == [ReasonCode.REASON_CODE_COMMAND_ID_REUSED]
    (event,) = altered.events.events
    assert event.alarm_raised.request_digest == altered.header.request_digest
    assert one(ledger, institution("A"), epoch=5, sequence=1).repeated
    assert fsck(ledger).entries == 3


def test_an_altered_body_is_journalled_once_and_answered_the_same(
    tmp_path: Path, ledger: Ledger
) -> None:
    one(ledger, institution("A"), epoch=5, sequence=1)
    batch = [command(institution(code), epoch=5, sequence=1) for code in "BBCB"]
    results = Writer(ledger, HANDLERS).commit(batch)
    altered = [r for r in results if isinstance(r, Committed)]
    assert [r.entry_index for r in altered] == [2, 2, 3, 2]
    assert [r.repeated for r in altered] == [False, True, False, True]
    ledger.close()
    again = reopen(tmp_path)
    late = one(again, institution("B"), epoch=5, sequence=1)
    assert (late.header, late.events) == (altered[0].header, altered[0].events)
    assert again.size == 4
    assert fsck(again).entries == 4
    again.close()


def test_the_alarm_names_what_the_first_command_was_about(ledger: Ledger) -> None:
    first = one(ledger, institution("A"), epoch=5, sequence=1)
    altered = one(ledger, institution("B"), epoch=5, sequence=1)
    (alarmed,) = altered.events.events
    assert alarmed.alarm_raised.institution_id == first.header.made_ids[0]
    assert [why.item for why in altered.header.reasons] == ["5/1"]


def test_the_same_id_of_another_principal_is_another_command(ledger: Ledger) -> None:
    mine = command(institution("A"), epoch=5, sequence=1)
    theirs = replace(mine, principal=mine.principal + "-2")
    results = Writer(ledger, HANDLERS).commit([mine, theirs])
    assert [r.repeated for r in results if isinstance(r, Committed)] == [False, False]


def test_a_raising_procedure_changes_nothing(ledger: Ledger) -> None:
    def raises(*_: object) -> None:
        raise RuntimeError("broken")

    handlers = {**HANDLERS, RegisterInstitutionRequest: Handler(RegisterInstitutionRequest, raises)}  # type: ignore[arg-type]
    before = [list(ledger.raw_rows(number)) for number in range(1, 14)]
    (result,) = Writer(ledger, handlers).commit([command(institution("A"))])
    assert isinstance(result, DecideFailed)
    assert [list(ledger.raw_rows(number)) for number in range(1, 14)] == before
    assert ledger.size == 1


def test_time_never_decreases(tmp_path: Path, ledger: Ledger) -> None:
    times = iter([10**18 * 3, 10**18 * 2, 10**18])
    writer = Writer(ledger, HANDLERS, lambda: next(times))
    for code in "AB":
        writer.commit([command(institution(code))])
    ledger.close()
    again = reopen(tmp_path)
    Writer(again, HANDLERS, lambda: next(times)).commit([command(institution("C"))])
    headers = [EntryHeader.FromString(entry.header) for _, entry in again.entries(1)]
    first, second, third = (h.decided_at_ns for h in headers)
    # While the clock is behind, the journal's time goes on at half the pace: minutes, not years.
    assert 10**18 * 3 == first < second < third < first + 60 * 10**9
    again.close()


def test_receipts_prove_and_stay_the_same(ledger: Ledger) -> None:
    result = one(ledger, institution("A"))
    early = ledger.receipt(result.entry_index)
    for number in range(40):
        one(ledger, institution(f"I{number}"))
    late = ledger.receipt(result.entry_index)
    assert late == early
    for index in range(ledger.size):
        check_receipt(ledger.receipt(index), index, ledger.verifier_key)


def test_the_longest_header_leaves_room_for_the_longest_proof(ledger: Ledger) -> None:
    longest = "x" * 255
    principal = principal_of(longest, 2**32 - 1, "service", "s" * 64)
    code = "C" * 64
    antennas = [Antenna(port=2**32 - 1 - n, side="ANTENNA_SIDE_INNER") for n in range(64)]
    asked = [
        RegisterPortalRequest(vault_code=code, name="g" * 64, antennas=antennas),
        RegisterContainerRequest(institution_code=code, label=code, vault_code=code),
        IssueTagRequest(container_label=code, identity=bytes(16), key_version=2**32 - 1),
    ]
    top = 2**64 - 1
    commands = [
        replace(
            command(what, epoch=top, sequence=top - n), principal=principal, device_id=bytes(16)
        )
        for n, what in enumerate(asked)
    ]
    for result in Writer(ledger, HANDLERS).commit(commands):
        assert isinstance(result, Committed)
        assert result.header.ByteSize() <= HEADER_SIZE_MAX
    signer = NoteSigner(f"{longest}/jinku/{2**32 - 1}", Ed25519PrivateKey.generate())
    receipt = Receipt(
        header=bytes(HEADER_SIZE_MAX),
        events_digest=bytes(32),
        inclusion_proof=[bytes(32)] * 63,
        checkpoint=signer.sign(2**63, bytes(32)).note,
    )
    assert receipt.ByteSize() <= RECEIPT_SIZE_MAX


def test_a_header_that_no_receipt_holds_is_not_recorded(ledger: Ledger) -> None:
    def verbose(*_: object) -> Decision:
        return Decision(reasons=[reason(ReasonCode.REASON_CODE_VAULT_EXISTS, "x" * 64)] * 20)

    handler = Handler(RegisterInstitutionRequest, verbose)
    handlers = {RegisterInstitutionRequest: handler}
    (result,) = Writer(ledger, handlers).commit([command(institution("A"))])
    assert isinstance(result, DecideFailed)
    assert fsck(ledger).entries == 1


def check_receipt(receipt: Receipt, index: int, verifier_key: str) -> None:
    assert receipt.ByteSize() <= 4096
    assert sha256(receipt.events).digest() == receipt.events_digest
    assert EntryHeader.FromString(receipt.header).index == index
    checkpoint = open_note(receipt.checkpoint, verifier_key)
    leaf = leaf_hash(receipt.header + receipt.events_digest)
    path = list(receipt.inclusion_proof)
    assert compute_root(leaf, index, checkpoint.tree_size, path) == checkpoint.root_hash


def test_a_commit_holds_many_commands(ledger: Ledger) -> None:
    commands = [command(institution(f"I{number}")) for number in range(300)]
    results = Writer(ledger, HANDLERS).commit(commands)
    assert [r.entry_index for r in results if isinstance(r, Committed)] == list(range(1, 301))
    assert len(list(ledger.checkpoints())) == 2
    for index in (1, 150, 300):
        check_receipt(ledger.receipt(index), index, ledger.verifier_key)
    assert [index for index, _ in ledger.entries(150)] == list(range(150, 301))


def test_sequencer_answers_after_the_commit_and_drains(ledger: Ledger) -> None:
    seen: list[int] = []
    sequencer = Sequencer(
        ledger, HANDLERS, on_committed=lambda batch: seen.extend(c.entry_index for c in batch)
    )
    futures = [sequencer.submit(command(institution(f"I{number}"))) for number in range(100)]
    sequencer.start()
    sequencer.stop()
    assert sorted(future.result(0).entry_index for future in futures) == list(range(1, 101))
    assert seen == list(range(1, 101))
    with pytest.raises(LedgerStopped):
        sequencer.submit(command(institution("late")))


def committing(ledger: Ledger, seconds: float) -> tuple[Sequencer, list[int]]:
    """A sequencer whose commits take so long, and how many commands each took."""
    sizes: list[int] = []

    def observe(batch: Sequence[Committed]) -> None:
        sizes.append(len(batch))
        time.sleep(seconds)

    return Sequencer(ledger, HANDLERS, on_committed=observe), sizes


def test_those_answered_together_are_committed_together_again(ledger: Ledger) -> None:
    """Although each hands in its next command a little after the one before."""
    sequencer, sizes = committing(ledger, 1.2)
    futures = [sequencer.submit(command(institution(f"I{number}"))) for number in range(8)]
    sequencer.start()
    for round_ in range(2):
        again = []
        for number, future in enumerate(futures):
            assert future.result(10).accepted
            time.sleep(0.002)
            again.append(sequencer.submit(command(institution(f"I{number}-{round_}"))))
        futures = again
    sequencer.stop()
    assert sizes == [8, 8, 8]


def test_who_does_not_come_back_is_not_waited_for(ledger: Ledger) -> None:
    """At most an eighth of the time that the answer took; one alone waits for nobody."""
    sequencer, sizes = committing(ledger, 0.8)
    futures = [sequencer.submit(command(institution(f"I{number}"))) for number in range(3)]
    sequencer.start()
    assert all(future.result(10).accepted for future in futures)
    for code in "AB":
        began = time.monotonic()
        assert sequencer.submit(command(institution(code))).result(10).accepted
        # With as long a wait as the commit took it would be 1.6.
        assert time.monotonic() - began < 1.4
    sequencer.stop()
    assert sizes == [3, 1, 1]


def test_a_full_queue_is_said_at_once(ledger: Ledger) -> None:
    sequencer = Sequencer(ledger, HANDLERS, queue_max=2)
    for number in range(2):
        sequencer.submit(command(institution(f"I{number}")))
    with pytest.raises(QueueFull):
        sequencer.submit(command(institution("one too many")))
    sequencer.start()
    sequencer.stop()
    assert ledger.size == 3


def test_fail_stop(tmp_path: Path, ledger: Ledger) -> None:
    stopped = threading.Event()
    broken = {"now": False}

    def observer(_: object) -> None:
        if broken["now"]:
            raise OSError("disk gone")

    sequencer = Sequencer(ledger, HANDLERS, on_committed=observer, on_stop=lambda _: stopped.set())
    sequencer.start()
    assert sequencer.submit(command(institution("A"))).result(5).accepted
    broken["now"] = True
    with pytest.raises(LedgerStopped):
        sequencer.submit(command(institution("B"))).result(5)
    assert stopped.wait(5)
    with pytest.raises(LedgerStopped):
        sequencer.submit(command(institution("C")))
    ledger.close()
    assert (tmp_path / "ledger" / "owner.lock").read_bytes() == b"\x01"
    again = reopen(tmp_path)
    assert again.size in (2, 3)
    assert (tmp_path / "ledger" / "owner.lock").read_bytes() == b"\x01"
    again.believe()
    assert (tmp_path / "ledger" / "owner.lock").read_bytes() == b"\x00"
    fsck(again)
    again.close()


def test_a_commit_given_up_half_way_leaves_nothing(ledger: Ledger) -> None:
    root = ledger.checkpoint().root_hash
    with pytest.raises(RuntimeError, match="half way"), ledger.writing() as writing:
        writing.append(ledger.entry(0))
        raise RuntimeError("half way")
    assert (ledger.size, ledger.checkpoint().root_hash) == (1, root)
    one(ledger, institution("A"))
    assert fsck(ledger).entries == 2


def test_a_full_map_stops_the_writer_and_loses_nothing(tmp_path: Path, ledger: Ledger) -> None:
    one(ledger, institution("A"))
    root = ledger.checkpoint().root_hash
    ledger._store._env.set_mapsize(1 << 20)  # type: ignore[union-attr]
    stopped: list[BaseException] = []
    sequencer = Sequencer(ledger, HANDLERS, on_stop=stopped.append)
    sequencer.start()
    accepted = 0
    with pytest.raises(LedgerStopped):
        for number in range(10_000):
            sequencer.submit(command(institution(f"I{number}"))).result(10)
            accepted += 1
    sequencer.stop()
    assert isinstance(stopped[0], LedgerFull)
    assert ledger.size == 2 + accepted
    check_receipt(ledger.receipt(ledger.size - 1), ledger.size - 1, ledger.verifier_key)
    assert ledger.checkpoint().root_hash != root
    ledger.close()
    again = reopen(tmp_path)
    assert fsck(again).entries == 2 + accepted
    again.close()


DISK_FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from ledgers import HANDLERS, command, reopen
from core.errors import LedgerStopped
from core.sequencer import Sequencer
from jinku.v1.registry_pb2 import RegisterInstitutionRequest
directory = Path(sys.argv[1])
ledger = reopen(directory)
room = (directory / "ledger" / "data.mdb").stat().st_size + (1 << 17)
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
sequencer = Sequencer(ledger, HANDLERS)
sequencer.start()
for number in range(10_000):
    request = RegisterInstitutionRequest(code=f"{number}", name="x" * 200, kind=2)
    try:
        print(sequencer.submit(command(request)).result().entry_index, flush=True)
    except LedgerStopped:
        print("stopped", ledger.size, flush=True)
        break
try:
    with ledger.writing():
        print("writes on")
except LedgerStopped:
    print("no more", flush=True)
"""


def test_a_full_disk_stops_the_writer_and_loses_nothing(tmp_path: Path, ledger: Ledger) -> None:
    ledger.close()
    support = Path(__file__).parents[2] / "support"
    ran = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(tmp_path), str(support)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    *acknowledged, last, after = ran.stdout.splitlines()
    assert after == "no more"
    assert acknowledged == [str(number) for number in range(1, len(acknowledged) + 1)]
    assert last == f"stopped {len(acknowledged) + 1}"
    assert (tmp_path / "ledger" / "owner.lock").read_bytes() == b"\x01"
    again = reopen(tmp_path)
    assert len(acknowledged) + 1 <= again.size == fsck(again).entries
    again.close()


def test_receipts_asked_for_while_others_are_written(ledger: Ledger) -> None:
    sequencer = Sequencer(ledger, HANDLERS)
    sequencer.start()

    def client(name: int) -> None:
        for number in range(40):
            committed = sequencer.submit(command(institution(f"{name}-{number}"))).result(30)
            for index in (committed.entry_index, number % ledger.size):
                check_receipt(ledger.receipt(index), index, ledger.verifier_key)
            newest = ledger.checkpoint()
            assert ledger.root(newest.tree_size) == newest.root_hash

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))
    sequencer.stop()
    assert ledger.size == 1 + 16 * 40


def test_who_reads_a_closed_ledger_is_told(ledger: Ledger) -> None:
    begun, told = threading.Event(), []

    def read() -> None:
        try:
            while True:
                for index, _ in ledger.entries():
                    ledger.receipt(index)
                    begun.set()
        except LedgerStopped as error:
            told.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    assert begun.wait(10)
    ledger.close()
    for reader in readers:
        reader.join(10)
    assert len(told) == 4


def test_one_process_at_a_time(tmp_path: Path, ledger: Ledger) -> None:
    with pytest.raises(LedgerInUse, match="another process"):
        reopen(tmp_path)
    assert ledger.size == 1


def test_wrong_keys_do_not_open(tmp_path: Path, ledger: Ledger) -> None:
    ledger.close()
    (tmp_path / "keys" / "realm.key").write_bytes(bytes(32))
    with pytest.raises(LedgerCorrupt):
        reopen(tmp_path)


def test_files_tell_a_plain_tool_nothing(tmp_path: Path, ledger: Ledger) -> None:
    one(ledger, RegisterInstitutionRequest(code="SECRET-CODE", name="机密支行", kind=HEAD))
    ledger.close()
    for path in (tmp_path / "ledger").iterdir():
        content = path.read_bytes()
        for needle in (b"SECRET-CODE", "机密支行".encode(), b"test.example", b"spiffe"):
            assert needle not in content


def test_whatever_ends_the_writers_thread_stops_the_service(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only what a commit raises: a service whose writer is gone would answer nobody."""

    def fail(_: Writer) -> int | None:
        raise OSError("no clock")

    stopped: list[BaseException] = []
    sequencer = Sequencer(ledger, HANDLERS, on_stop=stopped.append)
    monkeypatch.setattr(Writer, "idle_ns", fail)
    sequencer.start()
    sequencer._thread.join(10)
    assert [str(error) for error in stopped] == ["no clock"]
    with pytest.raises(LedgerStopped):
        sequencer.submit(command(institution("A")))
    sequencer.stop()
