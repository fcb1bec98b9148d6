"""A package verified offline, with the realm's verifier key and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from jinku import notes, receipts
from jinku.accounts import short
from jinku.evidence.account import TEXT_VERSION
from jinku.evidence.content import Content, Earlier
from jinku.evidence.entries import Entry, EvidenceInvalid
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
    # The texts by file name, as this version makes them; empty where they were left out of account.
    texts: dict[str, str]
    cosigners: dict[str, int]

    def verdict(self) -> tuple[str, str]:
        """What is proven, in Chinese and in English."""
        checkpoint, box = self.content.checkpoint, short(self.content.container_id)
        about, all_ = len(self.content.subject), len(self.content.entries)
        return (
            f"证据包有效: 关于款箱 {box} 的 {about} 条记录及其依据, 共 {all_} 条, "
            f"均在 {checkpoint.origin} 共 {checkpoint.tree_size} 条的签名检查点中, 记述与记录一致",
            f"valid: {about} entries about container {box} and what they rest on, {all_} in all, "
            f"are in the checkpoint of {checkpoint.tree_size} entries signed by {checkpoint.origin}, "
            "and the account is theirs",
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
    `without_texts` leaves the account aside, for a package of another version.
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
    given = {name: files.get(name, b"") for name in TEXTS} if without_texts else None
    made = assemble(content, manifest.texts if without_texts else TEXT_VERSION, given)
    compare(files, made)
    for receipt in held:
        check_held(receipt, content, key)
    texts = {} if without_texts else {name: made[name].decode() for name in TEXTS}
    return Verified(content, texts, cosigners)


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


def check_held(receipt: Receipt, content: Content, key: notes.VerifierKey) -> None:
    """The receipt is of this journal: its checkpoint is one that the package goes on from, and where
    the package has its entry, that is the receipt's.
    """
    verified = receipts.verify(receipt, str(key))
    index = verified.header.index
    where = f"receipt of entry {index}"
    checkpoints = [open_checkpoint(one.note, key) for one in content.earlier]
    entry = content.by_index.get(index)
    if entry is not None and entry.leaf != receipt.header + receipt.events_digest:
        raise EvidenceInvalid(Fault.RECEIPT_CONTRADICTS, where)
    if verified.checkpoint not in (content.checkpoint, *checkpoints):
        size = verified.checkpoint.tree_size
        detail = f"no proof from its checkpoint of {size} entries: export with --receipt"
        raise EvidenceInvalid(Fault.RECEIPT_CONTRADICTS, where, detail)
