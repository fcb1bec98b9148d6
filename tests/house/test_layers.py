"""native ← core ← grpc_api, and jinku knows none of the three."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from repository import read, select

JINKU = "clients/python/src/jinku/"
LAYERS = ("native", "core", "grpc_api")
MESSAGES = ("jinku.v1", "jinku.event", "jinku.type")
CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", re.MULTILINE)

# layer → (its folder, what it may not import); `core` has rules of its own besides
FORBIDDEN = {
    "native": ("native/", ("core", "grpc_api", "jinku", "grpc")),
    "core": ("core/", ("grpc_api", "grpc", "grpc_status", "grpc_health", "grpc_reflection")),
    "grpc_api": ("grpc_api/", ("native",)),
    "jinku": (JINKU, LAYERS),
}


def list_imports(path: str, text: str) -> set[str]:
    """Every module a source names, `from jinku import v1` as jinku.v1."""
    if not path.endswith(".py"):
        return {first or second for first, second in CYTHON_IMPORT.findall(text)}
    names: set[str] = set()
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def is_under(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def find_forbidden(layer: str, path: str, text: str) -> list[str]:
    _, forbidden = FORBIDDEN[layer]
    names = list_imports(path, text)
    found = {name for name in names if is_under(name, forbidden)}
    if layer == "core":
        found |= {name for name in names if is_under(name, ("jinku",))} - {
            name for name in names if is_under(name, MESSAGES)
        }
    return [f"{path} imports {name}" for name in sorted(found)]


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_layer_imports_only_what_is_below(layer: str) -> None:
    folder, _ = FORBIDDEN[layer]
    sources = select(folder, suffixes=(".py", ".pyx", ".pxd"))
    assert sources, f"no sources in {folder}"
    assert [line for path in sources for line in find_forbidden(layer, path, read(path))] == []


def find_importers_of_native(sources: dict[str, str]) -> list[str]:
    return [
        path
        for path, text in sources.items()
        if any(is_under(name, ("native",)) for name in list_imports(path, text))
    ]


def test_core_imports_native_in_one_module() -> None:
    importers = find_importers_of_native({path: read(path) for path in select("core/")})
    assert len(importers) == 1, importers


def test_importing_jinku_is_cheap() -> None:
    """`import jinku` loads nothing heavy: whoever wants a client asks for it."""
    script = "import sys, jinku; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"grpc", "numpy", "google.protobuf", "click", "rich", "cryptography", "asyncio"}
    assert heavy.isdisjoint(loaded)


@pytest.mark.parametrize(
    ("layer", "path", "text"),
    [
        ("native", "native/x.py", "import core.ledger"),
        ("native", "native/x.pyx", "from jinku.v1 cimport y"),
        ("core", "core/x.py", "def f():\n    from grpc import StatusCode"),
        ("core", "core/x.py", "import jinku.client"),
        ("core", "core/x.py", "from jinku import client"),
        ("grpc_api", "grpc_api/x.py", "from native import cmac"),
        ("jinku", JINKU + "x.py", "import grpc_api.main"),
        ("jinku", JINKU + "adapters/x.py", "from core import ledger"),
    ],
)
def test_rule_bites(layer: str, path: str, text: str) -> None:
    assert find_forbidden(layer, path, text)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("core", "from jinku.v1 import portal_pb2\nfrom jinku import event\nimport native.cmac"),
        ("core", "from .grpc_like import x\nimport grpcish"),
        ("grpc_api", "import grpc, core.ledger\nfrom jinku.client import Client"),
        ("jinku", "import grpc\nfrom . import core"),
    ],
)
def test_rule_lets_pass(layer: str, text: str) -> None:
    assert find_forbidden(layer, "x.py", text) == []


def test_importers_of_native_are_counted() -> None:
    sources = {"core/a.py": "from native import cmac", "core/b.py": "import native.tam1"}
    assert find_importers_of_native({**sources, "core/c.py": "import os"}) == list(sources)
