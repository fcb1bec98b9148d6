"""Checkpoints and proofs against a tree and a signer made here, independent of the service."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jinku import notes
from signed_tree import KEY, KEY_ID, NAME, path, sign, tree_hash


@given(st.integers(1, 70), st.data())
def test_proofs_lead_to_the_root(size: int, data: st.DataObject) -> None:
    leaves = [bytes([number]) for number in range(size)]
    index = data.draw(st.integers(0, size - 1))
    proof = path(index, leaves)
    root = tree_hash(leaves)
    assert notes.compute_root(notes.hash_leaf(leaves[index]), index, size, proof) == root
    assert notes.compute_root(notes.hash_leaf(b"other"), index, size, proof) != root
    for wrong in ([*proof, bytes(32)], proof[:-1] if proof else [b"short"]):
        with pytest.raises(notes.NoteInvalid):
            notes.compute_root(notes.hash_leaf(leaves[index]), index, size, wrong)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (7, 7), (-1, 3)])
def test_index_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(notes.NoteInvalid, match="outside"):
        notes.compute_root(bytes(32), index, size, [])


def test_checkpoint_is_opened() -> None:
    checkpoint = notes.open_checkpoint(sign(12, b"r" * 32), notes.VerifierKey.parse(KEY))
    assert checkpoint == notes.Checkpoint(NAME, 12, b"r" * 32)


def test_other_signatures_are_left_aside() -> None:
    witness = f"— witness.example {base64.b64encode(bytes(76)).decode()}\n"
    note = sign(3, bytes(32), extra="an extension line\n") + witness
    assert notes.open_checkpoint(note, notes.VerifierKey.parse(KEY)).tree_size == 3


NOTE = sign(12, b"r" * 32)


@pytest.mark.parametrize(
    ("note", "why"),
    [
        (NOTE.replace("\n12\n", "\n13\n"), "is wrong"),
        (NOTE.replace(f"— {NAME}", "— somebody"), "no signature"),
        (NOTE.replace("— ", "- "), "malformed signature line"),
        (NOTE.rstrip("\n"), "not a signed note"),
        (sign(12, b"short"), "root of 5 bytes"),
        (sign(12, bytes(32)).split("\n\n")[0], "not a signed note"),
        ("", "not a signed note"),
    ],
)
def test_wrong_note_says_why(note: str, why: str) -> None:
    with pytest.raises(notes.NoteInvalid, match=why):
        notes.open_checkpoint(note, notes.VerifierKey.parse(KEY))


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("nonsense", "expected"),
        (KEY.replace(KEY_ID.hex(), "00000000"), "of this name and key"),
        (KEY[:-4], "not"),
        (f"{NAME}+{KEY_ID.hex()}+!!!!", "base64"),
    ],
)
def test_wrong_key_says_why(key: str, why: str) -> None:
    with pytest.raises(notes.NoteInvalid, match=why):
        notes.VerifierKey.parse(key)


def test_key_reads_as_it_is_written() -> None:
    assert str(notes.VerifierKey.parse(KEY)) == KEY
