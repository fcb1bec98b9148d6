"""The catalogue of reasons: what each number of ReasonCode is called, requires and says.

The texts live in reasons.toml. A number without a text, a text without a number, a text twice or a
placeholder that cannot be filled is an error when this module is imported, not when a person waits
for the answer.
"""

from __future__ import annotations

import re
import string
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.v1.common_pb2 import Reason, Refusal

PREFIX = "REASON_CODE_"
KEYS = frozenset({"requirement", "article", "en", "zh"})
PLACEHOLDERS = frozenset({"item"})
REQUIREMENT = re.compile(r"[A-Z]{3}-\d{2}")
# Where a record names no item.
NO_ITEM = "—"


@dataclass(frozen=True, slots=True)
class Entry:
    """One reason of the catalogue; the texts are templates."""

    name: str
    requirement: str
    article: str
    en: str
    zh: str


def read_catalogue(text: str) -> Mapping[int, Entry]:
    """The catalogue by number, in order of numbers.

    ValueError names what is missing, unknown, out of order, twice or wrong in it.
    """
    # A table that stands twice is refused by tomllib, as a ValueError.
    tables = tomllib.loads(text)
    numbers = {name.removeprefix(PREFIX): number for name, number in ReasonCode.items() if number}
    missing = [name for name in numbers if name not in tables]
    unknown = [name for name in tables if name not in numbers]
    if missing or unknown:
        raise ValueError(f"reasons without a text: {missing}; texts without a reason: {unknown}")
    if list(tables) != list(numbers):
        raise ValueError("the texts do not stand in the order of the reasons' numbers")
    return MappingProxyType({numbers[name]: _entry(name, table) for name, table in tables.items()})


def _entry(name: str, table: Any) -> Entry:
    if not isinstance(table, dict) or table.keys() != KEYS:
        raise ValueError(f"{name}: a reason has {sorted(KEYS)} and nothing else")
    empty = sorted(key for key, value in table.items() if not isinstance(value, str) or not value)
    if empty:
        raise ValueError(f"{name}: {', '.join(empty)} must be a text that is not empty")
    if not REQUIREMENT.fullmatch(table["requirement"]):
        raise ValueError(f"{name}: {table['requirement']!r} is no row of the requirement register")
    for key in ("en", "zh"):
        fields = {field for _, field, _, _ in string.Formatter().parse(table[key])} - {None}
        if not fields <= PLACEHOLDERS:
            raise ValueError(f"{name}: {key} may use {sorted(PLACEHOLDERS)} only")
    return Entry(name=name, **table)


CATALOGUE = read_catalogue(
    resources.files("core").joinpath("reasons.toml").read_text(encoding="utf-8")
)


def explain(record: ReasonRecord) -> Reason:
    """A reason as it is answered: name, requirement, article and both texts, with the item in them.

    KeyError for a number that is not in the catalogue; the schema and the catalogue agree, so such
    a record was not written by this service.
    """
    entry = CATALOGUE[record.code]
    item = record.item or record.item_id.hex() or NO_ITEM
    return Reason(
        code=record.code,
        name=entry.name,
        requirement=entry.requirement,
        article=entry.article,
        text_en=entry.en.format(item=item),
        text_zh=entry.zh.format(item=item),
        item_id=record.item_id,
        item=record.item,
    )


def refusal(records: Iterable[ReasonRecord]) -> Refusal:
    """A refusal that explains the reasons in their order."""
    return Refusal(reasons=[explain(record) for record in records])
