"""Checkpoints are C2SP signed notes: other implementations' notes open, ours do, and nothing else does."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from core.ledger.note import NoteInvalid, NoteSigner, key_id, open_note, parse_note

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER = NoteSigner("example.org/jinku/7", KEY)


def test_the_key_id_of_the_go_checksum_database() -> None:
    # golang.org/x/mod/sumdb/note's published example key.
    name, identifier, encoded = [
        "PeterNeumann",
        "c74f20a3",
        "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ]
    assert key_id(name, base64.b64decode(encoded)[1:]).hex() == identifier


def test_round_trip_and_form() -> None:
    checkpoint = SIGNER.sign(12, bytes(range(32)))
    lines = checkpoint.note.split("\n")
    assert lines[:3] == ["example.org/jinku/7", "12", base64.b64encode(bytes(range(32))).decode()]
    assert lines[3] == ""
    assert lines[4].startswith("— example.org/jinku/7 ")
    assert open_note(checkpoint.note, SIGNER.verifier_key) == checkpoint
    assert parse_note(checkpoint.note) == checkpoint
    assert SIGNER.sign(12, bytes(range(32))) == checkpoint


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_changed_note_does_not_open(position: int, bit: int) -> None:
    note = bytearray(SIGNER.sign(9, bytes(32)).note.encode())
    note[position % len(note)] ^= 1 << bit
    try:
        text = bytes(note).decode()
    except UnicodeDecodeError:
        return
    try:
        opened = open_note(text, SIGNER.verifier_key)
    except NoteInvalid:
        return
    # Only the signature's line end may differ and still be the same note.
    assert (opened.tree_size, opened.root_hash) == (9, bytes(32))


def test_another_key_or_name_does_not_open() -> None:
    other_key = NoteSigner("example.org/jinku/7", Ed25519PrivateKey.generate())
    other_name = NoteSigner("example.org/jinku/8", KEY)
    note = SIGNER.sign(1, bytes(32)).note
    for verifier in (other_key.verifier_key, other_name.verifier_key, "nonsense", "a+b+c"):
        with pytest.raises(NoteInvalid):
            open_note(note, verifier)
    for broken in ("", "a\n1\n", "a\n01\n" + "A" * 44 + "\n\n", note.split("\n\n")[0] + "\n\n"):
        with pytest.raises(NoteInvalid):
            open_note(broken, SIGNER.verifier_key)
