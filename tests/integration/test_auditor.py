"""An auditor with a reading of the rules of its own agrees with the service, on random histories through
the public API; and it would not, if the service had other rules.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import core.mechanisms.apply
import core.mechanisms.credentials
import core.portal.answers
import core.portal.commands
import core.procedures.contacts
import core.procedures.erasure
import core.procedures.portal
import core.procedures.queries
import core.procedures.registry
import core.procedures.repeats
import core.procedures.tags
import core.writer
from auditor import Auditor, Finding
from core.decisions import Decision
from core.mechanisms.credentials import ACTIVE, FROZEN, RETIRED, TRANSITIONS, TagAct
from core.suppressed import Suppressed
from histories import WALKS, History, Step, history
from jinku import notes
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Event
from jinku.evidence.entries import Entry
from jinku.evidence.scan import list_entries
from jinku.tiles import Tile, TileTree
from jinku.type.v1.place_pb2 import Custody
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.type.v1.tag_pb2 import Direction
from jinku.v1.ledger_pb2 import GetCheckpointRequest, GetTileRequest
from repository import read
from soak import how_many

# -- random histories

few = st.sampled_from
codes, labels, places = few("ABC"), few("KLM"), few(["V-1", "V-2", "V-9"])
identities = st.integers(1, 4)
antennas = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2)), min_size=1, max_size=4)
commands = st.one_of(
    st.tuples(few(["institution"]), st.tuples(codes, few(["", "A", "B"]))),
    st.tuples(few(["vault"]), st.tuples(codes, codes)),
    st.tuples(few(["portal"]), st.tuples(few(["p", "q"]), places, antennas)),
    st.tuples(few(["box"]), st.tuples(labels, few(["I-1", "I-1", "A"]), places)),
    st.tuples(few(["issue"]), st.tuples(labels, st.integers(-1, 4), few([2, 2, 2, 0, 5]),
                                        st.booleans(), few([0, 0, 0, 1, 2]))),
    st.tuples(few(["tag"]), st.tuples(few(["freeze", "unfreeze", "retire"]), identities)),
    st.tuples(few(["repeat", "alter"]), st.tuples(st.integers(0, 99))),
    st.tuples(few(["contact"]), st.tuples(few(["I-1"]), st.booleans())),
    st.tuples(few(["end"]), st.tuples(few(["I-1"]))),
    st.tuples(few(["erase"]), st.tuples(st.integers(0, 2), few(["registrar", "privacy"]))),
).map(lambda drawn: Step(*drawn))  # fmt: skip
walks = st.tuples(
    st.integers(0, 1), identities, few(sorted(WALKS)), few([False, False, False, True])
).map(lambda drawn: Step("walk", drawn))
# A box with a tag to begin with, so that much of the rest is about something.
BEGINNING = [
    Step("box", ("K", "I-1", "V-1")),
    Step("issue", ("K", 1, 2, False, 0)),
    Step("box", ("L", "I-1", "V-2")),
    Step("issue", ("L", 2, 2, False, 0)),
]
steps = st.lists(st.one_of(commands, commands, commands, walks), min_size=10, max_size=40)
prefixes = itertools.count(1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    with history(tmp_path_factory.mktemp("history")) as made:
        yield made


def check(served: History, drawn: list[Step]) -> None:
    served.begin(f"h{next(prefixes)}-")
    served.run([*BEGINNING, *drawn])
    served.agree()
    found, served.auditor.findings = served.auditor.findings, []
    assert found == []


@given(steps)
@settings(
    max_examples=15, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_the_auditor_agrees(served: History, drawn: list[Step]) -> None:
    check(served, drawn)


@pytest.mark.soak
@given(st.lists(st.one_of(commands, commands, commands, walks), min_size=20, max_size=120))
@settings(max_examples=how_many(400), suppress_health_check=[HealthCheck.too_slow])
def test_the_auditor_agrees_for_long(served: History, drawn: list[Step]) -> None:
    check(served, drawn)


def test_refusals_without_entries_are_counted(served: History) -> None:
    """More than the quota has room for, some of which would have been alarmed."""
    served.begin("quota-")
    served.run(
        [*BEGINNING, *[Step("issue", ("M", 1, 2, False, 0))] * 60, *[Step("alter", (0,))] * 2]
    )
    for number in range(60):
        served.run([Step("alter", (number,))])
    served.wait_counted()
    found, served.auditor.findings = served.auditor.findings, []
    assert found == []
    assert served.auditor.unrecorded > 60


def count_few(directory: Path) -> list[Finding]:
    """Findings of a history in which every second or third refusal is counted."""
    few = {"SEQUENCER__REFUSALS_PER_INTERVAL_MAX": "1", "SEQUENCER__REFUSAL_INTERVAL_SECONDS": "1"}
    with history(directory, **few) as played:
        played.begin("few-")
        played.run([Step("box", ("K", "I-1", "V-1")), Step("issue", ("K", 1, 2, False, 0))])
        checked = 0
        while checked < 4:
            played.run([Step("issue", ("K", 2, 2, False, 7)), Step("alter", (0,))] * 2)
            played.wait_counted()
            checked = played.auditor.check_digests()
            if played.auditor.findings:
                break
        return played.auditor.findings


def test_digests_of_counted_refusals_are_of_those_that_were_answered(tmp_path: Path) -> None:
    assert count_few(tmp_path) == []


def test_a_digest_of_other_refusals_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Suppressed.add

    def add(self: Suppressed, count: int, sequence: int, material: bytes) -> None:
        right(self, count, sequence, material[:-1])

    monkeypatch.setattr(Suppressed, "add", add)
    found = count_few(tmp_path)
    assert "counted refusals is of others" in found[0].what


# -- mutants

# Everything that the rules below are about happens once in it.
SCRIPT = [
    Step("institution", ("A", "")),
    Step("institution", ("A", "")),
    Step("institution", ("B", "C")),
    Step("box", ("K", "I-1", "V-1")),
    Step("box", ("K", "I-1", "V-1")),
    Step("issue", ("K", 1, 2, False, 0)),
    Step("issue", ("K", 2, 2, False, 0)),
    Step("issue", ("K", 2, 2, False, 7)),
    Step("repeat", (0,)),
    Step("alter", (0,)),
    Step("walk", (0, 1, "in", False)),
    Step("walk", (1, 1, "stood", False)),
    Step("walk", (0, 1, "out", False)),
    Step("walk", (0, 1, "in", True)),
    Step("tag", ("freeze", 1)),
    Step("tag", ("freeze", 1)),
    Step("walk", (0, 1, "in", False)),
    Step("issue", ("K", 3, 2, True, 0)),
    Step("tag", ("unfreeze", 1)),
    Step("tag", ("retire", 3)),
    Step("issue", ("K", 3, 2, False, 0)),
    Step("contact", ("I-1", False)),
    Step("contact", ("I-1", False)),
    Step("erase", (0, "registrar")),
    Step("end", ("I-1",)),
    Step("erase", (0, "privacy")),
    Step("contact", ("I-1", False)),
    Step("contact", ("I-1", True)),
    Step("erase", (1, "registrar")),
    Step("erase", (1, "registrar")),
]


def play(directory: Path) -> list[Finding]:
    """What the auditor finds in the script's history. A service that stops has found it itself."""
    with history(directory, patience_s=3) as played:
        played.begin("m-")
        played.run(SCRIPT)
        played.agree()
        return played.auditor.findings


