"""Another machine: a Python that has the client's distribution and what that requires, and nothing
of the server, of this checkout or of the network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from repository import CLIENT

# Any use of the network, and anything of the server, ends the process.
GUARD = """\
import sys

def forbid(event, arguments):
    if event.startswith("socket.") and event not in {"socket.__new__", "socket.gethostname"}:
        raise SystemExit(f"the network was used: {event}")
    if event == "import" and arguments[0].split(".")[0] in {"core", "native", "grpc_api", "lmdb"}:
        raise SystemExit(f"the server was needed: {arguments[0]}")

sys.addaudithook(forbid)
"""


def requirements_of(name: str, *extras: str) -> set[str]:
    """The distributions that one needs, and those that they need."""
    found: set[str] = set()
    waiting = [(name, extra) for extra in ("", *extras)]
    while waiting:
        owner, extra = waiting.pop()
        for line in metadata.requires(owner) or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is not None and not marker.evaluate({"extra": extra}):
                continue
            if requirement.name not in found:
                found.add(requirement.name)
                waiting += [(requirement.name, one) for one in ("", *requirement.extras)]
    return found


def install(site: Path, names: set[str]) -> None:
    """Links the files of these distributions, and no other's, into `site`."""
    for name in names:
        for file in metadata.distribution(name).files or []:
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.symlink_to(Path(str(file.locate())).resolve())


def install_client(site: Path) -> None:
    """`pip install jinku[cli]`, as the client's archives hold it."""
    install(site, requirements_of("jinku", "cli"))
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CLIENT / "src" / "jinku", site / "jinku", ignore=ignored)


def run(site: Path, *arguments: str, guard: str = GUARD) -> subprocess.CompletedProcess[str]:
    """`python <arguments>` there, with an empty directory as its own."""
    (site / "sitecustomize.py").write_text(guard, encoding="utf-8")
    home = site / "home"
    home.mkdir(exist_ok=True)
    # -S leaves out the environment's packages; sitecustomize is then ours to import.
    code = (
        "import sys, runpy, sitecustomize; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__') if sys.argv[0].endswith('.pyz') "
        "else runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    )
    return subprocess.run(
        [sys.executable, "-S", "-s", "-P", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        env={"PYTHONPATH": str(site), "HOME": str(home), "PATH": os.environ["PATH"],
             "LANG": "C.UTF-8"},
    )  # fmt: skip
