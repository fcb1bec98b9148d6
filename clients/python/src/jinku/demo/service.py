"""The service under demonstration: a real `jinkud`, as a process of its own on a free port."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from jinku.channel import Connection
from jinku.errors import JinkuError, ServiceUnavailable
from jinku.ledger import LedgerClient
from jinku.v1.ledger_pb2 import GetCheckpointRequest, GetCheckpointResponse

START_SECONDS_MAX = 20.0
STOP_SECONDS_MAX = 30.0


class DemonstrationFailed(JinkuError):
    """A step of the demonstration did not do what it must."""


def find_jinkud() -> str:
    beside = Path(sys.executable).with_name("jinkud")
    found = str(beside) if beside.exists() else shutil.which("jinkud")
    if found is None:
        raise DemonstrationFailed("jinkud is not installed here: the demonstration needs a server")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """A realm in a directory of its own and the process that serves it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "jinku.toml"
        self.log = directory / "jinkud.log"
        self.target = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *arguments: str) -> str:
        """Runs `jinkud` to its end; what it printed, or `DemonstrationFailed` with what it said."""
        command = [find_jinkud(), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            said = (answer.stderr or answer.stdout).strip()
            raise DemonstrationFailed(
                f"`jinkud {arguments[0]}` ended with {answer.returncode}:\n{said}"
            )
        return answer.stdout.strip()

    def initialise(self) -> None:
        self.run(
            "init", "--directory", str(self.directory),
            "--profile", "demonstration", "--listen", self.target,
        )  # fmt: skip

    def personalise(self, lines: list[str], name: str = "tags") -> Path:
        """Keys for software tags: a line each, `identity,scheme`."""
        listed, output = self.directory / f"{name}.txt", self.directory / f"{name}.json"
        listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
        config = str(self.config)
        self.run(
            "personalise", "--config", config, "--identities", str(listed), "--output", str(output)
        )
        return output

    def issue_portal(self, name: str) -> None:
        self.run(
            "demo-certificate", "--config", str(self.config), "--kind", "portal", "--name", name
        )

    def connect(self, kind: str, name: str) -> Connection:
        """With the demonstration certificate of that service or portal."""
        files = self.directory / "certificates"
        own = files / f"{kind}-{name}"
        return Connection(
            self.target, own.with_suffix(".pem"), own.with_suffix(".key"), files / "ca.pem"
        )

    def launch(self) -> subprocess.Popen[bytes]:
        """The process that will serve; nobody waits for it here."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [find_jinkud(), "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                # Ctrl-C in the terminal is ours to pass on.
                start_new_session=True,
            )  # fmt: skip
        return self.process

    def start(self) -> GetCheckpointResponse:
        """Starts serving; answers the first checkpoint once the service answers."""
        process = self.launch()
        deadline = time.monotonic() + START_SECONDS_MAX
        with self.connect("service", "auditor").open() as channel:
            client = LedgerClient(channel)
            while True:
                try:
                    return client.get_checkpoint(GetCheckpointRequest())
                except ServiceUnavailable as error:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise DemonstrationFailed(
                            f"jinkud did not start:\n{self.tail()}"
                        ) from error

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-20:])

    def stop(self) -> int:
        """Asks the service to end in order and waits; its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process = None
        return code

    def fsck(self) -> str:
        return self.run("fsck", "--config", str(self.config))
