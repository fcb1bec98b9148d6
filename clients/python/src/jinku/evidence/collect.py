"""Collecting a package from a running service, with an auditor's certificate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from jinku import notes
from jinku.errors import Refused, require_accepted
from jinku.evidence.content import Content, Earlier, Opened, Selection
from jinku.evidence.entries import Entry, EvidenceInvalid, each, in_order
from jinku.evidence.scan import Told, find_concerning, list_entries, scan
from jinku.failure import JinkuError
from jinku.ledger import LedgerClient
from jinku.registry import RegistryClient
from jinku.type.v1.personal_pb2 import ReadPurpose
from jinku.v1.common_pb2 import Receipt
from jinku.v1.contact_pb2 import ReadContactRequest
from jinku.v1.ledger_pb2 import (
    GetCheckpointRequest,
    GetCheckpointResponse,
    GetConsistencyProofRequest,
    GetProofRequest,
)
from jinku.v1.registry_pb2 import GetContainerRequest, GetContainerResponse
from jinku.verdicts import Fault


class NotWitnessedYet(JinkuError):
    """No checkpoint that witnesses cosigned holds all of it; repeat in a moment."""


@dataclass(frozen=True)
class Wanted:
    """What the package is to hold."""

    label: str
    # Read the whole journal: refused commands too, and nothing rests on the service's own index.
    scanned: bool = False
    # The contacts of the box's institution, without their values.
    contacts: bool = False
    # Receipts whose checkpoints are to be proven to begin the journal.
    receipts: Sequence[Receipt] = ()
    # Under a checkpoint that witnesses cosigned, or not at all.
    witnessed: bool = False


@dataclass(frozen=True)
class Collector:
    """Reads one box's package over these clients."""

    ledger: LedgerClient
    registry: RegistryClient
    told: Told = lambda _: None

    def collect(self, wanted: Wanted) -> Content:
        """The content. Refused if there is no such box, NotWitnessedYet, CallFailed."""
        # Before the checkpoint, which then holds it.
        box = self.find_box(wanted.label)
        answer = self.ledger.get_checkpoint(GetCheckpointRequest())
        newest = parse_note(answer.checkpoint)
        about = list(self.read_box(box.container_id, newest, scanned=wanted.scanned))
        persons: list[bytes] = []
        for one in each(about, "container_registered"):
            if wanted.contacts and one.container_id == box.container_id:
                persons += self.find_persons(one.institution_id, newest.tree_size)
        for person in persons:
            about += list_entries(self.ledger, newest.tree_size, subject_id=person)
        sizes = [parse_note(receipt.checkpoint).tree_size for receipt in wanted.receipts]
        needed = max([entry.index + 1 for entry in about] + sizes, default=1)
        content = Content(
            container_id=box.container_id,
            selection=Selection.EVENTS_AND_REFUSALS if wanted.scanned else Selection.EVENTS,
            persons=tuple(persons),
            note=choose_note(answer, needed, witnessed=wanted.witnessed),
            entries=in_order(about),
            proofs={},
        )
        content = self.complete(content)
        return replace(
            content,
            proofs={entry.index: self.prove(entry, content) for entry in content.entries},
            earlier=tuple(self.read_earlier(wanted.receipts, content)),
        )

    def find_box(self, label: str) -> GetContainerResponse:
        box = self.registry.get_container(GetContainerRequest(label=label))
        if not box.found:
            raise Refused(tuple(box.refused.reasons))
        return box

    def read_box(
        self, container_id: bytes, newest: notes.Checkpoint, *, scanned: bool
    ) -> Iterable[Entry]:
        if not scanned:
            return list_entries(self.ledger, newest.tree_size, subject_id=container_id)
        every = scan(self.ledger, newest, self.told)
        return find_concerning(every, container_id, with_refusals=True)

    def find_persons(self, institution_id: bytes, tree_size: int) -> Iterator[bytes]:
        """Every contact that the institution had by then: what it has now may be another's."""
        entries = list_entries(self.ledger, tree_size, subject_id=institution_id)
        return (one.contact_id for one in each(entries, "contact_registered"))

    def complete(self, content: Content) -> Content:
        """With the entries that made what the others name."""
        while missing := content.needed - content.by_index.keys():
            made = [self.read_entry(index) for index in missing]
            content = replace(content, entries=in_order([*content.entries, *made]))
        return content

    def read_entry(self, index: int) -> Entry:
        for entry in list_entries(self.ledger, index + 1, index):
            return entry
        raise EvidenceInvalid(Fault.ENTRY_MISSING, f"entry {index}")

    def prove(self, entry: Entry, content: Content) -> tuple[bytes, ...]:
        size = content.checkpoint.tree_size
        request = GetProofRequest(entry_index=entry.index, tree_size=size)
        return tuple(self.ledger.get_proof(request).inclusion_proof)

    def read_earlier(self, receipts: Sequence[Receipt], content: Content) -> Iterator[Earlier]:
        size = content.checkpoint.tree_size
        before = {parse_note(receipt.checkpoint).tree_size: receipt for receipt in receipts}
        for first, receipt in sorted(before.items()):
            if first < size:
                request = GetConsistencyProofRequest(first_tree_size=first, second_tree_size=size)
                proof = self.ledger.get_consistency_proof(request).consistency_proof
                yield Earlier(first, receipt.checkpoint, tuple(proof))


def parse_note(note: str) -> notes.Checkpoint:
    return notes.parse_checkpoint(notes.Note.parse(note).text)


def choose_note(answer: GetCheckpointResponse, needed: int, *, witnessed: bool) -> str:
    """The witnessed checkpoint where it holds all that is needed, else the newest."""
    if answer.witnessed_checkpoint and answer.witnessed_tree_size >= needed:
        return answer.witnessed_checkpoint
    if witnessed:
        raise NotWitnessedYet(
            f"witnesses cosigned {answer.witnessed_tree_size} entries, {needed} are needed; "
            "repeat in a moment, or export without --witnessed"
        )
    return answer.checkpoint


def open_persons(content: Content, registry: RegistryClient) -> Content:
    """With the values of its persons that are not erased, as a privacy officer is given them: each
    reading is journalled. Refused where it is.
    """
    opened: list[Opened] = []
    for person in content.persons:
        if person not in content.erased:
            opened += read_values(person, registry)
    kept = tuple(one for one in opened if one.entry_index in content.by_index)
    return replace(content, opened=kept)


def read_values(person: bytes, registry: RegistryClient) -> Iterator[Opened]:
    request = ReadContactRequest(
        contact_id=person,
        purpose=ReadPurpose.READ_PURPOSE_EVIDENCE,
        with_superseded=True,
        with_openings=True,
    )
    response = registry.read_contact(request)
    require_accepted(response.outcome)
    if response.HasField("withheld"):
        raise Refused(tuple(response.withheld.reasons))
    for one in response.values:
        yield Opened(person, one.field, one.entry_index, one.text, one.opening)
