"""What the demonstration must have seen, and what it did see: the differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from jinku.demo.play import CASE_READS, Case, Door
from jinku.type.v1.reason_pb2 import ReasonCode
from jinku.type.v1.tag_pb2 import GateDecision
from jinku.v1.portal_pb2 import Alarm

UNDETERMINED = ReasonCode.REASON_CODE_PASSAGE_UNDETERMINED
VERDICTS = {
    ReasonCode.REASON_CODE_TAG_UNKNOWN: "unknown_tag",
    ReasonCode.REASON_CODE_TAG_EVIDENCE_FORGED: "bad_evidence",
    ReasonCode.REASON_CODE_TAG_EVIDENCE_REPLAYED: "replayed",
    ReasonCode.REASON_CODE_TAG_FROZEN: "not_active",
}


def find_differences(doors: Sequence[Door]) -> list[str]:
    """One line per expectation that was not met; none if all were."""
    return [line for door in doors for line in [*check_reads(door), *check_tags(door)]]


def check_reads(door: Door) -> list[str]:
    """Every read is accounted for, here and by its verdict there."""
    accounts = door.client.accounts
    taken = door.reads_total + CASE_READS * len(door.cases)
    lines = []
    if (accounts.taken, accounts.acknowledged) != (taken, taken):
        lines.append(f"{taken} reads were made, the accounts say {accounts}")
    if accounts.streams < 2:
        lines.append("the line was not broken")
    expected = Counter({"genuine": door.reads_total})
    expected.update({VERDICTS[case.reason]: CASE_READS for case in door.cases})
    # The word about these was lost with the line; what they were worth is in the read log.
    expected["genuine"] -= accounts.unheard
    if door.observed.verdicts != expected:
        lines.append(f"verdicts {dict(door.observed.verdicts)}, expected {dict(expected)}")
    return lines


def alarms_of(door: Door, case: Case) -> list[Alarm]:
    return [alarm for alarm in door.observed.alarms if alarm.identity == case.identity]


def check_tags(door: Door) -> list[str]:
    """Each case held and alarmed for its own reason; each recorded box released; no other alarm."""
    lines = []
    decisions: dict[bytes, set[int]] = {}
    for tag in door.observed.presented:
        decisions.setdefault(tag.identity, set()).add(tag.decision)
    for case in door.cases:
        codes = {reason.code for alarm in alarms_of(door, case) for reason in alarm.reasons}
        if codes != {case.reason}:
            names = [ReasonCode.Name(code) for code in codes]
            lines.append(f"{case.name_en}: alarmed for {names or 'nothing'}")
        if decisions.get(case.identity) != {GateDecision.GATE_DECISION_HOLD}:
            lines.append(f"{case.name_en}: gate decisions {decisions.get(case.identity)}")
    lines += [
        f"{own.identity.hex()}: gate decisions {decisions.get(own.identity)}"
        for own in door.tags
        if decisions.get(own.identity) != {GateDecision.GATE_DECISION_RELEASE}
    ]
    judged = {passage.container_label for passage in door.observed.passages}
    lines += [f"{label}: no passage" for label in door.labels if label not in judged]
    meant = {case.identity for case in door.cases}
    # A passage that cannot be decided is alarmed too, so that somebody looks where the box is.
    others = [alarm for alarm in door.observed.alarms if alarm.identity not in meant]
    lines += [
        f"unexpected alarm about {alarm.identity.hex()}: {[r.name for r in alarm.reasons]}"
        for alarm in others
        if {reason.code for reason in alarm.reasons} != {UNDETERMINED}
    ]
    return lines
