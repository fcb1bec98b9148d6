"""The verifier as one file, `jinku-verify.pyz`: what of this package verifies, and protobuf with it.

The same versions make the same bytes, so that its digest can be published and compared.
"""

from __future__ import annotations

import io
import zipfile
from importlib import metadata, resources
from importlib.resources.abc import Traversable

import jinku

# Modules and packages of ours; what they import beside them is Python's, protobuf or cryptography.
OURS = (
    "__init__.py", "accounts.py", "failure.py", "notes.py", "receipts.py", "verdicts.py",
    "words.py", "event", "type", "v1", "evidence",
)  # fmt: skip
NOT_NEEDED = frozenset({"bundle.py", "collect.py", "scan.py"})
EPOCH = (1980, 1, 1, 0, 0, 0)
MAIN = """\
import os, sys

if sys.version_info < (3, 11):
    sys.exit("jinku-verify: Python 3.11 or newer is needed / 需要 Python 3.11 或更新版本")
# The protobuf beside this, whatever else is installed.
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
try:
    import cryptography
except ImportError:
    sys.stderr.write(
        "jinku-verify: the Python package `cryptography` is needed (Debian: python3-cryptography)\\n"
        "jinku-verify: 需要 Python 软件包 cryptography\\n"
    )
    sys.exit(2)
from jinku.evidence.standalone import main

sys.exit(main())
"""


def build() -> bytes:
    """The file's bytes."""
    # Python finds a package without `__init__` in an archive by its directory's own entry.
    files = {"__main__.py": MAIN.encode(), "google/": b""}
    root = resources.files(jinku)
    for name in OURS:
        files |= read_tree(root / name, f"jinku/{name}")
    protobuf = resources.files("google.protobuf")
    files |= {
        name: content
        for name, content in read_tree(protobuf, "google/protobuf").items()
        if name.count("/") == 2 or name.startswith("google/protobuf/internal/")
    }
    files |= read_licences()
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, 0o100644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return b"#!/usr/bin/env python3\n" + output.getvalue()


def read_tree(tree: Traversable, name: str) -> dict[str, bytes]:
    """The Python sources at and below `tree`."""
    if tree.is_file():
        needed = name.endswith(".py") and tree.name not in NOT_NEEDED
        return {name: tree.read_bytes()} if needed else {}
    found: dict[str, bytes] = {}
    for one in tree.iterdir():
        found |= read_tree(one, f"{name}/{one.name}")
    return found


def read_licences() -> dict[str, bytes]:
    """Protobuf's own."""
    files = metadata.distribution("protobuf").files or []
    found = [file for file in files if file.name.startswith("LICENSE")]
    return {f"licences/protobuf-{file.name}": file.read_binary() for file in found}
