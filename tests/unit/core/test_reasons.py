"""The catalogue is total, in both languages, and every mistake in it is caught when it is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources

import pytest

from core.reasons import CATALOGUE, NO_ITEM, PREFIX, explain, read_catalogue, refusal
from jinku.type.v1 import reason_pb2
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord

TEXT = resources.files("core").joinpath("reasons.toml").read_text(encoding="utf-8")
CODES = [number for number in ReasonCode.values() if number]
ARTICLE = re.compile(r"—|(?:A|B[1-5](?:-RFID)?) \S.*")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def test_every_reason_stands_in_the_catalogue() -> None:
    assert list(CATALOGUE) == CODES


@pytest.mark.parametrize("code", CODES, ids=ReasonCode.Name)
def test_reason_is_explained(code: ReasonCode) -> None:
    reason = explain(ReasonRecord(code=code, item="K-7", item_id=b"i" * 16))
    assert reason.code == code
    assert PREFIX + reason.name == ReasonCode.Name(code)
    assert ARTICLE.fullmatch(reason.article)
    assert re.fullmatch(r"[A-Z]{3}-\d{2}", reason.requirement)
    assert reason.text_en.endswith(".")
    assert not CHINESE.search(reason.text_en)
    assert reason.text_zh.endswith("。")
    assert CHINESE.search(reason.text_zh)
    assert ("K-7" in reason.text_en) == ("K-7" in reason.text_zh)
    assert (reason.item, reason.item_id) == ("K-7", b"i" * 16)


@pytest.mark.parametrize("code", CODES, ids=ReasonCode.Name)
def test_text_says_what_is_wrong_and_what_to_do(code: ReasonCode) -> None:
    entry = CATALOGUE[code]
    assert len(re.findall(r"[.;:](?: |$)", entry.en)) >= 2
    assert len(re.findall(r"[。；：，]", entry.zh)) >= 2


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (ReasonRecord(code=reason_pb2.REASON_CODE_TAG_UNKNOWN, item="{0} {x}"), "{0} {x}: this"),
        (ReasonRecord(code=reason_pb2.REASON_CODE_TAG_UNKNOWN, item_id=b"\xab"), "ab: this"),
        (ReasonRecord(code=reason_pb2.REASON_CODE_TAG_UNKNOWN), f"{NO_ITEM}: this"),
    ],
)
def test_item_is_shown_as_it_is(record: ReasonRecord, shown: str) -> None:
    assert shown in explain(record).text_en


def test_refusal_keeps_the_order() -> None:
    records = [ReasonRecord(code=ReasonCode.Name(code)) for code in reversed(CODES)]
    assert [one.code for one in refusal(records).reasons] == CODES[::-1]


def test_number_that_nobody_knows_is_no_answer() -> None:
    with pytest.raises(KeyError):
        explain(ReasonRecord(code=99_999))  # type: ignore[arg-type]


def drop_first(text: str) -> str:
    return text[: text.index("[COMMAND")] + text[text.index("[INSTITUTION_EXISTS") :]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop_first, "COMMAND_ID_REUSED"),
        (lambda text: text + "\n[NOBODY_KNOWS]\n", "NOBODY_KNOWS"),
        (lambda text: text + text[text.index("[BATCH_MALFORMED") :], "BATCH_MALFORMED"),
        (lambda text: drop_first(text) + text[: text.index("[INSTITUTION_EXISTS")], "order"),
        (lambda text: text.replace('zh = "款箱 {item} 未登记', 'zh = "{who} 未登记'), "item"),
        (lambda text: text.replace('"MSG-05"', '"MSG-5"', 1), "MSG-5"),
        (lambda text: text.replace('article = "—"', 'article = ""', 1), "article"),
        (lambda text: text.replace('article = "—"', "", 1), "BATCH_EMPTY"),
        (lambda text: text.replace('article = "—"', 'article = "—"\nno = 1', 1), "BATCH_EMPTY"),
    ],
)
def test_mistake_is_caught(spoil: Callable[[str], str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_catalogue(spoil(TEXT))
