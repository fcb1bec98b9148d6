"""The package as bytes: a ZIP archive that can be written in one way only.

Stored, not compressed; names sorted; no times, no comments. So the same content is the same file,
and a file that differs anywhere from what its entries make of it is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinku import notes
from jinku.evidence.account import TEXT_VERSION, Account, policies_of
from jinku.evidence.content import Content, Earlier, Opened, Selection
from jinku.evidence.entries import Entry, EvidenceInvalid
from jinku.verdicts import Fault

FORMAT = "jinku-evidence/1"
PACKAGE_BYTES_MAX = 256 << 20
FILES_MAX = 100_000
FILE_NAME = re.compile(rb"[A-Za-z0-9_./-]{1,64}")
# Before each file of an archive: method, checksum, sizes of the file, its name and what else.
FILE_MAGIC, FILE_HEAD = b"PK\x03\x04", struct.Struct("<8sH4xIIIHH")
MANIFEST, CHECKPOINT, PERSONAL = "manifest.json", "checkpoint", "personal.json"
TEXTS = ("README.txt", "account.en.txt", "account.zh.txt")
ENTRY_FILE = re.compile(r"entries/(?P<index>\d{20})\.(?P<part>header|events|tlog-proof)", re.ASCII)
EARLIER_FILE = re.compile(r"earlier/(?P<size>\d{20})\.(?P<part>checkpoint|consistency)", re.ASCII)
PROOF_HEAD = "c2sp.org/tlog-proof@v1"
PROOF_HASHES_MAX = 64
# DOS's first moment: a ZIP entry cannot be without one.
EPOCH = (1980, 1, 1, 0, 0, 0)

Files = dict[str, bytes]


# -- content to bytes


def write(content: Content) -> bytes:
    """The package. EvidenceInvalid if the content does not hold together."""
    return pack(assemble(content))


def assemble(
    content: Content, version: int = TEXT_VERSION, texts: Mapping[str, bytes] | None = None
) -> Files:
    """Every file of the package by name; with `texts`, those, of another version, instead of the
    ones made here.
    """
    content.check()
    if texts is None:
        made = Account(content).texts()
        texts = {name: text.encode() for name, text in made.items()}
    files: Files = {CHECKPOINT: content.note.encode(), **texts}
    for entry in content.entries:
        stem = f"entries/{entry.index:020}"
        files[f"{stem}.header"] = entry.header_bytes
        files[f"{stem}.events"] = entry.events_bytes
        proof = content.proofs[entry.index]
        files[f"{stem}.tlog-proof"] = encode_proof(entry.index, proof, content.note)
    for one in content.earlier:
        stem = f"earlier/{one.tree_size:020}"
        files[f"{stem}.checkpoint"] = one.note.encode()
        files[f"{stem}.consistency"] = encode_consistency(one, content.note)
    if content.opened:
        files[PERSONAL] = encode_json([describe_opened(one) for one in content.opened])
    files[MANIFEST] = encode_json(describe(content, version, files))
    return dict(sorted(files.items()))


def describe(content: Content, version: int, files: Files) -> dict[str, Any]:
    """The manifest."""
    checkpoint = content.checkpoint
    about = {entry.index for entry in content.subject}
    persons = {entry.index for entry in content.of_persons}
    roles = {
        index: "subject" if index in about else "person" if index in persons else "context"
        for index in content.by_index
    }
    return {
        "format": FORMAT,
        "texts": version,
        "origin": checkpoint.origin,
        "tree_size": checkpoint.tree_size,
        "container_id": content.container_id.hex(),
        "selection": str(content.selection),
        "persons": [person.hex() for person in content.persons],
        "entries": {str(index): role for index, role in sorted(roles.items())},
        "policies": dict(sorted(policies_of(content).items())),
        "files": {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)},
    }


def encode_json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def encode_hashes(hashes: Iterable[bytes]) -> list[str]:
    return [base64.b64encode(one).decode() for one in hashes]


def encode_proof(index: int, proof: Iterable[bytes], note: str) -> bytes:
    """c2sp.org/tlog-proof."""
    return "\n".join([PROOF_HEAD, f"index {index}", *encode_hashes(proof), "", note]).encode()


def encode_consistency(earlier: Earlier, note: str) -> bytes:
    """What a witness would be sent (c2sp.org/tlog-witness)."""
    return "\n".join([f"old {earlier.tree_size}", *encode_hashes(earlier.proof), "", note]).encode()


def describe_opened(one: Opened) -> dict[str, Any]:
    return {
        "subject_id": one.subject_id.hex(),
        "field": one.field,
        "entry": one.entry_index,
        "value": one.value,
        "opening": one.opening.hex(),
    }


def pack(files: Files) -> bytes:
    """The archive of these files."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(name, EPOCH)
            # As a plain file that everybody may read, on whatever system it was written.
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, content)
    packed = output.getvalue()
    if len(packed) > PACKAGE_BYTES_MAX or len(files) > FILES_MAX:
        detail = f"{len(packed)} bytes, {len(files)} files"
        raise EvidenceInvalid(Fault.TOO_LARGE, "package", detail)
    return packed


