"""Records the golden journal, and extends it: `.venv/bin/python tests/golden/extend.py`.

Whatever is recorded stays, to the byte. A scenario that has no stage yet is played on the ledger that
the recorded entries make, and its entries are appended. Add one at the end of SCENARIOS for a new
command, event or field; `tests/golden/test_golden.py` says what is not covered.

    --tables    record the tables' digests anew, after a deliberate change of rows or sealing
    --answers   record the answers anew, after fields were added to responses
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from google.protobuf.message import Message

import golden
from core.ledger.ledger import Ledger
from core.ledger.tables import IndexKind
from core.realm import principal_of
from core.refusals import Quota
from core.sequencer import Command, Writer
from core.store.v1.commands_pb2 import (
    KeepCounters,
    PruneReadSegment,
    RaisePortalAlarm,
    RaiseTimeAlarm,
    RecordPassage,
    SealReadSegment,
)
from core.store.v1.personal_pb2 import CarryErasure
from jinku.type.v1.command_pb2 import (
    CommandId,
    CountersCommandId,
    Extra,
    PassageCommandId,
    SchedulerCommandId,
    SegmentCommandId,
)
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.type.v1.tag_pb2 import Direction
from jinku.v1.contact_pb2 import EndContactRequest
from jinku.v1.registry_pb2 import IssueTagRequest, RegisterContainerRequest
from persons import REALM, TRUST_DOMAIN, Persons, change, found, register
from registrar import container, freeze, institution, issue, portal, retire, unfreeze, vault

OWN = principal_of(TRUST_DOMAIN, REALM, "service", "jinkud")
EPOCH = 1_700_000_000_000_000_000
NS = 1_000_000_000


def identity(number: int, size: int = 12) -> bytes:
    return bytes([0x33, number]) * (size // 2) + b"\x01" * (size % 2)


def own(persons: Persons, request: Message, command_id: CommandId) -> bytes:
    """A command that the service gives itself; the first id that it made."""
    committed = persons.commit(Command(request, OWN, b"", command_id))
    made: list[bytes] = list(committed.header.made_ids)
    return made[0] if made else b""


# ── scenarios: once recorded, never changed ─────────────────────────────────────────────────────


def registry(persons: Persons) -> None:
    """What there is, tags and their lives; refusals, and ids that come with another body."""
    extras = [
        Extra(name="note", text="新箱"),
        Extra(name="count", number=-3),
        Extra(name="bought", time_ns=EPOCH),
        Extra(name="photo", data=b"\x00\xff"),
    ]
    for request in (
        institution("1", ""), institution("2", "1"), vault("V", "2"), portal("gate", "V"),
        container("B-1", "2", "V"), issue(identity(1), "B-1"), freeze(identity(1)),
        unfreeze(identity(1)), issue(identity(2, 16), "B-1", replaces=True), retire(identity(2, 16)),
        issue(identity(3, 7), "B-1", scheme="TAG_SCHEME_COUNTER_CMAC", key_version=1),
    ):  # fmt: skip
        persons.accept(request)
    bag: Any = {"kind": "CONTAINER_KIND_CASH_BAG"}
    request = RegisterContainerRequest(
        institution_code="2", label="B-2", vault_code="V", extras=extras, **bag
    )
    persons.accept(request)
    assert persons.refuse(container("B-2", "2", "V"))
    assert persons.refuse(issue(identity(1), "B-9"))
    first = persons.command(container("B-3", "2", "V"))
    persons.commit(first)
    another = container("B-4", "2", "V")
    another.command_id.CopyFrom(first.command_id.client)
    digest = sha256(another.SerializeToString()).digest()
    persons.commit(Command(another, first.principal, first.device_id, first.command_id, digest))
    batch = [persons.command(container(f"C-{number}", "2", "V")) for number in range(3)]
    persons.writer.commit([*batch, persons.command(IssueTagRequest(
        container_label="C-1", identity=identity(4, 8), scheme="TAG_SCHEME_TAM1",  # type: ignore[arg-type]
    ))])  # fmt: skip


def reads(persons: Persons) -> None:
    """What a portal's reads cause: alarms, passages that move custody, segments."""
    with persons.ledger.read() as state:
        gate = state.find(IndexKind.PORTAL_NAME, b"gate") or b""
        tag = state.find(IndexKind.TAG_IDENTITY, identity(3, 7)) or b""
    forged = ReasonRecord(code=ReasonCode.REASON_CODE_TAG_EVIDENCE_FORGED, item="3303", item_id=tag)

    def passage_id(sequence: int, stage: int, about: bytes = tag) -> CommandId:
        made = PassageCommandId(
            portal_id=gate, portal_epoch=EPOCH, tag=about, first_sequence=sequence,
            stage=stage,  # type: ignore[arg-type]
        )  # fmt: skip
        return CommandId(passage=made)

    own(persons, RaisePortalAlarm(
        portal_id=gate, identity=identity(3, 7), reasons=[forged], seen_at_ns=EPOCH + NS,
    ), passage_id(1, 1))  # fmt: skip
    own(persons, RaisePortalAlarm(
        portal_id=gate, identity=identity(99), seen_at_ns=EPOCH + 2 * NS,
        reasons=[ReasonRecord(code=ReasonCode.REASON_CODE_TAG_UNKNOWN, item="3363")],
    ), passage_id(2, 1, bytes(32)))  # fmt: skip
    own(persons, RaisePortalAlarm(
        portal_id=gate, seen_at_ns=EPOCH + 3 * NS, suppressed_count=5, suppressed_digest=bytes(32),
        reasons=[ReasonRecord(code=ReasonCode.REASON_CODE_ALARMS_SUPPRESSED, item="gate")],
    ), passage_id(3, 1, b"\x01" * 32))  # fmt: skip
    directions = (
        Direction.DIRECTION_OUT, Direction.DIRECTION_IN, Direction.DIRECTION_TURNED_BACK,
        Direction.DIRECTION_STRAY, Direction.DIRECTION_UNDETERMINED,
    )  # fmt: skip
    for number, direction in enumerate(directions, 4):
        own(persons, RecordPassage(
            portal_id=gate, tag_id=tag, direction=direction, confidence_permille=900 - number,
            first_read_ns=EPOCH + number * NS, last_read_ns=EPOCH + number * NS + 7,
            reads_inner=number, reads_outer=number + 1, portal_epoch=EPOCH,
            first_sequence=number, last_sequence=number + 1,
        ), passage_id(number, 2))  # fmt: skip
    for first, step in ((1, 1), (9, 1), (1, 2)):
        segment = SegmentCommandId(
            portal_id=gate, portal_epoch=EPOCH, first_sequence=first,
            step=step,  # type: ignore[arg-type]
        )  # fmt: skip
        request: Message = SealReadSegment(
            portal_id=gate, portal_epoch=EPOCH, first_sequence=first, last_sequence=first + 7,
            reads=100, digest=bytes([first]) * 32, first_received_ns=EPOCH,
            last_received_ns=EPOCH + NS,
        )  # fmt: skip
        if step == 2:
            request = PruneReadSegment(
                portal_id=gate, portal_epoch=EPOCH, first_sequence=first, retention_days=30
            )
        own(persons, request, CommandId(segment=segment))