def transition(state: int, act: TagAct, after: int) -> Callable[[pytest.MonkeyPatch], None]:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        changed = {**TRANSITIONS, (state, act): after}
        patch.setattr(core.mechanisms.credentials, "TRANSITIONS", changed)

    return mutate


def on_record_passage(change: Callable[[Any, list[Event]], list[Event]]) -> Any:
    """RecordPassage decides something else."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        for request, handler in core.procedures.portal.PORTAL_HANDLERS.items():
            if request.__name__ != "RecordPassage":
                continue

            def decide(
                asked: Any, state: Any, context: Any, right: Any = handler.decide
            ) -> Decision:
                decision = right(asked, state, context)
                return Decision(change(asked, list(decision.events)), decision.reasons)

            wrong = dataclasses.replace(handler, decide=decide)
            patch.setitem(core.procedures.portal.PORTAL_HANDLERS, request, wrong)

    return mutate


def without_alarm(_: Any, events: list[Event]) -> list[Event]:
    return [event for event in events if not event.HasField("alarm_raised")]


def without_custody(_: Any, events: list[Event]) -> list[Event]:
    return [event for event in events if not event.HasField("custody_moved")]


def custody_of_the_gate(asked: Any, events: list[Event]) -> list[Event]:
    """Whoever carries a box out is called accountable: nobody handed it over."""
    for event in events:
        if event.HasField("custody_moved") and asked.direction == Direction.DIRECTION_OUT:
            event.custody_moved.after.holder_id = event.custody_moved.before.holder_id[:-1] + b"\7"
    return events


def replace_in(module: Any, name: str, wrong: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(module, name, wrong)


def identity_bound_again(patch: pytest.MonkeyPatch) -> None:
    """Issued to nobody's surprise: the identity of a tag that is dead."""
    transition(RETIRED, TagAct.ISSUE, ACTIVE)(patch)
    right = core.mechanisms.apply.APPLY["tag_issued"]

    def apply(event: Any, state: Any, where: Any) -> None:
        find = state.find
        state.find = lambda kind, name: None if kind == "tag-identity" else find(kind, name)
        right(event, state, where)
        state.find = find

    patch.setattr(
        core.mechanisms.apply, "APPLY", {**core.mechanisms.apply.APPLY, "tag_issued": apply}
    )


