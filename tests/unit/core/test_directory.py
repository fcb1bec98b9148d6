"""The native tag index follows the tags table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.directory import TagDirectory
from core.ledger.tables import TAGS
from jinku.type.v1.tag_pb2 import TagState
from ledgers import REALM
from registrar import Registrar, container, freeze, institution, issue, retire, unfreeze, vault

A = b"\xa1" * 12


@pytest.fixture
def registrar(tmp_path: Path) -> Iterator[Registrar]:
    made = Registrar(tmp_path)
    for request in (institution(), vault(), container()):
        made.accept(request)
    yield made
    made.ledger.close()


def directory_of(registrar: Registrar, realm: int = REALM) -> TagDirectory:
    return TagDirectory(registrar.ledger, [(realm, 1, bytearray(range(16)))])


def follow(registrar: Registrar, directory: TagDirectory, request: Any) -> None:
    directory.on_committed([registrar.run(request).committed])


class Watching:
    """An index that asks for the id of a tag in the instant in which it can be found."""

    def __init__(self, directory: TagDirectory) -> None:
        self.directory, self.index = directory, directory.index
        self.seen: list[bytes] = []

    def put_all(self, tags: list[tuple[bytes, int, int, int]], mark: int) -> None:
        self.index.put_all(tags, mark)
        for identity, *_ in tags:
            self.seen.append(self.directory.tag_id(self.get(identity).number))

    def get(self, identity: bytes) -> Any:
        return self.index.get(identity)

    def __len__(self) -> int:
        return len(self.index)


def test_a_tag_that_is_found_has_its_id(registrar: Registrar) -> None:
    directory = directory_of(registrar)
    assert not directory._tag_ids  # room is made with the first
    watching = Watching(directory)
    directory.index = watching  # type: ignore[assignment]
    for number in range(1, 4):
        registrar.accept(container(f"B-{number}"))
        follow(registrar, directory, issue(bytes([number]) * 12, f"B-{number}"))
    follow(registrar, directory, freeze(b"\1" * 12))
    with registrar.ledger.read() as state:
        made = [tag_id for tag_id, _ in state.scan(TAGS)]
    assert watching.seen == [*made, made[0]]


def test_every_step_of_a_tags_life_is_followed(registrar: Registrar) -> None:
    directory = directory_of(registrar)
    steps = [
        (issue(A), TagState.TAG_STATE_ACTIVE),
        (freeze(A), TagState.TAG_STATE_FROZEN),
        (unfreeze(A), TagState.TAG_STATE_ACTIVE),
        (issue(b"\xb2" * 12, replaces=True), TagState.TAG_STATE_RETIRED),
        (retire(b"\xb2" * 12), TagState.TAG_STATE_RETIRED),
    ]
    for request, expected in steps:
        follow(registrar, directory, request)
        tag = directory.index.get(A)
        assert tag is not None
        assert tag.state == expected
        # The same as an index that is filled anew.
        anew = directory_of(registrar).index
        assert [anew.get(one) for one in (A, b"\xb2" * 12)] == [
            directory.index.get(one) for one in (A, b"\xb2" * 12)
        ]


def test_identities_that_differ_in_width_alone_are_different_tags(registrar: Registrar) -> None:
    """Equal when filled up with zeros: each is its own tag, in the registry and in the index."""
    directory = directory_of(registrar)
    identities = [b"\7" * 7 + bytes(width - 7) for width in (7, 8, 12, 16)]
    ids = []
    for at, identity in enumerate(identities):
        registrar.accept(container(f"W-{at}"))
        answered = registrar.run(issue(identity, f"W-{at}"))
        assert answered.reasons == []
        directory.on_committed([answered.committed])
        ids.append(answered.response.tag_id)
    follow(registrar, directory, freeze(identities[2]))
    found = [directory.index.get(identity) for identity in identities]
    assert [directory.tag_id(tag.number) for tag in found if tag] == ids
    states = [tag.state for tag in found if tag]
    assert states == [1, 1, 2, 1]
    assert [registrar.get(identity=one).label for one in identities] == ["W-0", "W-1", "W-2", "W-3"]


def test_a_tag_without_its_master_is_unknown(registrar: Registrar) -> None:
    directory = directory_of(registrar, realm=REALM + 1)
    follow(registrar, directory, issue(A))
    assert directory.index.get(A) is None
    assert directory.loaded_keys() == {(REALM + 1, 1)}


def test_ids_are_found_in_whichever_part_they_lie(
    registrar: Registrar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.directory.SEGMENT_TAGS", 2)
    directory = directory_of(registrar)
    for number in range(1, 6):
        registrar.accept(container(f"B-{number}"))
        follow(registrar, directory, issue(bytes([number]) * 12, f"B-{number}"))
    rebuilt = directory_of(registrar)
    with registrar.ledger.read() as state:
        rows = dict(state.scan(TAGS))
    for made in (directory, rebuilt):
        numbers = range(len(made.index))
        assert {made.tag_id(at): made.index.identity_of(at) for at in numbers} == {
            tag_id: row.identity for tag_id, row in rows.items()
        }
        assert len(made._tag_ids) == 3
