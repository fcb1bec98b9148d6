"""Where the repository is and which files belong to it, for the tests that read its sources."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients" / "python"
GENERATED = (
    "core/store/",
    "clients/python/src/jinku/v1/",
    "clients/python/src/jinku/event/",
    "clients/python/src/jinku/type/",
)


def ask_git(*arguments: str) -> list[str]:
    answer = subprocess.run(
        ["git", "-C", str(ROOT), *arguments, "-z"], capture_output=True, text=True, check=True
    )
    return [path for path in answer.stdout.split("\0") if path]


@functools.cache
def committed_files() -> tuple[str, ...]:
    return tuple(sorted(ask_git("ls-files")))


@functools.cache
def source_files() -> tuple[str, ...]:
    """Every file that is committed or could be: what .gitignore names is not among them."""
    listed = ask_git("ls-files", "--cached", "--others", "--exclude-standard")
    return tuple(sorted({path for path in listed if (ROOT / path).is_file()}))


def select(*prefixes: str, suffixes: tuple[str, ...] = (".py",)) -> list[str]:
    return [
        path for path in source_files() if path.startswith(prefixes) and path.endswith(suffixes)
    ]


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