# -- bytes to content


def unpack(packed: bytes) -> Files:
    """The files of a package. EvidenceInvalid unless it is an archive as `pack` writes it."""
    if len(packed) > PACKAGE_BYTES_MAX:
        detail = f"more than {PACKAGE_BYTES_MAX} bytes"
        raise EvidenceInvalid(Fault.TOO_LARGE, "package", detail)
    files: Files = {}
    for name, checksum, content in read_files(packed):
        if name in files or len(files) == FILES_MAX:
            detail = f"a name twice, or more than {FILES_MAX} files"
            raise EvidenceInvalid(Fault.NO_PACKAGE, "package", detail)
        files[name] = content
        if checksum != zlib.crc32(content):
            raise EvidenceInvalid(Fault.FILE_ALTERED, name, "its checksum is another")
    if pack(files) != packed:
        raise EvidenceInvalid(Fault.NO_PACKAGE, "package", "not as packages are written")
    return files


def read_files(packed: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Name, checksum and content of each file, read from one to the next.

    What else an archive may have, above all a directory that names what it likes, is not looked at:
    of these files `pack` makes the archive again, and it has to be the same.
    """
    at = 0
    while packed.startswith(FILE_MAGIC, at) and at + FILE_HEAD.size <= len(packed):
        _, method, checksum, size, _, name_size, extra_size = FILE_HEAD.unpack_from(packed, at)
        begin = at + FILE_HEAD.size + name_size + extra_size
        at = begin + size
        if method != zipfile.ZIP_STORED or at > len(packed):
            raise EvidenceInvalid(Fault.NO_PACKAGE, "package", "a file is compressed, or cut off")
        name = packed[begin - name_size - extra_size : begin - extra_size]
        if not FILE_NAME.fullmatch(name):
            raise EvidenceInvalid(Fault.NO_PACKAGE, "package", "a file's name is none of a package")
        yield name.decode("ascii"), checksum, packed[begin:at]


def parse(files: Files) -> Content:
    """What the files say; nothing is verified. EvidenceInvalid names the file that says nothing."""
    manifest = Manifest(files)
    entries, proofs = parse_entries(files)
    return Content(
        container_id=manifest.container_id,
        selection=manifest.selection,
        persons=manifest.persons,
        note=read_text(files, CHECKPOINT),
        entries=entries,
        proofs=proofs,
        earlier=parse_earlier(files),
        opened=parse_opened(files),
    )


class Manifest:
    """What has to be taken from the manifest; the rest of it is made again and compared."""

    def __init__(self, files: Files) -> None:
        value = read_json(files, MANIFEST)
        try:
            self.format, self.texts = str(value["format"]), int(value["texts"])
            self.container_id = bytes.fromhex(value["container_id"])
            self.selection = Selection(value["selection"])
            self.persons = tuple(bytes.fromhex(person) for person in value["persons"])
            self.files = {str(name): str(digest) for name, digest in value["files"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EvidenceInvalid(Fault.FILE_ALTERED, MANIFEST, repr(error)) from error
        if self.format != FORMAT:
            raise EvidenceInvalid(Fault.OTHER_VERSION, MANIFEST, f"{self.format}, not {FORMAT}")

    def find_altered(self, files: Files) -> list[str]:
        """Files that are not those it lists, in order of names."""
        return [
            name
            for name, content in files.items()
            if name != MANIFEST and self.files.get(name) != hashlib.sha256(content).hexdigest()
        ]


def read_text(files: Files, name: str) -> str:
    if name not in files:
        raise EvidenceInvalid(Fault.FILE_MISSING, name)
    try:
        return files[name].decode()
    except UnicodeDecodeError as error:
        raise EvidenceInvalid(Fault.FILE_ALTERED, name, "not UTF-8") from error


def read_json(files: Files, name: str) -> Any:
    try:
        return json.loads(read_text(files, name))
    except (ValueError, RecursionError) as error:
        raise EvidenceInvalid(Fault.FILE_ALTERED, name, str(error)) from error


def parse_entries(files: Files) -> tuple[tuple[Entry, ...], dict[int, tuple[bytes, ...]]]:
    entries: list[Entry] = []
    proofs: dict[int, tuple[bytes, ...]] = {}
    indices = sorted({int(found["index"]) for found in map(ENTRY_FILE.fullmatch, files) if found})
    for index in indices:
        stem = f"entries/{index:020}"
        for part in ("header", "events", "tlog-proof"):
            if f"{stem}.{part}" not in files:
                raise EvidenceInvalid(Fault.FILE_MISSING, f"{stem}.{part}")
        entry = Entry(files[f"{stem}.header"], files[f"{stem}.events"])
        entry.check(stem)
        if entry.index != index:
            detail = f"it is entry {entry.index}"
            raise EvidenceInvalid(Fault.NOT_IN_JOURNAL, f"{stem}.header", detail)
        entries.append(entry)
        proofs[index] = parse_hashes(files, f"{stem}.tlog-proof", 2)
    return tuple(entries), proofs


def parse_earlier(files: Files) -> tuple[Earlier, ...]:
    sizes = sorted({int(found["size"]) for found in map(EARLIER_FILE.fullmatch, files) if found})
    return tuple(
        Earlier(
            size,
            read_text(files, f"earlier/{size:020}.checkpoint"),
            parse_hashes(files, f"earlier/{size:020}.consistency", 1),
        )
        for size in sizes
    )


def parse_hashes(files: Files, name: str, skipped: int) -> tuple[bytes, ...]:
    """The hashes of a proof: its lines after the first few, up to an empty one."""
    lines = read_text(files, name).partition("\n\n")[0].split("\n")[skipped:]
    try:
        hashes = tuple(base64.b64decode(line, validate=True) for line in lines)
    except (binascii.Error, ValueError) as error:
        raise EvidenceInvalid(Fault.PROOF_MALFORMED, name, "not base64") from error
    if len(hashes) > PROOF_HASHES_MAX or any(len(one) != notes.HASH_SIZE for one in hashes):
        raise EvidenceInvalid(Fault.PROOF_MALFORMED, name, "not hashes of 32 bytes")
    return hashes


def parse_opened(files: Files) -> tuple[Opened, ...]:
    if PERSONAL not in files:
        return ()
    value = read_json(files, PERSONAL)
    try:
        opened = tuple(
            Opened(
                subject_id=bytes.fromhex(one["subject_id"]),
                field=int(one["field"]),
                entry_index=int(one["entry"]),
                value=str(one["value"]),
                opening=bytes.fromhex(one["opening"]),
            )
            for one in value
        )
        # Refuses what no commitment can be made of: a number too large, half a character.
        hash(tuple(one.commitment for one in opened))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise EvidenceInvalid(Fault.FILE_ALTERED, PERSONAL, repr(error)) from error
    return opened
