"""Notes and keys that others publish as right and as wrong, and what signed-note asks of a verifier."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from jinku.notes import Note, NoteInvalid, SignatureWrong, VerifierKey
from signed_tree import KEY, sign

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "c2sp.json").read_text("utf-8"))
EXAMPLE = VECTORS["two_signers"]
TEXT, (PETER, ENOCH) = EXAMPLE["text"], EXAMPLE["signatures"]
PETERS_KEY, ENOCHS_KEY = map(VerifierKey.parse, EXAMPLE["keys"])


def verify(note: str, key: VerifierKey) -> int:
    """How many signatures are the key's; NoteInvalid if it is not a note, or not signed by it."""
    return len(Note.parse(note).verify(key))


def test_each_signer_is_found_beside_the_other() -> None:
    note = f"{TEXT}\n{PETER}{ENOCH}"
    assert verify(note, PETERS_KEY) == verify(note, ENOCHS_KEY) == 1
    assert verify(f"{TEXT}\n{PETER}", PETERS_KEY) == 1
    with pytest.raises(SignatureWrong, match="no signature of EnochRoot"):
        verify(f"{TEXT}\n{PETER}", ENOCHS_KEY)


def test_one_wrong_signature_of_a_known_key_spoils_the_note() -> None:
    spoilt = f"{PETER[:60]}ABCD{PETER[60:]}"
    with pytest.raises(SignatureWrong, match="PeterNeumann is wrong"):
        verify(f"{TEXT}\n{PETER}{spoilt}", PETERS_KEY)
    # Of somebody who is not known it is of no account.
    wrong = f"{ENOCH[:60]}ABCD{ENOCH[60:]}"
    assert verify(f"{TEXT}\n{PETER}{PETER}{ENOCH}{ENOCH}{wrong}", PETERS_KEY) == 2


def test_a_name_or_an_id_alone_is_another_key() -> None:
    """Both have to be the known ones; else the line is left aside, and proves nothing."""
    for other in (PETER.replace("PeterNeumann", "CarmenSandiego"), PETER.replace("x08g", "xxxx")):
        assert verify(f"{TEXT}\n{other}{PETER}", PETERS_KEY) == 1
        with pytest.raises(SignatureWrong, match="no signature"):
            verify(f"{TEXT}\n{other}", PETERS_KEY)


@pytest.mark.parametrize(
    "note",
    [
        TEXT,
        f"{TEXT}\n",
        f"{TEXT}\n{PETER[:-1]}",
        f"\x01{TEXT}\n{PETER}",
        f"{TEXT}\n{PETER.replace('PeterNeumann', 'Bad Name')}",
        f"{TEXT}\n{PETER}Unexpected line.\n",
        f"{TEXT}\n{PETER * 101}",
    ],
    ids=["text", "no signature", "no end", "control", "name", "line", "too many"],
)
def test_published_as_malformed(note: str) -> None:
    with pytest.raises(NoteInvalid) as refused:
        verify(note, PETERS_KEY)
    assert not isinstance(refused.value, SignatureWrong)


def test_no_part_of_a_key_and_no_changed_key_is_one() -> None:
    text = str(PETERS_KEY)
    wrong = [text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)]
    wrong.remove(text)
    wrong += [text[:at] + chr(ord(text[at]) + 1) + text[at + 1 :] for at in range(len(text))]
    for key in [*wrong, *EXAMPLE["wrong_keys"]]:
        with pytest.raises(NoteInvalid):
            VerifierKey.parse(key)


def test_sixteen_signatures_and_more_are_accepted() -> None:
    unknown = [
        f"— w{number}.example {base64.b64encode(bytes([number]) * 72).decode()}\n"
        for number in range(1, 99)
    ]
    assert verify(sign(3, bytes(32)) + "".join(unknown), VerifierKey.parse(KEY)) == 1


def test_the_last_empty_line_ends_the_text() -> None:
    note = Note.parse(f"One paragraph.\n\nAnother.\n\n{PETER}")
    assert note.text == "One paragraph.\n\nAnother.\n"
