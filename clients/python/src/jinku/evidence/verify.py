"""A package verified offline, with the realm's verifier key and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from jinku import notes, receipts
from jinku.accounts import short
from jinku.evidence.account import TEXT_VERSION
from jinku.evidence.content import Content, Earlier
from jinku.evidence.entries import Entry, EvidenceInvalid, in_order
from jinku.evidence.package import (
    MANIFEST,
    PACKAGE_BYTES_MAX,
    TEXTS,
    Files,
    Manifest,
    assemble,
    parse,
    unpack,
)
from jinku.v1.common_pb2 import Receipt
from jinku.verdicts import (
    Fault,
    NotProven,
    check_inclusion,
    find_cosigners,
    open_checkpoint,
    parse_key,
)


@dataclass(frozen=True, slots=True)
class Verified:
    """What a package proves: these entries stand in this signed journal, and the texts are theirs."""

    content: Content
    # By file name, made here of the entries.
    texts: dict[str, str]
    cosigners: dict[notes.VerifierKey, int]
    # Whether those in the package were left out of account.
    without_texts: bool = False

    def verdict(self) -> tuple[str, str]:
        """What is proven, in Chinese and in English."""
        checkpoint, box = self.content.checkpoint, short(self.content.container_id)
        about, all_ = len(self.content.subject), len(self.content.entries)
        zh, en = "包内记述与记录一致", "the account in the package is theirs"
        if self.without_texts:
            zh, en = "包内记述未经核验", "the account in the package was not verified"
        return (
            f"证据包有效: 关于款箱 {box} 的 {about} 条记录及其依据, 共 {all_} 条, "
            f"均在 {checkpoint.origin} 共 {checkpoint.tree_size} 条的签名检查点中; {zh}; "
            "是否另有遗漏, 只有 jinku evidence complete 能查明",
            f"valid: {about} entries about container {box} and what they rest on, {all_} in all, "
            f"are in the checkpoint of {checkpoint.tree_size} entries signed by {checkpoint.origin}; "
            f"{en}; whether others were left out, only jinku evidence complete shows",
        )


def load(path: Path) -> bytes:
    """A package's bytes, however large the file is."""
    with path.open("rb") as file:
        return file.read(PACKAGE_BYTES_MAX + 1)


def verify(
    packed: bytes,
    verifier_key: str,
    witnesses: Sequence[str] = (),
    quorum: int = 0,
    held: Sequence[Receipt] = (),
    *,
    without_texts: bool = False,
) -> Verified:
    """Checks the signature, every proof, that just the entries are there that must be, that they
    follow from each other, and that every other file is what they make; raises EvidenceInvalid.

    `held` are receipts that the caller has from elsewhere: the package must agree with them.
    `without_texts` leaves the account in it aside, for a package of another version.
    """
    key = parse_key(verifier_key)
    files = unpack(packed)
    manifest = Manifest(files)
    if manifest.texts != TEXT_VERSION and not without_texts:
        detail = f"texts of version {manifest.texts}, not {TEXT_VERSION}: leave them out of account"
        raise EvidenceInvalid(Fault.OTHER_VERSION, MANIFEST, detail)
    try:
        content = parse(files)
        checkpoint = open_checkpoint(content.note, key)
        cosigners = find_cosigners(content.note, witnesses, quorum)
        for entry in content.entries:
            check_entry(entry, content, checkpoint)
        for one in content.earlier:
            check_earlier(one, checkpoint, key)
    except NotProven as error:
        blame(error, manifest, files)
    made = assemble(content)
    texts = {name: made[name].decode() for name in TEXTS}
    if without_texts:
        given = {name: files.get(name, b"") for name in TEXTS}
        made = assemble(content, manifest.texts, given)
    compare(files, made)
    check_held(held, content, key)
    return Verified(content, texts, cosigners, without_texts)


def blame(error: NotProven, manifest: Manifest, files: Files) -> NoReturn:
    """Raises the error; where the file at fault is not the one in the manifest, says which."""
    where = error.where
    altered = [name for name in manifest.find_altered(files) if name.startswith(where)]
    raise EvidenceInvalid(error.fault, ", ".join(altered) or where, error.detail) from error


def check_entry(entry: Entry, content: Content, checkpoint: notes.Checkpoint) -> None:
    where = f"entries/{entry.index:020}"
    check_inclusion(entry.leaf, entry.index, checkpoint, content.proofs[entry.index], where)


def check_earlier(one: Earlier, checkpoint: notes.Checkpoint, key: notes.VerifierKey) -> None:
    where = f"earlier/{one.tree_size:020}"
    before = open_checkpoint(one.note, key, where)
    if before.tree_size != one.tree_size:
        raise NotProven(Fault.FILE_ALTERED, where, f"it has {before.tree_size} entries")
    try:
        notes.check_consistency(
            before.tree_size,
            checkpoint.tree_size,
            before.root_hash,
            checkpoint.root_hash,
            one.proof,
        )
    except notes.NoteInvalid as error:
        raise NotProven(Fault.NOT_ITS_BEGINNING, where, str(error)) from error


def compare(files: Files, made: Files) -> None:
    """EvidenceInvalid names the first file that is not what the content makes of it."""
    for name in made:
        if name not in files:
            raise EvidenceInvalid(Fault.FILE_MISSING, name)
    for name, content in files.items():
        if name not in made:
            raise EvidenceInvalid(Fault.FILE_UNKNOWN, name)
        if name != MANIFEST and content != made[name]:
            raise EvidenceInvalid(Fault.FILE_ALTERED, name)
    if files[MANIFEST] != made[MANIFEST]:
        raise EvidenceInvalid(Fault.FILE_ALTERED, MANIFEST)


def check_held(held: Sequence[Receipt], content: Content, key: notes.VerifierKey) -> None:
    """The receipts are of this journal: their checkpoints are ones that the package goes on from, and
    their entries are in it, as they are, if they are of those that it must have.
    """
    checkpoints = [content.checkpoint, *(open_checkpoint(e.note, key) for e in content.earlier)]
    verified = [receipts.verify(receipt, str(key)) for receipt in held]
    entries = [Entry(receipt.header, receipt.events) for receipt in held]
    selected = {entry.index for entry in content.select(in_order(entries))}
    for receipt, one, entry in zip(held, verified, entries, strict=True):
        where, contained = f"receipt of entry {entry.index}", content.by_index.get(entry.index)
        if contained is not None and contained.leaf != receipt.header + receipt.events_digest:
            raise EvidenceInvalid(Fault.RECEIPT_CONTRADICTS, where)
        if one.checkpoint not in checkpoints:
            size = one.checkpoint.tree_size
            detail = f"no proof from its checkpoint of {size} entries: export with --receipt"
            raise EvidenceInvalid(Fault.RECEIPT_CONTRADICTS, where, detail)
        if contained is None:
            check_left_out(entry, one, selected, where)


def check_left_out(
    entry: Entry, receipt: receipts.Verified, selected: Collection[int], where: str
) -> None:
    """EvidenceInvalid unless an entry that the package has not is none that it must have."""
    if receipt.events is None:
        detail = "it is not in the package, and without its events nobody can say that it need not"
        raise EvidenceInvalid(Fault.RECEIPT_CONTRADICTS, where, detail)
    entry.check(where)
    if entry.index in selected:
        detail = "it is about the box or a contact, and was left out of the package"
        raise EvidenceInvalid(Fault.RECEIPT_CONTRADICTS, where, detail)
