"""Reads the settings file and the environment into `core.settings.Settings`.

Every complaint names the file (or the variable), the key, its line, what is allowed and the nearest
right key. Texts that were configured are never quoted back: one of them may be a secret that ended
up in the wrong place.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from core.errors import SettingsError
from core.settings import Settings

PREFIX = "JINKU_"
NESTING = "__"
CONFIG_VARIABLE = "JINKU_CONFIG"
# Variables of the same prefix that are not settings: where the file is, the client's own (a shell
# may hold both), the tests' switch.
NOT_SETTINGS = frozenset(
    {
        CONFIG_VARIABLE,
        "JINKU_TARGET", "JINKU_CERTIFICATE", "JINKU_KEY", "JINKU_CA", "JINKU_SERVER_NAME",
        "JINKU_NO_SKIPS",
    }
)  # fmt: skip

KeyPath = tuple[str | int, ...]
TABLE_LINE = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
KEY_LINE = re.compile(r"\s*([A-Za-z0-9_.\"'-]+?)\s*=")


def load_settings(path: Path, environment: Mapping[str, str]) -> Settings:
    """The settings of this file with the environment's overrides; relative paths made absolute.

    Raises:
        SettingsError: with one line per mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); `jinkud init` writes a first one"
        ) from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The position alone: the message of the parser may quote what it stumbled over.
        position = re.search(r"\(at .*\)$", str(error))
        raise SettingsError(
            f"{path}: not TOML {position[0] if position else ''}".rstrip()
        ) from None
    variables = _override(values, environment)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        complaints = [
            _explain(path, text, variables, details)
            for details in error.errors(include_url=False, include_input=True)
        ]
        raise SettingsError("\n".join(complaints)) from None
    return _make_absolute(settings, path.resolve().parent)


def _override(values: dict[str, Any], environment: Mapping[str, str]) -> dict[KeyPath, str]:
    """Puts the environment's values in; returns which key came from which variable."""
    known = {_variable(key): key for key in _leaves(Settings)}
    taken: dict[KeyPath, str] = {}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS:
            continue
        key = known.get(variable)
        if key is None:
            raise SettingsError(
                f"environment: {variable} names no setting{_nearest(variable, sorted(known))}"
            )
        table = values
        for part in key[:-1]:
            below = table.setdefault(part, {})
            if not isinstance(below, dict):
                raise SettingsError(f"environment: {variable}: `{part}` in the file is no table")
            table = below
        table[key[-1]] = _parse_variable(variable, environment[variable])
        taken[key] = variable
    return taken


def _parse_variable(variable: str, text: str) -> object:
    """Arrays and inline tables as TOML; anything else as it stands, for pydantic to convert."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if variable.endswith("LISTEN"):  # [::1]:7443
            return text
        raise SettingsError(f"environment: {variable}: not a TOML value") from None


def _variable(key: Sequence[str]) -> str:
    return PREFIX + NESTING.join(part.upper() for part in key)


def _leaves(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every setting, as the keys that lead to it."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(kind, (*above, name))
        else:
            yield (*above, name)


def _model_at(key: KeyPath) -> type[BaseModel] | None:
    """The table at this key: what may stand in it."""
    model: type[BaseModel] = Settings
    for part in key:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        if field is None:
            return None
        kind: Any = field.annotation
        if get_origin(kind) is tuple:
            kind = get_args(kind)[0]
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        model = kind
    return model


def _nearest(wrong: str, right: Sequence[str]) -> str:
    found = difflib.get_close_matches(wrong, right, n=1, cutoff=0.6)
    return f"; did you mean `{found[0]}`?" if found else ""


def _nearest_key(key: KeyPath) -> str:
    """The right key most like the last part of a wrong one: first beside it, then anywhere."""
    wrong = str(key[-1])
    model = _model_at(key[:-1])
    siblings = sorted(model.model_fields) if model is not None else []
    if hint := _nearest(wrong, siblings):
        return hint
    elsewhere = {leaf[-1]: ".".join(leaf) for leaf in _leaves(Settings)}
    found = difflib.get_close_matches(wrong, sorted(elsewhere), n=1, cutoff=0.75)
    if found:
        return f"; did you mean `{elsewhere[found[0]]}`?"
    return f"; known here: {', '.join(siblings)}" if siblings else ""


def _write_key(key: KeyPath) -> str:
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the file"


def _allowed(details: ErrorDetails) -> str:
    """What may stand there, from the kind of error; a number that was given is quoted, a text never."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "missing":
        return "is missing and has no default"
    if kind == "string_pattern_mismatch":
        return f"is not of the form {context['pattern']}"
    # Written by pydantic from the type alone, e.g. "Input should be greater than or equal to 1".
    message = details["msg"].removeprefix("Input ").removeprefix("Value error, ")
    given = details["input"]
    quoted = f" (is {given})" if isinstance(given, int | float) else ""
    return f"{message}{quoted}"


def _explain(path: Path, text: str, variables: Mapping[KeyPath, str], details: ErrorDetails) -> str:
    key = tuple(details["loc"])
    if key in variables:
        return f"environment: {variables[key]}: {_allowed(details)}"
    line = find_line(text, key)
    where = f"{path}:{line}" if line else f"{path}"
    if details["type"] == "extra_forbidden":
        kind = "table" if isinstance(details["input"], dict) else "key"
        return f"{where}: `{_write_key(key)}`: unknown {kind}{_nearest_key(key)}"
    return f"{where}: `{_write_key(key)}` {_allowed(details)}"


def find_line(text: str, key: KeyPath) -> int | None:
    """The line on which a key (or else the table it belongs to) stands, by a plain scan."""
    names = [str(part) for part in key if not isinstance(part, int)]
    indexes = [part for part in key if isinstance(part, int)]
    table: list[str] = []
    table_count: dict[str, int] = {}
    fallback: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if found := TABLE_LINE.match(line):
            name = found[2]
            table = [part.strip(" \"'") for part in name.split(".")]
            table_count[name] = table_count.get(name, -1) + 1
            in_element = found[1] == "[" or not indexes or table_count[name] == indexes[0]
            if in_element and table == names[: len(table)]:
                fallback = number
            if not in_element:
                table = ["", *table]
            if table == names:
                return number
        elif found := KEY_LINE.match(line):
            written = [*table, *(part.strip(" \"'") for part in found[1].split("."))]
            if written == names[: len(written)] and len(written) > len(table):
                if len(written) == len(names) or indexes:
                    return number
                fallback = number
    return fallback


def _make_absolute(settings: Settings, base: Path) -> Settings:
    """Paths in the file are relative to the file, so that the service may be started anywhere."""

    def resolve(model: BaseModel) -> BaseModel:
        changes: dict[str, object] = {}
        for name in type(model).model_fields:
            value = getattr(model, name)
            if isinstance(value, Path):
                changes[name] = base / value.expanduser()
            elif isinstance(value, BaseModel):
                changes[name] = resolve(value)
        return model.model_copy(update=changes)

    resolved = resolve(settings)
    assert isinstance(resolved, Settings)
    return resolved
