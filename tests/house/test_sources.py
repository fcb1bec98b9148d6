"""What no source of ours contains: stubs, unfinished work, generated files, misleading marks."""

from __future__ import annotations

import ast
import re

import pytest

from repository import GENERATED, committed_files, read, select, source_files

CODE = ("core/", "native/", "grpc_api/", "clients/python/src/", "bench/", "protos/", "setup.py")
TEXT_SUFFIXES = (
    ".py", ".pyi", ".pyx", ".pxd", ".c", ".h", ".proto", ".toml", ".yaml", ".md", ".txt", ".sh",
)  # fmt: skip
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME)\b")
REQUIREMENT = re.compile(r"[A-Z]{3}-\d{2}")
OPEN_BASES = ("Protocol", "ABC", "TypedDict", "NamedTuple", "Exception", "Error", "Warning")
OPEN_DECORATORS = ("abstractmethod", "overload")


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript | ast.Call):
        return name_of(node.value if isinstance(node, ast.Subscript) else node.func)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_open(node: ast.AST) -> bool:
    """Whether an empty body is meant: a protocol, an abstract method, an exception class."""
    if isinstance(node, ast.ClassDef):
        return any(name_of(base).endswith(OPEN_BASES) for base in node.bases)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return any(name_of(decorator) in OPEN_DECORATORS for decorator in node.decorator_list)
    return False


def is_empty(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    documented = documented and isinstance(first.value.value, str)
    body = node.body[1:] if documented else node.body
    return bool(body) and all(
        isinstance(line, ast.Pass)
        or (isinstance(line, ast.Expr) and ast.unparse(line.value) == "...")
        for line in body
    )


def find_stubs(path: str, text: str) -> list[str]:
    found: list[str] = []

    def visit(node: ast.AST, inside_open: bool) -> None:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inside_open = is_open(node) or (inside_open and not isinstance(node, ast.ClassDef))
            if is_empty(node) and not inside_open:
                found.append(f"{path}:{node.lineno} {node.name} has no body")
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            found.append(f"{path}:{node.lineno} NotImplementedError")
        for child in ast.iter_child_nodes(node):
            visit(child, inside_open)

    visit(ast.parse(text, path), False)
    return found


def test_no_stubs() -> None:
    assert [line for path in select(*CODE) for line in find_stubs(path, read(path))] == []


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    pass",
        "def f():\n    'Says a lot.'\n    ...",
        "class A:\n    pass",
        "class A:\n    def f(self):\n        raise NotImplementedError('later')",
    ],
)
def test_stub_is_found(text: str) -> None:
    assert find_stubs("x.py", text)


@pytest.mark.parametrize(
    "text",
    [
        "class A(Protocol):\n    def f(self): ...",
        "class A(ABC):\n    @abstractmethod\n    def f(self): ...",
        "class A(ValueError):\n    pass",
        "class A(JinkuError):\n    'Why.'",
        "@click.group()\ndef main():\n    'Help text.'",
        "def f(x):\n    if x:\n        pass\n    return x",
    ],
)
def test_meant_empty_body_passes(text: str) -> None:
    assert find_stubs("x.py", text) == []


def find_unfinished(path: str, text: str) -> list[str]:
    return [
        f"{path}:{number} {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if UNFINISHED.search(line)
    ]


def test_no_unfinished_work() -> None:
    texts = [
        path
        for path in source_files()
        if path.endswith(TEXT_SUFFIXES) or path in {"Makefile", ".ci/run"}
    ]
    assert [line for path in texts for line in find_unfinished(path, read(path))] == []


def test_unfinished_work_is_found() -> None:
    assert find_unfinished("x.c", "int a;\n/* TO" + "DO: more */")


def find_generated(paths: tuple[str, ...]) -> list[str]:
    return [
        path
        for path in paths
        if re.search(r"_pb2(_grpc)?\.pyi?$|\.so$|\.py[co]$|\.egg-info/", path)
        or path.startswith((*GENERATED, "build/", "dist/", "demo-data/"))
    ]


def test_no_generated_file_is_committed() -> None:
    assert find_generated(committed_files()) == []


def test_generated_file_is_found() -> None:
    paths = ("core/store/__init__.py", "native/cmac.so", "x/y_pb2.pyi", "core/ledger.py")
    assert find_generated(paths) == list(paths[:3])


def test_tests_are_no_packages() -> None:
    """tests/core/__init__.py would make `core` mean the tests."""
    assert [path for path in select("tests/") if path.endswith("/__init__.py")] == []


def find_malformed_marks(path: str, text: str) -> list[str]:
    nodes = list(ast.walk(ast.parse(text, path)))
    arguments = {
        id(node.func): [ast.unparse(argument).strip("'") for argument in node.args]
        for node in nodes
        if isinstance(node, ast.Call)
    }
    found = []
    for node in nodes:
        if isinstance(node, ast.Attribute) and ast.unparse(node).endswith("mark.req"):
            ids = arguments.get(id(node), [])
            if not ids or not all(REQUIREMENT.fullmatch(row) for row in ids):
                found.append(f"{path}:{node.lineno} {ids}")
    return found


def test_requirement_marks_are_well_formed() -> None:
    tests = select("tests/", "bench/")
    assert [line for path in tests for line in find_malformed_marks(path, read(path))] == []


@pytest.mark.parametrize("arguments", ["()", "", "('TAG-1')", "('TAG-01', 'tag-02')", "(1)"])
def test_malformed_mark_is_found(arguments: str) -> None:
    text = f"import pytest\n@pytest.mark.req{arguments}\ndef test_x(): assert f()"
    assert find_malformed_marks("x.py", text)


def test_well_formed_mark_passes() -> None:
    text = "pytestmark = [pytest.mark.req('TAG-01', 'POR-05'), pytest.mark.soak]"
    assert find_malformed_marks("x.py", text) == []


def test_ci_installs_what_tests_need() -> None:
    """Every needs_debian(package) stands in .ci/run, which turns skips into failures."""
    marked = {
        package
        for path in select("tests/")
        for package in re.findall(r"mark\.needs_debian\(\"([^\"]+)\"", read(path))
    }
    (listed,) = re.findall(r"^PACKAGES=\(([^)]*)\)", read(".ci/run"), re.MULTILINE)
    assert marked <= set(listed.split())