def any_parent(patch: pytest.MonkeyPatch) -> None:
    right = core.procedures.registry._institution
    patch.setattr(
        core.procedures.registry, "_institution", lambda state, code: (right(state, code)[0], [])
    )


def wrong_holder_told(patch: pytest.MonkeyPatch) -> None:
    right = core.procedures.queries._describe

    def describe(container_id: bytes, row: Any, state: Any) -> Any:
        answer = right(container_id, row, state)
        answer.custody.CopyFrom(Custody(holder_id=row.institution_id, place=1))
        return answer

    patch.setattr(core.procedures.queries, "_describe", describe)


def clock_goes_back(patch: pytest.MonkeyPatch) -> None:
    steps_back = itertools.count(1)
    right = core.writer._header

    def header(command: Any, context: Any, decision: Any) -> Any:
        made = right(command, context, decision)
        made.decided_at_ns -= next(steps_back) * 10**12
        return made

    patch.setattr(core.writer, "_header", header)


def refusal_called_accepted(patch: pytest.MonkeyPatch) -> None:
    right = core.writer._header

    def header(command: Any, context: Any, decision: Any) -> Any:
        made = right(command, context, decision)
        made.outcome = 1
        return made

    patch.setattr(core.writer, "_header", header)


def first_reason_alone(patch: pytest.MonkeyPatch) -> None:
    right = core.writer._header
    patch.setattr(
        core.writer,
        "_header",
        lambda command, context, decision: right(
            command, context, decision._replace(reasons=decision.reasons[:1])
        ),
    )


def erased_in_office(patch: pytest.MonkeyPatch) -> None:
    right = core.procedures.erasure._erasure_faults
    still = ReasonCode.REASON_CODE_CONTACT_NOT_ENDED
    patch.setattr(
        core.procedures.erasure,
        "_erasure_faults",
        lambda *given: [one for one in right(*given) if one.code != still],
    )


def erased_on_one_word(patch: pytest.MonkeyPatch) -> None:
    """Whoever confirms is taken for another than asked."""
    right = core.procedures.erasure.decide_confirm_erasure
    patch.setattr(
        core.procedures.erasure,
        "decide_confirm_erasure",
        lambda request, state, context, office: right(
            request, state, dataclasses.replace(context, device_id=bytes(16)), office
        ),
    )


def end_called_erasure(patch: pytest.MonkeyPatch) -> None:
    right = core.procedures.contacts._current_faults

    def faults(*given: Any) -> list[Any]:
        found = right(*given)
        for one in found:
            one.code = ReasonCode.REASON_CODE_SUBJECT_ERASED
        return found

    patch.setattr(core.procedures.contacts, "_current_faults", faults)


