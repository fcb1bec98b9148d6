"""Pages of whole entries: every entry once, in order, as it was hashed; of one subject, its own."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import pytest

from core.errors import InvalidRequest
from core.ledger.ledger import Ledger
from core.procedures import entry_queries
from core.procedures.entry_queries import list_entries
from jinku import notes
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events
from jinku.v1.ledger_pb2 import JournalEntry, ListEntriesRequest
from registrar import Registrar, container, freeze, institution, issue, retire, unfreeze, vault

IDENTITY = b"\x33" * 12


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registrar]:
    """Two boxes; the first has a tag that was frozen, unfrozen and retired."""
    made = Registrar(tmp_path_factory.mktemp("ledger"))
    for request in (institution(), vault(), container("K-1"), container("K-2"),
                    issue(IDENTITY, "K-1"), freeze(IDENTITY), unfreeze(IDENTITY)):  # fmt: skip
        made.accept(request)
    made.refuse(unfreeze(IDENTITY))
    made.accept(retire(IDENTITY))
    yield made
    made.ledger.close()


def read_all(ledger: Ledger, **fields: object) -> list[JournalEntry]:
    request, found = ListEntriesRequest(**fields), list[JournalEntry]()  # type: ignore[arg-type]
    while True:
        page = list_entries(request, ledger)
        found += page.entries
        if not page.HasField("next_index"):
            return found
        assert page.next_index > request.start_index
        request.start_index = page.next_index


def indices(entries: list[JournalEntry]) -> list[int]:
    return [EntryHeader.FromString(entry.header).index for entry in entries]


@pytest.mark.parametrize("entries_max", [None, 1, 2, 3, 1000, 2**32 - 1])
def test_pages_hold_every_entry_once(registrar: Registrar, entries_max: int | None) -> None:
    ledger = registrar.ledger
    entries = read_all(ledger, entries_max=entries_max)
    assert indices(entries) == list(range(ledger.size))
    leaves = [entry.header + sha256(entry.events).digest() for entry in entries]
    assert [notes.hash_leaf(leaf) for leaf in leaves] == [
        ledger.node(0, index) for index in range(ledger.size)
    ]


@pytest.mark.parametrize("entries_max", [None, 1, 2])
def test_a_subject_has_its_own(registrar: Registrar, entries_max: int | None) -> None:
    ledger = registrar.ledger
    by_label = {
        event.container_registered.label: event.container_registered.container_id
        for entry in read_all(ledger)
        for event in Events.FromString(entry.events).events
        if event.HasField("container_registered")
    }
    first = read_all(ledger, subject_id=by_label["K-1"], entries_max=entries_max)
    kinds = [
        [event.WhichOneof("event") for event in Events.FromString(entry.events).events]
        for entry in first
    ]
    assert kinds == [["container_registered"], ["tag_issued"], ["tag_frozen"], ["tag_unfrozen"],
                     ["tag_retired"]]  # fmt: skip
    assert len(read_all(ledger, subject_id=by_label["K-2"], entries_max=entries_max)) == 1
    later = read_all(ledger, subject_id=by_label["K-1"], start_index=indices(first)[2])
    assert later == first[2:]


def test_nothing_beyond_the_end_and_of_nobody(registrar: Registrar) -> None:
    size = registrar.ledger.size
    for fields in ({"start_index": size}, {"start_index": 2**64 - 1}, {"subject_id": b"x" * 16}):
        page = list_entries(ListEntriesRequest(**fields), registrar.ledger)  # type: ignore[arg-type]
        assert not page.entries
        assert not page.HasField("next_index")


def test_a_page_is_bounded(registrar: Registrar, monkeypatch: pytest.MonkeyPatch) -> None:
    """By size, and an entry that is larger alone is a page of its own."""
    ledger = registrar.ledger
    sizes = [len(entry.header) + len(entry.events) for entry in read_all(ledger)]
    monkeypatch.setattr(entry_queries, "PAGE_BYTES_MAX", sizes[0] + sizes[1])
    assert len(list_entries(ListEntriesRequest(), ledger).entries) == 2
    monkeypatch.setattr(entry_queries, "PAGE_BYTES_MAX", 1)
    assert indices(read_all(ledger)) == list(range(ledger.size))
    monkeypatch.setattr(entry_queries, "ENTRIES_MAX", 3)
    monkeypatch.setattr(entry_queries, "PAGE_BYTES_MAX", 1 << 20)
    assert len(list_entries(ListEntriesRequest(entries_max=1000), ledger).entries) == 3


def test_an_empty_page_is_no_page(registrar: Registrar) -> None:
    with pytest.raises(InvalidRequest, match="entries_max"):
        list_entries(ListEntriesRequest(entries_max=0), registrar.ledger)
