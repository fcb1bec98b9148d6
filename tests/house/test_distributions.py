"""The two distributions: what they depend on, and what is in the archives that they build."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from repository import CLIENT, GENERATED, ROOT, read, source_files

OUR_TOP_LEVEL = {"core": "jinku-server", "grpc_api": "jinku-server", "native": "jinku-server"}
OUR_DISTRIBUTIONS = {"jinku", "jinku-server"}
UNPINNED = OUR_DISTRIBUTIONS | {"pip"}
SOURCES_ONLY = (".pyx", ".pxd", ".c", ".h")
PROJECTS: dict[str, dict[str, Any]] = {
    path: tomllib.loads(read(path))["project"]
    for path in ("pyproject.toml", "clients/python/pyproject.toml")
}
SERVER, PYTHON_CLIENT = PROJECTS.values()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def load_pins() -> dict[str, str]:
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    pairs = [line.split("==") for line in lines if line]
    assert all(len(pair) == 2 for pair in pairs), pairs
    return {canonical(name): version for name, version in pairs}


def list_requirements(project: dict[str, Any]) -> list[str]:
    extras = project.get("optional-dependencies", {}).values()
    return [*project["dependencies"], *(line for extra in extras for line in extra)]


# ── versions, pins, licences ────────────────────────────────────────────────────────────────────


def test_both_distributions_have_one_version() -> None:
    assert SERVER["version"] == PYTHON_CLIENT["version"]
    assert f"jinku[cli]=={SERVER['version']}" in SERVER["dependencies"]
    assert all(metadata.version(name) == SERVER["version"] for name in OUR_DISTRIBUTIONS)
    assert f"## [{SERVER['version']}]" in read("CHANGELOG.md")


def test_server_is_never_uploaded() -> None:
    assert "Private :: Do Not Upload" in SERVER["classifiers"]


@pytest.mark.parametrize("path", PROJECTS)
def test_every_requirement_is_pinned(path: str) -> None:
    names = {
        canonical(re.split(r"[\[=<>~! ]", line)[0]) for line in list_requirements(PROJECTS[path])
    }
    assert names - OUR_DISTRIBUTIONS <= load_pins().keys()


def list_installed() -> dict[str, metadata.Distribution]:
    return {canonical(found.metadata["Name"]): found for found in metadata.distributions()}


def test_everything_installed_is_pinned() -> None:
    """Also what our requirements require: nothing comes at whatever version is current."""
    pins = load_pins()
    installed = {name: found.version for name, found in list_installed().items()}
    wrong = {
        name: (version, pins.get(name))
        for name, version in installed.items()
        if name not in UNPINNED and pins.get(name) != version
    }
    assert wrong == {}


def test_no_copyleft_licence() -> None:
    licences = {
        name: " ".join(
            [
                found.metadata.get("License-Expression") or found.metadata.get("License") or "",
                *(
                    line
                    for line in found.metadata.get_all("Classifier") or []
                    if line.startswith("License")
                ),
            ]
        )
        for name, found in list_installed().items()
    }
    assert [row for row in licences.items() if re.search(r"GPL|General Publ", row[1])] == []


def test_nobody_else_ships_our_names() -> None:
    shipped = metadata.packages_distributions()
    assert {name: set(shipped.get(name, ())) for name in OUR_TOP_LEVEL} == {
        name: {owner} for name, owner in OUR_TOP_LEVEL.items()
    }
    site = [Path(entry) for entry in sys.path if entry and Path(entry).resolve() != ROOT]
    others = [
        str(candidate)
        for entry in site
        for name in OUR_TOP_LEVEL
        for candidate in (entry / name, entry / f"{name}.py")
        if candidate.exists()
    ]
    assert others == []


# ── the archives ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Archives:
    """The paths inside what `python -m build` made of one distribution."""

    sdist: set[str]
    wheel: set[str]
    wheel_path: Path


def copy_checkout(target: Path) -> None:
    """What a checkout after `make proto` holds: the committed and the generated files, no more."""
    generated = [
        str(path.relative_to(ROOT))
        for tree in GENERATED
        for path in (ROOT / tree).rglob("*.py*")
        if "__pycache__" not in path.parts
    ]
    for name in [*source_files(), *generated]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)


def build(project: Path, output: Path) -> Archives:
    """An sdist of the project and a wheel of that sdist, as `python -m build` does it."""
    answer = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(project)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": ""},
    )
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-4000:]
    (sdist,) = output.glob("*.tar.gz")
    (wheel,) = output.glob("*.whl")
    with tarfile.open(sdist) as archive:
        in_sdist = {
            member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()
        }
    return Archives(in_sdist, set(zipfile.ZipFile(wheel).namelist()), wheel)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkout")
    copy_checkout(path)
    return path


@pytest.fixture(scope="module")
def server(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Archives:
    return build(checkout, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def client(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Archives:
    return build(checkout / "clients" / "python", tmp_path_factory.mktemp("client"))


def list_package_files(checkout: Path, *packages: str) -> set[str]:
    """What the checkout holds below the packages, relative to it."""
    return {
        str(path.relative_to(checkout))
        for package in packages
        for path in (checkout / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def list_extension_modules() -> set[str]:
    names = runpy.run_path(str(ROOT / "native" / "extensions.py"))["EXTENSIONS"]
    return {name.replace(".", "/") for name in names}


def without_metadata(names: set[str]) -> set[str]:
    return {name for name in names if not name.partition("/")[0].endswith(".dist-info")}


@pytest.mark.timeout(600)
def test_server_wheel_carries_what_runs_and_no_sources(checkout: Path, server: Archives) -> None:
    held = list_package_files(checkout, *OUR_TOP_LEVEL)
    expected = {name for name in held if not name.endswith(SOURCES_ONLY)}
    shipped = without_metadata(server.wheel)
    compiled = {name for name in shipped if name.endswith(".so")}
    assert shipped - compiled == expected
    assert {name.partition(".")[0] for name in compiled} == list_extension_modules()


@pytest.mark.timeout(600)
def test_server_sdist_carries_the_sources(checkout: Path, server: Archives) -> None:
    expected = list_package_files(checkout, *OUR_TOP_LEVEL, "protos")
    expected |= {"setup.py", "pyproject.toml", "constraints.txt", "LICENSE", "README.md"}
    assert expected - server.sdist == set()
    assert [name for name in server.sdist if name.startswith(("build/", "tests/", ".venv"))] == []


@pytest.mark.timeout(600)
def test_client_archives_carry_the_messages(checkout: Path, client: Archives) -> None:
    held = list_package_files(checkout / "clients/python/src", "jinku")
    assert {"jinku/v1/portal_pb2.py", "jinku/v1/portal_pb2.pyi"} <= held
    assert without_metadata(client.wheel) == held
    assert {f"src/{name}" for name in held} <= client.sdist


@pytest.mark.timeout(600)
def test_wheels_run_without_the_checkout(
    server: Archives, client: Archives, tmp_path: Path
) -> None:
    for archives in (server, client):
        zipfile.ZipFile(archives.wheel_path).extractall(tmp_path)
    modules = ["jinku.main", "grpc_api.main", *sorted(list_extension_modules())]
    script = f"""
import importlib, sys
for name in {[name.replace("/", ".") for name in modules]}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(tmp_path)!r}), module.__file__
"""
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert answer.returncode == 0, answer.stderr


def test_client_has_a_readme_of_its_own() -> None:
    assert PYTHON_CLIENT["readme"] == "README.md"
    assert (CLIENT / "README.md").exists()