Mutate = Callable[[pytest.MonkeyPatch], None]
# By what is wrong: how it is made so, and what of it the auditor says.
MUTANTS: dict[str, tuple[Mutate, str]] = {
    "a frozen tag is frozen again": (
        transition(FROZEN, TagAct.FREEZE, FROZEN),
        "FreezeTagRequest ought to be [305], it is accepted",
    ),
    "a dead tag lives again": (transition(RETIRED, TagAct.UNFREEZE, ACTIVE), "goes from 3 to 1"),
    "an identity is bound again": (identity_bound_again, "is bound a second time"),
    "a name is given twice": (
        replace_in(core.procedures.registry, "_taken", lambda *_: []),
        "box m-K is there already",
    ),
    "an institution below none": (
        any_parent,
        "RegisterInstitutionRequest ought to be [202], it is accepted",
    ),
    "a key that is not loaded": (
        replace_in(core.procedures.tags, "_key_version", lambda *_: 1),
        "IssueTagRequest ought to be [302, 309], it is [302]",
    ),
    "only the first reason is told": (first_reason_alone, "ought to be [302, 309], it is [302]"),
    "a passage in moves no custody": (on_record_passage(without_custody), "custody of m-K"),
    "a passage out moves it to nobody": (on_record_passage(custody_of_the_gate), "nobody holds"),
    "an undetermined passage is not alarmed": (
        on_record_passage(without_alarm),
        "a passage of direction 5 has alarms []",
    ),
    "a gate takes what is another vault's": (
        replace_in(core.portal.answers.Presenter, "_may_be_here", lambda *_: True),
        "is held for [], it ought to be for [408]",
    ),
    "another cause is told": (
        replace_in(core.portal.commands, "cause_of", lambda *_: 405),
        "is held for [405], it ought to be for [404]",
    ),
    "another body gets the first answer": (
        replace_in(core.writer, "_is_same", lambda *_: True),
        "is the answer to another request",
    ),
    "a reused id is not alarmed": (
        replace_in(
            core.writer,
            "decide_reused",
            lambda *given: core.procedures.repeats.decide_reused(*given)._replace(events=[]),
        ),
        "a used command id was not alarmed",
    ),
    "a refusal is called accepted": (refusal_called_accepted, "accepted, for reasons against it"),
    "somebody in office is erased": (
        erased_in_office,
        "RequestErasureRequest ought to be [604], it is accepted",
    ),
    "an erasure is asked for twice": (
        replace_in(core.procedures.erasure, "waiting_request", lambda *_: None),
        "RequestErasureRequest ought to be [612], it is accepted",
    ),
    "who asks for an erasure confirms it": (
        erased_on_one_word,
        "ConfirmErasureRequest ought to be [614], it is accepted",
    ),
    "a contact that ended is called erased": (
        end_called_erasure,
        "EndContactRequest ought to be [603], it is [607]",
    ),
    "the clock goes back": (clock_goes_back, "decided before the one before it"),
    "a query answers another holder": (wrong_holder_told, "its holder is"),
}


def test_the_script_is_right(tmp_path: Path) -> None:
    """The control: by the rules as they are, nothing is found."""
    assert play(tmp_path) == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_service_with_another_rule_is_found_out(
    mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate, said = MUTANTS[mutant]
    mutate(monkeypatch)
    found = play(tmp_path)
    assert any(said in finding.what for finding in found), found


def test_the_auditor_shares_nothing_with_core() -> None:
    for name in ("auditor.py", "auditor_books.py", "auditor_requests.py"):
        path = f"tests/support/{name}"
        imported = [
            node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.walk(ast.parse(read(path)))
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert imported
        assert not [one for one in imported if re.match(r"core|grpc_api|native", one or "")]


# -- the list of entries


@pytest.mark.req("MON-09")
def test_an_altered_list_is_named(served: History) -> None:
    """Entries as the service listed them, one of them changed, left out, moved or cut off: the tiles
    that the checkpoint signs for say which.
    """
    served.begin("altered-")
    served.run(BEGINNING)
    listed = list(list_entries(served.ledger, 2**63))
    tree, checkpoint = signed_tree(served, len(listed))
    assert audit(listed, tree, checkpoint) == []
    for at in range(0, len(listed), max(1, len(listed) // 12)):
        entry = listed[at]
        header = EntryHeader.FromString(entry.header_bytes)
        header.salt = os.urandom(16)
        changed = Entry(header.SerializeToString(deterministic=True), entry.events_bytes)
        other = listed[at + 1 :]
        for wrong in ([*listed[:at], changed, *other], [*listed[:at], *other], listed[:at],
                      [*listed[:at], *other[:1], entry, *other[1:]]):  # fmt: skip
            if wrong != listed:
                assert at in {found.index for found in audit(wrong, tree, checkpoint)}


def signed_tree(served: History, size: int) -> tuple[TileTree, notes.Checkpoint]:
    answer = served.ledger.get_checkpoint(GetCheckpointRequest())
    key = notes.VerifierKey.parse(answer.verifier_key)
    checkpoint = notes.open_checkpoint(answer.checkpoint, key)
    assert checkpoint.tree_size == size

    def fetch(tile: Tile) -> bytes:
        request = GetTileRequest(level=tile.level, tile_index=tile.index, width=tile.width)
        return served.ledger.get_tile(request).hashes

    return TileTree(size, fetch), checkpoint


def audit(entries: list[Entry], tree: TileTree, checkpoint: notes.Checkpoint) -> list[Finding]:
    """What an auditor finds who is given these entries, and knows no requests."""
    auditor = Auditor()
    for entry in entries:
        auditor.take(entry.header_bytes, entry.events_bytes)
    auditor.check_leaves(tree, checkpoint)
    return auditor.findings
