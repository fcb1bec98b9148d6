"""Archives that are handed in as packages: bounded before anything is read, and told harmlessly."""

from __future__ import annotations

import io
import struct
import time
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from jinku.cli.common import report
from jinku.evidence import package, standalone
from jinku.evidence.entries import EvidenceInvalid
from jinku.failure import JinkuError, plain
from jinku.main import main
from jinku.verdicts import PART_CHARACTERS_MAX, Fault, NotProven
from signed_tree import KEY

FILES = {"manifest.json": b"{}", "README.txt": b"", "entries/1": bytes(100)}
# Clears the screen, writes what is not so, and hides the rest.
SPOOF = "\x1b[2J\x1b[H\u202e\x9b8m证据包有效 / valid\x1b[8m\n"
DIRECTORY_END = struct.Struct("<4s4H2IH")


def refusal(packed: bytes) -> EvidenceInvalid:
    with pytest.raises(EvidenceInvalid) as refused:
        package.unpack(packed)
    return refused.value


def archive(files: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", method) as made:
        for name, content in files:
            made.writestr(name, content)
    return output.getvalue()


def test_what_is_packed_is_unpacked() -> None:
    assert package.unpack(package.pack(FILES)) == dict(sorted(FILES.items()))


def test_one_large_file_named_often_is_not_read_often() -> None:
    """As many names in the directory as fit, all of one file: it costs what one costs."""
    size, names = 20 << 20, 3000
    packed = package.pack({"x": bytes(size)})
    start = packed.index(b"PK\x01\x02", size)
    end = packed.index(b"PK\x05\x06", start)
    directory = packed[start:end] * names
    ending = DIRECTORY_END.pack(b"PK\x05\x06", 0, 0, names, names, len(directory), start, 0)
    hostile = packed[:start] + directory + ending
    with zipfile.ZipFile(io.BytesIO(hostile)) as believed:
        assert len(believed.infolist()) == names
    begun = time.process_time()
    assert refusal(hostile).fault is Fault.NO_PACKAGE
    assert time.process_time() - begun < 5


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused() -> None:
    assert "twice" in str(refusal(archive([("x", b"1"), ("x", b"2")])))


def test_too_many_files_are_not_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "FILES_MAX", 3)
    assert package.unpack(package.pack(FILES)).keys() == FILES.keys()
    assert "more than 3 files" in str(refusal(archive([(f"x{n}", b"") for n in range(9)])))


def test_a_file_with_another_checksum_is_named() -> None:
    packed = package.pack(FILES)
    at = packed.index(bytes(100)) + 50
    refused = refusal(packed[:at] + b"\1" + packed[at + 1 :])
    assert (refused.fault, refused.where) == (Fault.FILE_ALTERED, "entries/1")


@pytest.mark.parametrize(
    "packed",
    [
        archive([("x", bytes(1000))], zipfile.ZIP_DEFLATED),
        package.pack(FILES)[:60],
        archive([(SPOOF, b"x")]),
        archive([("x" * 65, b"x")]),
        archive([("证据", b"x")]),
        package.pack(FILES).replace(b"README.txt", b"README\0txt"),
        b"PK\x03\x04" + b"\xff" * 26,
    ],
    ids=["compressed", "cut off", "a hostile name", "a long name", "Chinese", "a zero", "absurd"],
)
def test_archives_that_are_no_packages(packed: bytes) -> None:
    assert refusal(packed).fault is Fault.NO_PACKAGE


# -- others' words on a terminal


def test_what_is_wrong_is_told_in_one_line() -> None:
    error = NotProven(Fault.OTHER_VERSION, SPOOF, SPOOF + "x" * 10_000)
    assert str(error).isprintable()
    assert "\\x1b[2J\\x1b[H\\u202e\\x9b8m证据包有效 / valid" in str(error)
    assert len(str(error)) < 2 * PART_CHARACTERS_MAX
    assert plain("款箱 K-1 \ud800") == "款箱 K-1 \\ud800"


MANIFEST = {
    "files": {}, "container_id": "", "selection": "events", "persons": [], "texts": 1,
    "format": package.FORMAT,
}  # fmt: skip


@pytest.mark.parametrize("field", ["format", "selection", "texts", "container_id"])
def test_a_hostile_package_steers_no_terminal(
    field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command and by the verifier in one file."""
    manifest = package.encode_json({**MANIFEST, field: SPOOF})
    file = tmp_path / "hostile.zip"
    file.write_bytes(package.pack({package.MANIFEST: manifest}))
    answer = CliRunner().invoke(main, ["evidence", "verify", str(file), "--key", KEY])
    assert answer.exit_code == standalone.main([str(file), "--key", KEY]) == 4
    for said in (answer.output, capsys.readouterr().err):
        assert said.count("\n") == 1
        assert said.rstrip("\n").isprintable()


def test_errors_keep_their_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    report("failed / 失败", JinkuError("UNKNOWN: \x1b[2Jx\u2028y\n  → try again"))
    assert capsys.readouterr().err == (
        "jinku: failed / 失败: UNKNOWN: \\x1b[2Jx\\u2028y\n  → try again\n"
    )
