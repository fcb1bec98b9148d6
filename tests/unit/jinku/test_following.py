"""Following a log at its door: it may show an older checkpoint than was kept, and never another log's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jinku.following import LogForked, NotThere, TileSource, follow
from jinku.notes import EMPTY_ROOT, NoteInvalid, VerifierKey
from jinku.plain_http import Answer, NoAnswer
from signed_tree import KEY, sign, tree_hash

KEY_OF_LOG = VerifierKey.parse(KEY)
LEAVES = [b"%d" % number for number in range(12)]
FORKED = [*LEAVES[:4], b"another", *LEAVES[5:]]


def note_of(size: int, leaves: list[bytes] = LEAVES) -> str:
    return sign(size, tree_hash(leaves[:size]) if size else EMPTY_ROOT)


def door(note: str, leaves: list[bytes]) -> TileSource:
    """A log with these leaves, less than a tile, that shows this checkpoint."""

    def fetch(url: str) -> Answer:
        if url == "http://log/checkpoint":
            return Answer(200, note.encode())
        found = re.fullmatch(r"http://log/tile/0/000\.p/(\d+)", url)
        width = int(found[1]) if found else 0
        if not 0 < width <= len(leaves):
            return Answer(404, b"")
        return Answer(200, b"".join(tree_hash([leaf]) for leaf in leaves[:width]))

    return TileSource("http://log/", fetch)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "kept"
    path.write_text(note_of(6), encoding="utf-8")
    return path


@pytest.mark.parametrize("size", range(1, 6))
def test_an_older_checkpoint_of_the_same_log_accuses_nobody(kept: Path, size: int) -> None:
    before, newest, note = follow(door(note_of(size), LEAVES[:6]), kept, KEY_OF_LOG)
    assert before is not None
    assert (before.tree_size, newest.tree_size, note) == (6, size, note_of(size))
    assert kept.read_text(encoding="utf-8") == note_of(6)
    follow(door(note_of(9), LEAVES), kept, KEY_OF_LOG)
    assert kept.read_text(encoding="utf-8") == note_of(9)


@pytest.mark.parametrize(
    ("shown", "leaves", "why"),
    [
        (note_of(3), LEAVES[:5], "has 3 entries; 6 were seen before, and it has not what shows"),
        (
            note_of(5, FORKED),
            LEAVES,
            "the 5 entries that it shows now do not begin the 6 that were",
        ),
        (note_of(3), FORKED, "the 3 entries that it shows now do not begin the 6 that were seen"),
        (note_of(6, FORKED), FORKED, "the 6 entries that were seen do not begin the 6"),
        (note_of(9, FORKED), FORKED, "the 6 entries that were seen do not begin the 9"),
        (sign(0, bytes(32)), LEAVES, "has not the empty tree's root"),
    ],
    ids=["put back", "fork shown", "fork behind it", "same size", "fork", "no empty tree"],
)
def test_another_log_is_told_and_not_kept(
    kept: Path, shown: str, leaves: list[bytes], why: str
) -> None:
    with pytest.raises(LogForked, match=why):
        follow(door(shown, leaves), kept, KEY_OF_LOG)
    assert kept.read_text(encoding="utf-8") == note_of(6)


def test_a_door_that_is_in_disorder_is_no_fork(kept: Path) -> None:
    """It says that it has 9 and does not show them; or is out while an older one is to be proven."""
    with pytest.raises(NotThere):
        follow(door(note_of(9), LEAVES[:7]), kept, KEY_OF_LOG)

    def out(url: str) -> Answer:
        return Answer(200, note_of(3).encode()) if url.endswith("/checkpoint") else Answer(503, b"")

    with pytest.raises(NoAnswer) as caught:
        follow(TileSource("http://log", out), kept, KEY_OF_LOG)
    assert not isinstance(caught.value, NotThere)

    def short(url: str) -> Answer:
        return Answer(200, note_of(3).encode() if url.endswith("/checkpoint") else b"short")

    with pytest.raises(NoteInvalid, match="5 bytes") as invalid:
        follow(TileSource("http://log", short), kept, KEY_OF_LOG)
    assert not isinstance(invalid.value, LogForked)


def test_the_empty_tree_begins_every_log(kept: Path) -> None:
    """What docs/formats.md says of size 0: no proof, and only the empty tree's root."""
    assert follow(door(note_of(0), LEAVES), kept, KEY_OF_LOG).newest.tree_size == 0
    assert kept.read_text(encoding="utf-8") == note_of(6)
    for size in (0, 5):
        kept.write_text(note_of(0), encoding="utf-8")
        follow(door(note_of(size), LEAVES), kept, KEY_OF_LOG)
        assert kept.read_text(encoding="utf-8") == note_of(size)
    kept.write_text(sign(0, bytes(32)), encoding="utf-8")
    with pytest.raises(LogForked, match="has not the empty tree's root"):
        follow(door(note_of(5), LEAVES), kept, KEY_OF_LOG)
