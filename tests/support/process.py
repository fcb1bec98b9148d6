"""`jinkud` as a process of its own: started, listened to, signalled, asked how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

JINKUD = Path(sys.executable).with_name("jinkud")
SECONDS_MAX = 90.0


def clean_environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("JINKU_")}
    return {**kept, **more}


def run_jinkud(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One command to its end."""
    return subprocess.run(
        [JINKUD, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
        env=clean_environment(**environment),
    )


@dataclass
class Daemon:
    """A running `jinkud serve`; its log lines are read as they come."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    serving: threading.Event = field(default_factory=threading.Event)
    target: str = ""
    reader: threading.Thread | None = None

    def read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if '"serving"' in line:
                self.target = json.loads(line)["listen"]
                self.serving.set()
        self.serving.set()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def wait(self) -> int:
        """Its exit code; all it logged is in `lines` then."""
        code = self.process.wait(SECONDS_MAX)
        assert self.reader is not None
        self.reader.join(SECONDS_MAX)
        return code


@contextmanager
def daemon(config: Path, group: int | None = None, **environment: str) -> Iterator[Daemon]:
    """`jinkud serve` answering, in another group if one is named; killed at the end of the block if
    it still runs.
    """
    process = subprocess.Popen(
        [JINKUD, "serve", "--config", config],
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(**environment),
        group=group,
    )
    started = Daemon(process)
    started.reader = threading.Thread(target=started.read, daemon=True)
    started.reader.start()
    try:
        assert started.serving.wait(SECONDS_MAX)
        assert started.target, "".join(started.lines)
        yield started
    finally:
        process.kill()
        process.wait()
        started.reader.join()
        assert process.stderr is not None
        process.stderr.close()
