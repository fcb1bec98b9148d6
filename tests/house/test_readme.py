"""Every command that a README shows exists, with the options it shows."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from grpc_api.main import main as jinkud
from jinku.v1 import ledger_pb2, registry_pb2
from jinku.v1.common_pb2 import Outcome
from jinku.v1.portal_pb2 import StreamResponse
from repository import ROOT, read, select

READMES = ("README.md", "README.zh-CN.md", "clients/python/README.md", "CONTRIBUTING.md")
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL_WORDS = {"|", "||", "&&", ";", ">", ">>", "<", "2>", "&"}


def list_commands(text: str) -> list[list[str]]:
    """The command lines of the ```sh blocks, as words; what follows a pipe or a `&&` is its own."""
    commands = []
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words: list[str] = []
            lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            for word in [*lexer, ";"]:
                if word not in SHELL_WORDS:
                    words.append(word)
                elif words:
                    commands.append(words)
                    words = []
    return commands


@functools.cache
def list_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))


def find_unknown(words: list[str]) -> str | None:
    """What is wrong with a command of ours; None for what is right or not ours."""
    program = Path(words[0]).name
    if program == "make":
        wanted = {word for word in words[1:] if "=" not in word and not word.startswith("-")}
        unknown = wanted - list_targets()
        return f"no such target: {unknown}" if unknown else None
    if program in {"jinku", "jinkud"}:
        answer = subprocess.run(
            [str(Path(sys.executable).parent / program), *words[1:], "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        return None if answer.returncode == 0 else answer.stderr
    return None


@pytest.mark.parametrize("readme", READMES)
def test_commands_exist(readme: str) -> None:
    commands = list_commands(read(readme))
    assert commands, f"{readme} shows no command"
    wrong = {" ".join(words): find_unknown(words) for words in commands}
    assert {command: reason for command, reason in wrong.items() if reason} == {}


def test_readmes_show_the_same_commands() -> None:
    """The Chinese README is not behind the English one."""
    ours = [
        {" ".join(words) for words in list_commands(read(readme)) if words[0] in {"make"}}
        for readme in ("README.md", "README.zh-CN.md")
    ]
    assert ours[0] == ours[1]


def test_rule_bites() -> None:
    text = "```sh\nmake nonsense  # why\n.venv/bin/jinku --no-such-option | head\n```"
    commands = list_commands(text)
    assert commands == [["make", "nonsense"], [".venv/bin/jinku", "--no-such-option"], ["head"]]
    assert [bool(find_unknown(words)) for words in commands] == [True, True, False]


def test_targets_are_found() -> None:
    assert {"build", "proto", "check", "test", "soak", "bench", "demo", "serve"} <= list_targets()


def test_help_lists_every_documented_target() -> None:
    shown = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory", "help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert {"build", "demo", "test", "check", "bench"} <= set(re.findall(r"^(\S+)", shown, re.M))


def test_operations_tells_of_every_command_of_jinkud() -> None:
    told = read("docs/operations.md")
    assert [name for name in sorted(jinkud.commands) if f"jinkud {name}" not in told] == []


def test_formats_tell_which_answers_carry_a_receipt() -> None:
    """As the schema has it: every message that an RPC answers with, and whether it has a receipt. The
    READMEs say it in short, and where all of it stands.
    """
    for readme in ("README.md", "README.zh-CN.md"):
        assert "docs/formats.md#receipts" in read(readme)
    section = read("docs/formats.md").partition("\n## Receipts\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", section, re.MULTILINE)
    told = {
        name: not what.startswith("none")
        for names, what in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    answers = {
        method.output_type
        for file in (registry_pb2, ledger_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    commands = {one for one in answers if "outcome" in one.fields_by_name}
    streamed = {field.message_type for field in StreamResponse.DESCRIPTOR.fields}
    assert told == {
        one.name: "receipt" in one.fields_by_name
        for one in {*(answers - commands), *streamed, Outcome.DESCRIPTOR}
    }


def test_campaigns_are_listed_with_what_scales_them() -> None:
    """Every variable, and every file that has a campaign in it."""
    told = read("docs/campaigns.md")
    for path in select("tests/"):
        text = read(path)
        variables = set(re.findall(r"how_many\([\d_]+, \"(JINKU_[A-Z_]+)\"\)", text))
        assert variables <= set(re.findall(r"`(JINKU_[A-Z_]+)`", told)), path
        if re.search(r"^(?:pytestmark = |@)pytest\.mark\.soak", text, re.MULTILINE):
            folder, _, name = path.rpartition("/")
            stem = name.removeprefix("test_").removesuffix(".py")
            names = rf"(?:{stem}|\{{(?:\w+,)*{stem}(?:,\w+)*\}})"
            assert re.search(rf"`{folder}/test_{names}\.py`", told), path
