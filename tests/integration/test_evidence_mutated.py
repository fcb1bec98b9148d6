"""A package with anything in it changed is refused, and what is wrong is named."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from box_story import Story, told, wait_witnessed
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.evidence import package, verify
from jinku.evidence.collect import open_persons
from jinku.evidence.content import Content, Opened
from jinku.evidence.entries import Entry, EvidenceInvalid
from jinku.receipts import parse_header
from jinku.v1.common_pb2 import Receipt
from jinku.verdicts import Fault, NotProven
from signed_tree import KEY as OTHER_KEY
from signed_tree import sign

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with told(tmp_path_factory.mktemp("story")) as made:
        wait_witnessed(made)
        yield made


@pytest.fixture(scope="module")
def content(story: Story) -> Content:
    collected = story.collect(
        scanned=True, contacts=True, witnessed=True, receipts=story.receipts[3:5]
    )
    return open_persons(collected, story.privacy)


@pytest.fixture(scope="module")
def files(content: Content) -> Files:
    return package.assemble(content)


def refusal(packed: bytes, key: str, **more: Any) -> NotProven:
    with pytest.raises(NotProven) as refused:
        verify.verify(packed, key, **more)
    assert refused.value.fault.zh in str(refused.value)
    assert refused.value.fault.en in str(refused.value)
    return refused.value


def with_digests(files: Files) -> Files:
    """As whoever forges a file would also put its digest into the manifest."""
    manifest = json.loads(files[package.MANIFEST])
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    digests.pop(package.MANIFEST)
    manifest["files"] = dict(sorted(digests.items()))
    return {**files, package.MANIFEST: package.encode_json(manifest)}


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "first byte": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "middle byte": lambda content: (
        content[: len(content) // 2]
        + bytes([content[len(content) // 2] ^ 4])
        + content[len(content) // 2 + 1 :]
    ),
    "last byte": lambda content: content[:-1] + bytes([content[-1] ^ 2]),
    "cut off": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "grown": lambda content: content + b"\n",
}


def changes_of(files: Files) -> Iterator[tuple[str, str, Files]]:
    """Every file in every way; of entries' files, which are many, each in one way after the other."""
    ways = itertools.cycle(CHANGES.items())
    for name, content in files.items():
        chosen = [next(ways)] if name.startswith("entries/") else CHANGES.items()
        for how, change in chosen:
            if content or how == "grown":
                yield name, how, {**files, name: change(content)}


@pytest.mark.req("MON-13", "MON-09")
def test_every_changed_file_is_named(story: Story, files: Files) -> None:
    verify.verify(package.pack(files), story.key)
    for name, how, changed in changes_of(files):
        found = refusal(package.pack(changed), story.key)
        assert name in found.where, (name, how, str(found))


@pytest.mark.req("MON-13", "MON-09")
def test_also_where_its_digest_was_changed_with_it(story: Story, files: Files) -> None:
    """The manifest is signed by nobody: it names what is damaged and protects nothing."""
    for name, how, changed in changes_of(files):
        if name != package.MANIFEST:
            found = refusal(package.pack(with_digests(changed)), story.key)
            stem = name.rpartition(".")[0] or name
            assert stem in found.where, (name, how, str(found))


