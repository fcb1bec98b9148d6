"""The demonstration told to a person, with the service's own texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from jinku.accounts import DIRECTIONS
from jinku.demo.expect import alarms_of
from jinku.demo.play import Door
from jinku.type.v1.tag_pb2 import Direction, GateDecision
from jinku.v1.common_pb2 import Reason
from jinku.v1.portal_pb2 import Passage

VERDICT_NAMES = {
    "genuine": ("真实", "genuine"),
    "unknown_tag": ("未登记", "unknown tag"),
    "bad_evidence": ("证据伪造", "forged evidence"),
    "replayed": ("重放", "replayed"),
    "not_active": ("非有效状态", "not active"),
    "no_evidence": ("无证据", "no evidence"),
    "malformed": ("格式错误", "malformed"),
}
SAMPLE = 3
STYLES = {
    Direction.DIRECTION_IN: "green",
    Direction.DIRECTION_OUT: "green",
    Direction.DIRECTION_UNDETERMINED: "yellow",
}


class Teller:
    """Says everything in one language or in both."""

    def __init__(self, console: Console, language: str) -> None:
        self.console = console
        self.language = language

    def text(self, zh: str, en: str) -> str:
        return {"zh": zh, "en": en}.get(self.language, f"{zh} / {en}")

    def step(self, zh: str, en: str) -> None:
        self.console.print(f"[bold cyan]▸[/] {self.text(zh, en)}")

    def done(self, zh: str, en: str) -> None:
        self.console.print(f"  [green]✓[/] {self.text(zh, en)}")

    def wrong(self, line: str) -> None:
        self.console.print(f"  [red]✗[/] {line}", markup=True)

    def reason(self, reason: Reason) -> list[str]:
        """Number, name and where it comes from; then the text, in the languages asked for."""
        head = f"[bold]{reason.code} {reason.name}[/] · {reason.requirement} · {reason.article}"
        texts = {"zh": [reason.text_zh], "en": [reason.text_en]}
        return [head, *texts.get(self.language, [reason.text_zh, reason.text_en])]

    def verified(self, doors: Sequence[Door]) -> None:
        counts: Counter[str] = sum((door.observed.verdicts for door in doors), Counter())
        table = Table("", self.text("读取", "reads"), box=None, padding=(0, 2))
        for name, words in VERDICT_NAMES.items():
            if counts[name]:
                style = "green" if name == "genuine" else "red"
                table.add_row(self.text(*words), str(counts[name]), style=style)
        self.console.print(table)

    def gates(self, doors: Sequence[Door]) -> None:
        for door in doors:
            shown = door.observed.presented
            decided = {tag.identity: tag.decision for tag in shown}
            counts = Counter(decided.values())
            released = counts[GateDecision.GATE_DECISION_RELEASE]
            held = counts[GateDecision.GATE_DECISION_HOLD]
            self.done(
                f"放行 {released} 个款箱, 拦截 {held} 个标签",
                f"{released} boxes released, {held} tags held",
            )

    def alarms(self, doors: Sequence[Door]) -> None:
        for door in doors:
            for case in door.cases:
                for alarm in alarms_of(door, case)[:1]:
                    label = alarm.container_label or case.identity.hex()
                    name = self.text(case.name_zh, case.name_en)
                    self.console.print(f"  [red]■[/] [bold]{name}[/]  {label}")
                    for reason in alarm.reasons:
                        for line in self.reason(reason):
                            self.console.print(f"      {line}")

    def passages(self, doors: Sequence[Door]) -> None:
        """Counts of every direction, and a few passages of each."""
        passages = [passage for door in doors for passage in door.observed.passages]
        table = Table(
            self.text("方向", "direction"),
            self.text("次数", "count"),
            self.text("例", "for example"),
            box=None,
            padding=(0, 2),
        )
        for number, words in DIRECTIONS.items():
            found = [passage for passage in passages if passage.direction == number]
            if found:
                examples = "; ".join(self.example(passage) for passage in found[:SAMPLE])
                table.add_row(
                    self.text(*words), str(len(found)), examples, style=STYLES.get(number, "dim")
                )
        self.console.print(table)
        self.undetermined(passages)

    def example(self, passage: Passage) -> str:
        reads = f"{passage.reads_inner}+{passage.reads_outer}"
        return f"{passage.container_label} {passage.confidence_permille / 10:g}% ({reads})"

    def undetermined(self, passages: Sequence[Passage]) -> None:
        reasons = (
            reason
            for passage in passages
            if passage.direction == Direction.DIRECTION_UNDETERMINED
            for reason in passage.reasons
        )
        first = next(reasons, None)
        if first is not None:
            for line in self.reason(first):
                self.console.print(f"      {line}", style="yellow")
