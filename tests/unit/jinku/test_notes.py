"""Checkpoints and proofs against a tree and a signer made here, independent of the service."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from jinku import notes
from signed_tree import (
    KEY,
    KEY_ID,
    NAME,
    SIGNER,
    consistency,
    cosign,
    path,
    sign,
    tree_hash,
    witness_key,
)

C2SP = json.loads((Path(__file__).parents[2] / "vectors" / "c2sp.json").read_text("utf-8"))


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
        (sign(12, bytes(32), extra="\n"), "not all there"),
        (NOTE.replace("12", "12\t"), "control characters"),
        (NOTE.replace("\n12\n", "\n012\n"), "is wrong"),
        (NOTE + NOTE.splitlines()[-1][:-8] + "AAAAAA==\n", "is wrong"),
        (NOTE + "— x AAAA\n", "malformed signature line"),
        (NOTE + "\n", "not a signed note"),
        (NOTE + "— x AAAAAAAA\n" * 100, "more than 100 signatures"),
        (NOTE + "— x " + "A" * (1 << 17) + "\n", "longer than"),
        (sign(12, bytes(32), name=f"{NAME}/2"), "no signature"),
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
        (KEY.replace(KEY_ID.hex(), KEY_ID.hex().upper()), "of this name and key"),
        (witness_key("w", bytes(32)), "a witness's, not a log's"),
    ],
)
def test_wrong_key_says_why(key: str, why: str) -> None:
    with pytest.raises(notes.NoteInvalid, match=why):
        notes.VerifierKey.parse(key)


def test_a_log_signs_its_own_checkpoints_only() -> None:
    text = NOTE.partition("\n\n")[0].replace(NAME, "another.example/log") + "\n"
    signed = base64.b64encode(KEY_ID + SIGNER.sign(text.encode())).decode()
    with pytest.raises(notes.SignatureWrong, match="of log another"):
        notes.open_checkpoint(f"{text}\n— {NAME} {signed}\n", notes.VerifierKey.parse(KEY))


def test_key_reads_as_it_is_written() -> None:
    assert str(notes.VerifierKey.parse(KEY)) == KEY


# -- base64 and sizes have one form


def spare_bits(encoded: str) -> str:
    """The same bytes, written with a bit set that base64 does not use."""
    last = encoded.rstrip("=")[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = alphabet[alphabet.index(last) ^ 1]
    return encoded.rstrip("=")[:-1] + other + "=" * (len(encoded) - len(encoded.rstrip("=")))


def test_a_signature_is_written_in_one_way() -> None:
    encoded = NOTE.rsplit(" ", 1)[1].strip()
    assert base64.b64decode(spare_bits(encoded)) == base64.b64decode(encoded)
    for changed in (spare_bits(encoded), encoded.replace("=", ""), f"{encoded}\n"):
        with pytest.raises(notes.NoteInvalid):
            notes.open_checkpoint(NOTE.replace(encoded, changed), notes.VerifierKey.parse(KEY))


@pytest.mark.parametrize(
    "size", ["", "01", "+1", "-1", "1_0", "１", " 1", str(1 << 63), "9" * 5000]
)
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(notes.NoteInvalid):
        notes.parse_size(size)


def test_sizes_that_are() -> None:
    assert [notes.parse_size(text) for text in ("0", "7", str(notes.SIZE_MAX))] == [
        0, 7, notes.SIZE_MAX,
    ]  # fmt: skip


# -- published examples


@pytest.mark.parametrize("example", C2SP["notes"], ids=lambda one: one["from"])
def test_published_notes_verify(example: dict[str, str]) -> None:
    note, key = notes.Note.parse(example["note"]), notes.VerifierKey.parse(example["key"])
    assert [signature.name for signature in note.verify(key)] == [key.name]
    assert str(note) == example["note"]
    changed = notes.Note.parse(example["note"].replace("example", "Example").replace("If", "if"))
    with pytest.raises(notes.SignatureWrong):
        changed.verify(key)


def test_published_cosignature_is_read() -> None:
    example = C2SP["cosigned_checkpoint"]
    note = notes.Note.parse(example["note"])
    checkpoint = notes.parse_checkpoint(note.text)
    assert (checkpoint.origin, checkpoint.tree_size) == (example["origin"], example["tree_size"])
    when = note.signatures[1].value[:8]
    assert int.from_bytes(when, "big") == example["time_s"]
    assert notes.cosigned_message(note.text, when).decode() == example["message"]


# -- cosignatures

WITNESS, SEED = "witness.example/w1", b"w" * 32
COSIGNED = NOTE + cosign(NOTE, WITNESS, SEED, 1_700_000_000)
WITNESS_KEY = notes.VerifierKey.parse(witness_key(WITNESS, SEED), notes.COSIGNATURE)


def test_cosignatures_are_found_and_counted() -> None:
    other = notes.VerifierKey.parse(witness_key("witness.example/w2", b"x" * 32), notes.COSIGNATURE)
    assert notes.find_cosigners(COSIGNED, [WITNESS_KEY, other]) == {WITNESS_KEY: 1_700_000_000}
    assert notes.find_cosigners(NOTE, [WITNESS_KEY]) == {}
    assert notes.require_quorum(COSIGNED, [WITNESS_KEY, other], 1) == {WITNESS_KEY: 1_700_000_000}
    with pytest.raises(notes.SignatureWrong, match="1 of 2"):
        notes.require_quorum(COSIGNED, [WITNESS_KEY, other], 2)
    with pytest.raises(notes.SignatureWrong, match="1 of 2"):
        notes.require_quorum(COSIGNED, [WITNESS_KEY, WITNESS_KEY], 2)


def test_two_keys_of_one_name_are_counted_if_both_signed() -> None:
    seed = b"x" * 32
    namesake = notes.VerifierKey.parse(witness_key(WITNESS, seed), notes.COSIGNATURE)
    with pytest.raises(notes.SignatureWrong, match="1 of 2"):
        notes.require_quorum(COSIGNED, [WITNESS_KEY, namesake], 2)
    both = COSIGNED + cosign(NOTE, WITNESS, seed, 1_700_000_001)
    found = notes.require_quorum(both, [WITNESS_KEY, namesake], 2)
    assert found == {WITNESS_KEY: 1_700_000_000, namesake: 1_700_000_001}


def test_one_key_of_two_names_is_one() -> None:
    renamed = notes.VerifierKey.parse(witness_key("witness.example/w2", SEED), notes.COSIGNATURE)
    both = COSIGNED + cosign(NOTE, "witness.example/w2", SEED, 1_700_000_000)
    with pytest.raises(notes.SignatureWrong, match="1 of 2"):
        notes.require_quorum(both, [WITNESS_KEY, renamed], 2)


@pytest.mark.parametrize("time_s", [0, notes.COSIGNED_AT_MAX + 1, 1 << 63, (1 << 64) - 1])
def test_a_time_that_is_none(time_s: int) -> None:
    """Rightly signed: the specification ends at 2^63 - 1, calendars before; 0 says nothing."""
    note = NOTE + cosign(NOTE, WITNESS, SEED, time_s)
    with pytest.raises(notes.SignatureWrong, match="at no time"):
        notes.require_quorum(note, [WITNESS_KEY], 1)


def test_ours_is_the_same_cosignature() -> None:
    cosigner = notes.Cosigner(WITNESS, Ed25519PrivateKey.from_private_bytes(SEED))
    text = notes.Note.parse(NOTE).text
    assert str(cosigner.cosign(text, 1_700_000_000)) == cosign(NOTE, WITNESS, SEED, 1_700_000_000)
    assert str(cosigner.verifier_key) == witness_key(WITNESS, SEED)


@pytest.mark.parametrize(
    "forged",
    [
        NOTE + cosign(sign(13, b"r" * 32), WITNESS, SEED, 1_700_000_000),
        NOTE + cosign(NOTE, WITNESS, b"y" * 32, 1),
        NOTE + str(notes.Signature(WITNESS, WITNESS_KEY.key_id, bytes(72))),
        NOTE + str(notes.Signature(WITNESS, WITNESS_KEY.key_id, b"short")),
        COSIGNED + str(notes.Signature(WITNESS, WITNESS_KEY.key_id, bytes(72))),
    ],
    ids=["another checkpoint's", "another key's", "zeros", "cut off", "one right, one wrong"],
)
def test_forged_cosignatures(forged: str) -> None:
    with pytest.raises(notes.SignatureWrong):
        notes.require_quorum(forged, [WITNESS_KEY], 1)
    # Whoever does not know the witness is not disturbed by it.
    assert notes.open_checkpoint(forged, notes.VerifierKey.parse(KEY)).tree_size == 12


def test_the_time_is_signed() -> None:
    signature = notes.Note.parse(COSIGNED).signatures[1]
    later = (1_700_000_001).to_bytes(8, "big") + signature.value[8:]
    forged = NOTE + str(notes.Signature(WITNESS, signature.key_id, later))
    with pytest.raises(notes.SignatureWrong):
        notes.find_cosigners(forged, [WITNESS_KEY])


# -- consistency


@given(st.integers(1, 70), st.data())
def test_consistency_of_every_beginning(size: int, data: st.DataObject) -> None:
    leaves = [bytes([number]) for number in range(size)]
    first = data.draw(st.integers(1, size))
    proof = consistency(first, leaves)
    roots = tree_hash(leaves[:first]), tree_hash(leaves)
    notes.check_consistency(first, size, *roots, proof)
    wrong = [
        (first, size, *roots, [*proof, bytes(32)]),
        (first, size, *roots, [*proof, b"short"]),
        (first, size, bytes(32), roots[1], proof),
        (first, size, roots[0], bytes(32), proof),
        (size + 1, size, *roots, proof),
        (0, size, *roots, proof),
    ]
    wrong += [(first, size, *roots, proof[:-1]), (first, size, *roots, proof[1:])] if proof else []
    for one in wrong:
        with pytest.raises(notes.NoteInvalid):
            notes.check_consistency(*one)


@pytest.mark.parametrize("proof", [[], [notes.EMPTY_ROOT]])
@pytest.mark.parametrize("sizes", [(0, 0), (0, 1), (0, 9)])
def test_nothing_is_proven_from_size_0(sizes: tuple[int, int], proof: list[bytes]) -> None:
    """As the vectors of transparency-dev/merkle have it; a witness takes a first checkpoint."""
    with pytest.raises(notes.NoteInvalid, match="nothing proves"):
        notes.check_consistency(*sizes, notes.EMPTY_ROOT, notes.EMPTY_ROOT, proof)
