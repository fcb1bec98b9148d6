"""strace around a program of ours: what it wrote and synced, in order, or an error put into it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TRACED: Final = "openat,close,pwrite64,pwritev,write,writev,lseek,fdatasync,fsync,ftruncate"
# As many bytes of a string as a write may have.
STRING_MAX: Final = 1 << 24

_LINE: Final = re.compile(r"^(\d+) +(.*)$")
_CALL: Final = re.compile(r"^(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?")
_FILE: Final = re.compile(r"^(?:AT_FDCWD|(\d+))<([^>]*)>")
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_OFFSET: Final = re.compile(r", (\d+)$")


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at a place of a file; `durable`: it was on the disk when the call returned."""

    path: Path
    offset: int
    content: bytes
    durable: bool


@dataclass(frozen=True, slots=True)
class Sync:
    """What was written to the file or directory before is on the disk."""

    path: Path


@dataclass(frozen=True, slots=True)
class Created:
    """A file was opened that need not have been there."""

    path: Path


@dataclass(frozen=True, slots=True)
class Said:
    """A line to standard output."""

    line: str


Event = Write | Sync | Created | Said


def trace(program: Sequence[str], log: Path, **environment: str) -> list[Event]:
    """Run the program to its end and give what it did. Its standard output is in it too."""
    subprocess.run(
        [
            "strace", "-f", "-qq", "-y", "-xx", "-s", str(STRING_MAX), "-o", str(log),
            "-e", f"trace={TRACED}", *program,
        ],
        stdout=subprocess.PIPE, check=True, env=environment,
    )  # fmt: skip
    return list(_Reader().read(log))


class _Reader:
    """Follows descriptors through a trace."""

    def __init__(self) -> None:
        self.durable: set[str] = set()
        self.offsets: dict[str, int] = {}
        self.unfinished: dict[str, str] = {}

    def read(self, log: Path) -> Sequence[Event]:
        events: list[Event] = []
        with log.open() as lines:
            for line in lines:
                matched = _LINE.match(line)
                assert matched is not None, line[:200]
                thread, text = matched.groups()
                if text.endswith("<unfinished ...>"):
                    self.unfinished[thread] = text.removesuffix("<unfinished ...>").rstrip()
                    continue
                if text.startswith("<... "):
                    text = self.unfinished.pop(thread) + text.partition("resumed>")[2]
                events += self.call(text)
        return events

    def call(self, text: str) -> list[Event]:
        matched = _CALL.match(text)
        # Signals, and calls that an exit cut off.
        if matched is None or matched[3].startswith("-"):
            return []
        name, arguments, result, opened = matched.groups()
        if name == "openat":
            path = unescape(opened or "")
            if "O_DSYNC" in arguments or "O_SYNC" in arguments:
                self.durable.add(result)
            else:
                self.durable.discard(result)
            return [Created(Path(path))] if "O_CREAT" in arguments else []
        file = _FILE.match(arguments)
        assert file is not None, text[:200]
        number, path = file[1], Path(unescape(file[2]))
        if name == "lseek":
            self.offsets[number] = int(result)
            return []
        if name in {"fdatasync", "fsync"}:
            return [Sync(path)]
        if name in {"pwrite64", "pwritev", "write", "writev"}:
            return self.write(name, arguments, number, path, int(result))
        assert name in {"close", "ftruncate"}, text[:200]
        return []

    def write(self, name: str, arguments: str, number: str, path: Path, size: int) -> list[Event]:
        content = b"".join(bytes.fromhex(s.replace("\\x", "")) for s in _STRING.findall(arguments))
        assert len(content) >= size, f"{name}: the trace has {len(content)} of {size} bytes"
        content = content[:size]
        if number == "1":
            return [Said(line) for line in content.decode().splitlines()]
        offset = self.offsets.get(number, 0)
        if name.startswith("pwrite"):
            found = _OFFSET.search(arguments)
            assert found is not None
            offset = int(found[1])
        else:
            self.offsets[number] = offset + size
        return [Write(path, offset, content, number in self.durable)]


def unescape(text: str) -> str:
    """A path as strace has it with -xx, or plain."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text)


def injecting(call: str, fault: str, occurrence: str) -> list[str]:
    """What to put before a program so that this call fails in it: `fault` as strace has it
    (`error=EIO`, `retval=100`), `occurrence` as well (`7`: the seventh of each thread; `7+`: from the
    seventh on). The process that is started is the program's own.
    """
    return [
        "strace", "-D", "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null", "-e", f"trace={call}",
        "-e", f"inject={call}:{fault}:when={occurrence}",
    ]  # fmt: skip