def time_alone(persons: Persons) -> None:
    """Refusals beyond a caller's quota, counted when the interval is over; a clock that jumped."""
    writer = Writer(persons.ledger, persons.table, quota=Quota(2, NS // 10))
    first = persons.command(container("Q-1", "2", "V"))
    writer.commit([first])
    for number in range(5):
        writer.commit([persons.command(container("B-2", "2", "V"))])
        other = container(f"Q-{number + 2}", "2", "V")
        other.command_id.CopyFrom(first.command_id.client)
        digest = sha256(other.SerializeToString()).digest()
        writer.commit([Command(other, first.principal, first.device_id, first.command_id, digest)])
    time.sleep(0.15)
    assert len(writer.tend()) == 2
    job = SchedulerCommandId(job="clock", due_ns=EPOCH)
    jump = RaiseTimeAlarm(expected_ns=EPOCH, shown_ns=EPOCH + 90 * NS, further_count=2)
    own(persons, jump, CommandId(scheduler=job))


def people(persons: Persons) -> None:
    """Personal values: committed to, read, and erased with the keys to them."""
    stays, goes, lost = persons.contact("11"), persons.contact("12"), persons.contact("13")
    persons.former("14")
    persons.accept(change(stays, telephone="+86 10 1234 5678"))
    persons.read(stays, with_superseded=True, with_openings=True)
    persons.accept(register("12", "诸葛亮", replaces=True))
    assert persons.refuse(EndContactRequest(contact_id=goes))
    persons.erase(goes)
    assert persons.eraser.complete()
    job = SchedulerCommandId(job="erasures", due_ns=EPOCH)
    own(persons, CarryErasure(subject_id=lost), CommandId(scheduler=job))


def counters(persons: Persons) -> None:
    """Segments of batches with counters, and the counters that are kept in their stead."""
    with persons.ledger.read() as state:
        gate = state.find(IndexKind.PORTAL_NAME, b"gate") or b""
    for first in (17, 25):
        segment = SegmentCommandId(
            portal_id=gate, portal_epoch=EPOCH, first_sequence=first, step="SEGMENT_STEP_SEAL"
        )
        own(persons, SealReadSegment(
            portal_id=gate, portal_epoch=EPOCH, first_sequence=first, last_sequence=first + 7,
            reads=100, digest=bytes([first]) * 32, first_received_ns=EPOCH,
            last_received_ns=EPOCH + NS, first_turn=first, end_turn=first + 9, counter_batches=5,
        ), CommandId(segment=segment))  # fmt: skip
    for turn in (0, 26, 34):
        request = KeepCounters(turn=turn, tags=turn // 2, digest=bytes([turn]) * 32)
        own(persons, request, CommandId(counters=CountersCommandId(turn=turn)))
    segment = SegmentCommandId(
        portal_id=gate, portal_epoch=EPOCH, first_sequence=17, step="SEGMENT_STEP_PRUNE"
    )
    own(persons, PruneReadSegment(
        portal_id=gate, portal_epoch=EPOCH, first_sequence=17, retention_days=60,
        retention_article="B3 视频监控",
    ), CommandId(segment=segment))  # fmt: skip


def about_boxes(persons: Persons) -> None:
    """Tags that a box is refused, for reasons whose item is another: the box is named all the same."""
    for request in (
        issue(identity(1), "B-2"), issue(bytes(12), "B-2"), issue(identity(5), "B-2", key_version=9),
    ):  # fmt: skip
        assert persons.refuse(request)


SCENARIOS: tuple[Callable[[Persons], None], ...] = (
    registry, reads, time_alone, people, counters, about_boxes,
)  # fmt: skip


# ── recording ───────────────────────────────────────────────────────────────────────────────────


def rebuild(directory: Path, stages: list[golden.Json], anew: bool) -> None:
    """The ledger that the recorded entries make; with `anew`, the tables' digests of its stages."""
    golden.place_keys(directory)
    ledger = golden.open_ledger(directory)
    sizes = {stage["size"]: stage for stage in stages}
    for size in golden.replay(ledger, golden.read_commits()):
        if anew and size in sizes:
            sizes[size]["tables"] = golden.digest_tables(ledger)
    golden.put_beside(ledger)
    ledger.close()


def play(directory: Path, scenario: Callable[[Persons], None]) -> golden.Json:
    """A scenario's stage."""
    persons = Persons(directory)
    try:
        scenario(persons)
        return stage_of(persons.ledger, scenario.__name__)
    finally:
        persons.close()


def stage_of(ledger: Ledger, name: str) -> golden.Json:
    return {
        "name": name,
        "size": ledger.size,
        "checkpoint": ledger.checkpoint().note,
        "tables": golden.digest_tables(ledger),
    }


def write(name: str, content: Any) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    (golden.DIRECTORY / name).write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--answers", action="store_true")
    options = parser.parse_args()
    begun = (golden.DIRECTORY / golden.JOURNAL).exists()
    expected = golden.read(golden.EXPECTED) if begun else {"stages": [], "entries": []}
    stages, entries = expected["stages"], expected["entries"]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        if begun:
            rebuild(directory, stages, options.tables)
        else:
            found(directory)
        for scenario in SCENARIOS[len(stages) :]:
            stages.append(play(directory, scenario))
        ledger = golden.open_ledger(directory)
        with (golden.DIRECTORY / golden.JOURNAL).open("a", encoding="utf-8") as journal:
            for commit in golden.commits_of(ledger, len(entries)):
                journal.write(golden.write_commit(commit))
        known = 0 if options.answers else len(entries)
        for index in range(known, ledger.size):
            described = golden.describe(ledger, index)
            if index < len(entries):
                entries[index]["answer"] = described["answer"]
            else:
                entries.append(described)
        write(golden.EXPECTED, expected)
        write(golden.BESIDES, golden.list_beside(ledger))
        ledger.close()
        keys = {
            path.relative_to(directory / "keys").as_posix(): path.read_bytes()
            for path in sorted((directory / "keys").rglob("*"))
            if path.is_file()
        }
        write(golden.KEYS, {name: base64.b64encode(key).decode() for name, key in keys.items()})
    commits = golden.read_commits()
    print(f"{len(entries)} entries in {len(commits)} commits, {len(stages)} stages")
    for missing in (*golden.missing_commands(commits), *golden.missing_fields(commits)):
        print(f"not covered: {missing}")


if __name__ == "__main__":
    main()