def test_a_verifier_that_does_not_look_is_fooled(
    story: Story, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without the proofs, or without making the texts again, forgeries pass."""
    header = EntryHeader.FromString(files["entries/00000000000000000012.header"])
    header.salt = bytes(16)
    forged = {**files, "entries/00000000000000000012.header": header.SerializeToString()}
    note = {**files, "account.zh.txt": files["account.zh.txt"].replace(b"K-1", b"K-7")}
    for changed in (forged, note):
        refusal(package.pack(with_digests(changed)), story.key)
    with monkeypatch.context() as patched:
        patched.setattr(verify, "check_entry", lambda *_: None)
        verify.verify(package.pack(with_digests(forged)), story.key)
    with monkeypatch.context() as patched:
        patched.setattr(verify, "compare", lambda *_: None)
        verify.verify(package.pack(with_digests(note)), story.key)


def test_every_missing_file_is_named(story: Story, files: Files) -> None:
    for name in files:
        fewer = {one: content for one, content in files.items() if one != name}
        found = refusal(package.pack(fewer), story.key)
        if name == package.PERSONAL:
            # The values may be left out, but not by leaving out the file alone.
            assert found.where == "account.en.txt"
            continue
        assert name in found.where
        assert found.fault is Fault.FILE_MISSING


@pytest.mark.parametrize("name", ["entries/00000000000000000099.header", "x", "entries/1.header",
                                  "earlier/00000000000000000003.checkpoint", "../x", "/x"])  # fmt: skip
def test_a_file_too_many_is_named(story: Story, files: Files, name: str) -> None:
    found = refusal(package.pack({**files, name: b"x"}), story.key)
    assert name.rpartition(".")[0] in found.where
    assert found.fault in {Fault.FILE_UNKNOWN, Fault.FILE_MISSING}


# -- entries


def make_again(content: Content, entries: list[Entry]) -> bytes:
    """The package that a forger makes of other entries, with all that follows from them."""
    return package.write(replace(content, entries=tuple(entries)))


@pytest.mark.req("MON-09", "MON-13")
def test_every_changed_entry_is_named(story: Story, content: Content) -> None:
    """Rewritten so that it reads well, with texts and manifest to match: each in turn, who, when,
    policy version, salt.
    """
    for at, entry in enumerate(content.entries):
        for field, value in (("principal", "spiffe://bank.example/1/service/nobody"),
                             ("decided_at_ns", 1), ("policy_version", "lax"),
                             ("salt", bytes(16))):  # fmt: skip
            header = EntryHeader.FromString(entry.header_bytes)
            setattr(header, field, value)
            entries = list(content.entries)
            entries[at] = Entry(header.SerializeToString(deterministic=True), entry.events_bytes)
            found = refusal(make_again(content, entries), story.key)
            assert found.fault is Fault.NOT_IN_JOURNAL
            assert found.where == f"entries/{entry.index:020}"


@pytest.mark.req("MON-09", "MON-13")
def test_entries_in_another_order_are_named(story: Story, files: Files, content: Content) -> None:
    """Each entry in the place of the next, with or without its proof."""
    for first, second in zip(content.entries, content.entries[1:], strict=False):
        for parts in (("header", "events"), ("header", "events", "tlog-proof"), ("events",)):
            swapped = dict(files)
            for part in parts:
                one, other = (f"entries/{e.index:020}.{part}" for e in (first, second))
                swapped[one], swapped[other] = files[other], files[one]
            if swapped == files:
                continue
            found = refusal(package.pack(with_digests(swapped)), story.key)
            assert f"entries/{first.index:020}" in found.where


@pytest.mark.req("MON-09", "MON-13")
def test_an_entry_that_others_rest_on_is_missed(
    story: Story, content: Content, files: Files
) -> None:
    """Those that made what the box's entries name: who, where, of what institution."""
    about = {entry.index for entry in (*content.subject, *content.of_persons)}
    for entry in content.entries:
        if entry.index not in about:
            stem = f"entries/{entry.index:020}"
            fewer = {name: one for name, one in files.items() if not name.startswith(stem)}
            found = refusal(package.pack(with_digests(fewer)), story.key)
            assert (found.fault, found.where) == (Fault.ENTRY_MISSING, f"entry {entry.index}")


def test_an_entry_of_another_box_is_named(story: Story, content: Content) -> None:
    other = next(story_entry for story_entry in read_other(story))
    with pytest.raises(EvidenceInvalid) as refused:
        make_again(content, sorted([*content.entries, other], key=lambda entry: entry.index))
    assert refused.value.fault is Fault.ENTRY_UNRELATED
    assert refused.value.where == f"entry {other.index}"


def read_other(story: Story) -> Iterator[Entry]:
    """The registration of the other box."""
    entry = story.running.service.ledger.entry(5)
    yield Entry(entry.header, entry.events)


# -- persons


@pytest.mark.parametrize("field", ["value", "opening", "entry_index", "subject_id", "field"])
def test_a_changed_personal_value_is_refused(story: Story, content: Content, field: str) -> None:
    one = content.opened[0]
    other: Any = {"value": one.value + "x", "opening": bytes(32), "entry_index": 4,
                  "subject_id": content.persons[0], "field": 3 - one.field}[field]  # fmt: skip
    changed = replace(one, **{field: other})
    with pytest.raises(EvidenceInvalid) as refused:
        package.write(replace(content, opened=(changed,)))
    assert refused.value.fault in {Fault.COMMITMENT_WRONG, Fault.ERASED}


def test_an_erased_persons_value_is_refused(content: Content) -> None:
    (erased,) = content.erased
    kept = Opened(erased, 1, 17, "王昭君", bytes(32))
    with pytest.raises(EvidenceInvalid) as refused:
        package.write(replace(content, opened=(kept,)))
    assert refused.value.fault is Fault.ERASED


# -- what is no package, and other keys


def alter(content: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, put in, taken out or cut off."""
    altered, at = bytearray(content), draw.randrange(len(content) + 1)
    how = draw.randrange(4)
    if how == 0:
        altered[at : at + 1] = draw.randbytes(1)
    elif how == 1:
        altered[at:at] = draw.randbytes(draw.randrange(1, 30))
    elif how == 2:
        del altered[at : at + draw.randrange(1, 200)]
    else:
        del altered[at:]
    return bytes(altered)


def test_whatever_is_handed_in_is_judged(story: Story, files: Files) -> None:
    """At random, in the archive or in one of its files: refused, and nothing worse."""
    draw, packed = random.Random(13), package.pack(files)
    for _ in range(120):
        name = draw.choice([package.MANIFEST, *files])
        changed = package.pack({**files, name: alter(files[name], draw)})
        for handed_in in (changed, alter(packed, draw)):
            if handed_in != packed:
                refusal(handed_in, story.key)


def test_what_is_no_package_is_told(story: Story, files: Files, content: Content) -> None:
    packed = package.pack(files)
    other = BytesIO()
    with zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, one in files.items():
            archive.writestr(name, one)
    for wrong in (b"", b"PK\x03\x04", packed[:-1], packed[: len(packed) // 2], packed + b"\0",
                  b"\0" + packed, other.getvalue(), story.receipts[0].SerializeToString()):  # fmt: skip
        assert refusal(wrong, story.key).fault is Fault.NO_PACKAGE
    assert refusal(bytes(package.PACKAGE_BYTES_MAX + 1), story.key).fault is Fault.TOO_LARGE


def test_other_keys(story: Story, files: Files) -> None:
    packed = package.pack(files)
    name, key_id, _ = story.key.split("+", 2)
    assert refusal(packed, "nonsense").fault is Fault.KEY_MALFORMED
    assert refusal(packed, OTHER_KEY).fault is Fault.OTHER_LEDGER
    assert refusal(packed, renamed(name)).fault is Fault.OTHER_KEY
    assert key_id in story.key


def renamed(name: str) -> str:
    """The key of somebody else who calls himself the same."""
    from jinku.notes import VerifierKey

    return str(VerifierKey.make(name, VerifierKey.parse(OTHER_KEY).public_key))


def test_a_package_of_another_version(
    story: Story, files: Files, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its texts are left out of account on request, all else is verified as ever."""
    texts = {name: files[name] + b"in other words\n" for name in package.TEXTS}
    older = package.pack(package.assemble(content, 0, texts))
    assert refusal(older, story.key).fault is Fault.OTHER_VERSION
    verified = verify.verify(older, story.key, without_texts=True)
    # What is told is made here; of what is in the package nothing is said.
    assert {name: text.encode() for name, text in verified.texts.items()} == {
        name: files[name] for name in package.TEXTS
    }
    assert "the account in the package was not verified" in verified.verdict()[1]
    assert "包内记述未经核验" in verified.verdict()[0]
    whole = verify.verify(package.pack(files), story.key)
    assert "the account in the package is theirs" in whole.verdict()[1]
    # Whether the entries follow from each other is no matter of texts.
    unfrozen = [e for e in content.subject if e.header.command == "jinku.v1.UnfreezeTagRequest"]
    (frozen,) = (e for e in content.subject if e.header.command == "jinku.v1.FreezeTagRequest")
    assert len(unfrozen) == 1
    gapped = replace(content, entries=tuple(e for e in content.entries if e is not frozen))
    found = refusal(package.pack(package.assemble(gapped, 0, texts)), story.key, without_texts=True)
    assert found.fault is Fault.GAP
    forged = package.unpack(older)
    forged["entries/00000000000000000004.header"] += b"\0"
    refusal(package.pack(with_digests(forged)), story.key, without_texts=True)
    manifest = json.loads(files[package.MANIFEST])
    manifest["format"] = "jinku-evidence/2"
    newer = {**files, package.MANIFEST: package.encode_json(manifest)}
    assert refusal(package.pack(newer), story.key).fault is Fault.OTHER_VERSION


def test_receipts_must_agree(story: Story, files: Files) -> None:
    packed = package.pack(files)
    held = story.receipts[3:5]
    verify.verify(packed, story.key, held=held)
    # Of a checkpoint that nothing is proven of.
    found = refusal(packed, story.key, held=[story.receipts[0]])
    assert found.fault is Fault.RECEIPT_CONTRADICTS
    forged = Receipt.FromString(held[0].SerializeToString())
    forged.checkpoint = sign(6, bytes(32))
    assert refusal(packed, story.key, held=[forged]).fault is Fault.OTHER_LEDGER
    forged = Receipt.FromString(held[0].SerializeToString())
    forged.events_digest = bytes(32)
    assert refusal(packed, story.key, held=[forged]).fault is Fault.NOT_IN_JOURNAL


def test_what_a_receipt_proves_is_not_left_out(story: Story) -> None:
    """Where it is about the box, or refused about it: its holder finds that it is missing."""
    held = [
        one for one in story.receipts
        if parse_header(one.header).command.endswith(("FreezeTagRequest", "IssueTagRequest"))
    ]  # fmt: skip
    whole = story.collect(scanned=True, receipts=story.receipts)
    verify.verify(package.write(whole), story.key, held=story.receipts)
    freezing = {e.index for e in whole.subject if "freezetag" in e.header.command.lower()}
    refused = {e.index for e in whole.subject if e.refused}
    assert (len(freezing), len(refused)) == (2, 4)
    for left_out in (freezing, refused):
        kept = tuple(e for e in whole.entries if e.index not in left_out)
        packed = package.write(replace(whole, entries=kept))
        verify.verify(packed, story.key)
        found = refusal(packed, story.key, held=held)
        assert found.fault is Fault.RECEIPT_CONTRADICTS
        assert "was left out of the package" in found.detail
        # One without its events may be about anything.
        bare = [Receipt.FromString(one.SerializeToString()) for one in held]
        for one in bare:
            one.ClearField("events")
        assert "without its events" in refusal(packed, story.key, held=bare).detail


def test_an_earlier_checkpoint_of_another_history(story: Story, content: Content) -> None:
    """One that the same key signed, of a journal that this one does not go on from."""
    ledger = story.running.service.ledger
    forged = replace(content.earlier[0], tree_size=7, note=ledger.sign(7, bytes(32)).note)
    found = refusal(package.write(replace(content, earlier=(forged,))), story.key)
    assert found.fault is Fault.NOT_ITS_BEGINNING
    assert "earlier/00000000000000000007" in found.where


def test_a_loaded_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PACKAGE_BYTES_MAX", 10)
    (tmp_path / "large").write_bytes(bytes(100))
    assert len(verify.load(tmp_path / "large")) == 11
