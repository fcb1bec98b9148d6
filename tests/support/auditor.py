"""An auditor of its own mind: reads the journal, and says what in it is against the rules.

It shares no code with `core`: the rules are read from docs/, the schema's comments and the catalogue
of reasons, and written down here a second time, in another form. It keeps its own books of who holds
what, and a finding is a line with the entry's index. Given the requests that were sent (the journal
has only their digests), it also says what each ought to have been answered.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from auditor_books import ACCEPTED, BOOKS, HASH, OWN, REFUSED, REUSED, Books
from auditor_requests import (
    UNKNOWABLE,
    Asked,
    expected_presentation,
    expected_reasons,
    misread,
)
from jinku import notes, receipts
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Events
from jinku.tiles import TileTree
from jinku.type.v1.command_pb2 import CommandId
from jinku.v1.common_pb2 import Reason, Receipt
from jinku.v1.portal_pb2 import PresentedTag
from jinku.v1.registry_pb2 import GetContainerResponse

RELEASE, HOLD = 1, 2
NOT_RECORDED = 102
RECEIPT_BYTES_MAX = 4096
# Which events an accepted command has, in this order, by its request.
EVENTS = {
    OWN + "FoundRealm": "realm_founded",
    OWN + "RecordPassage": "(passage_recorded( custody_moved)?( alarm_raised)?)?",
    OWN + "RaisePortalAlarm": "alarm_raised",
    OWN + "SealReadSegment": "read_segment_sealed",
    OWN + "PruneReadSegment": "read_segment_pruned",
    OWN + "KeepCounters": "(counters_kept)?",
    OWN + "SumUpRefusals": "refusals_counted( alarm_raised)?",
    OWN + "RaiseTimeAlarm": "alarm_raised",
    OWN + "TakeWrappingKey": "(wrapping_key_taken)?",
    OWN + "RewrapSubjectKeys": "(subject_keys_rewrapped)?",
    OWN + "CarryErasure": "(subject_erased)?",
    OWN + "NoteWrappingKeyDestroyed": "(wrapping_key_destroyed)?",
    "jinku.v1.RegisterInstitutionRequest": "institution_registered",
    "jinku.v1.RegisterVaultRequest": "vault_registered",
    "jinku.v1.RegisterPortalRequest": "portal_registered",
    "jinku.v1.RegisterContainerRequest": "container_registered",
    "jinku.v1.IssueTagRequest": "(tag_retired )?tag_issued",
    "jinku.v1.FreezeTagRequest": "tag_frozen",
    "jinku.v1.UnfreezeTagRequest": "tag_unfrozen",
    "jinku.v1.RetireTagRequest": "tag_retired",
    "jinku.v1.RegisterContactRequest": "(wrapping_key_taken )?contact_registered",
    "jinku.v1.ChangeContactRequest": "contact_changed",
    "jinku.v1.EndContactRequest": "contact_ended",
    "jinku.v1.ReadContactRequest": "personal_values_read",
    "jinku.v1.RequestErasureRequest": "erasure_requested",
    "jinku.v1.ConfirmErasureRequest": "subject_erased",
}
# Who may, of the callers: any of these roles.
ROLES = {
    "jinku.v1.ReadContactRequest": {"REGISTRAR", "PRIVACY_OFFICER"},
    "jinku.v1.RequestErasureRequest": {"REGISTRAR", "PRIVACY_OFFICER"},
    "jinku.v1.ConfirmErasureRequest": {"PRIVACY_OFFICER"},
}
REGISTRARS = {"REGISTRAR"}


@dataclass(frozen=True)
class Finding:
    """Something that is against the rules."""

    index: int
    what: str


class Auditor:
    """Takes entries in order; `findings` is empty while all is as it ought to be."""

    def __init__(
        self,
        requests: Mapping[bytes, Message] | None = None,
        keys: Iterable[int] = (1,),
        verifier_key: str = "",
    ) -> None:
        """`requests` by their SHA-256: what was sent. `keys`: versions of loaded tag masters.
        `verifier_key` checks receipts.
        """
        self.verifier_key = verifier_key
        self.requests: Mapping[bytes, Message] = {} if requests is None else requests
        self.keys = set(keys)
        self.books = Books()
        self.findings: list[Finding] = []
        self.headers: list[EntryHeader] = []
        self.leaves: list[bytes] = []
        self.salts: set[bytes] = set()
        self.made: dict[bytes, int] = {}
        # By principal and command id: the entries, of which the first is the answer.
        self.commands: dict[tuple[str, bytes], list[int]] = {}
        # Answers without an entry.
        self.unrecorded = 0
        # Their headers as far as they are known, by principal and whether they would have alarmed.
        self.suppressed: dict[tuple[str, bool], list[EntryHeader]] = {}
        self.refusals: dict[tuple[str, bool], tuple[int, int]] = {}

    # -- the journal as a whole

    def take(self, header_bytes: bytes, events_bytes: bytes) -> None:
        header, events = EntryHeader.FromString(header_bytes), Events.FromString(events_bytes)
        self.leaves.append(header_bytes + hashlib.sha256(events_bytes).digest())
        self.check_header(header)
        self.check_ids(header, events)
        repeats = self.check_command_id(header, events)
        if header.outcome == REFUSED and header.command_id.HasField("client"):
            self.check_refusal_number(header, alarming=bool(events.events))
        if not repeats:
            self.check_outcome(header, events)
        request = self.requests.get(header.request_digest)
        if request is not None and not repeats:
            self.check_request(header, events, request)
        self.headers.append(header)
        for event in events.events:
            kind = event.WhichOneof("event") or ""
            book = BOOKS.get(kind)
            if book is None:
                self.find(f"an event that nobody knows: {kind}")
                continue
            for fault in book(self.books, getattr(event, kind), header, events):
                self.find(fault)
            self.tell_history(event)

    def find(self, what: str) -> None:
        self.findings.append(Finding(len(self.leaves) - 1, what))

    def check_root(self, checkpoint: notes.Checkpoint) -> None:
        """The entries taken are those of the signed checkpoint, all of them (RFC 6962)."""
        if len(self.leaves) != checkpoint.tree_size or root(self.leaves) != checkpoint.root_hash:
            self.find("the entries are not those of the signed checkpoint")

    def check_leaves(self, tree: TileTree, checkpoint: notes.Checkpoint) -> None:
        """Each entry is the one in its place of the signed tree; those that are not are named."""
        if tree.root() != checkpoint.root_hash:
            self.find("the tiles are not those of the signed checkpoint")
        for index in range(max(len(self.leaves), tree.tree_size)):
            if index >= tree.tree_size:
                self.findings.append(Finding(index, "is not in the signed journal"))
            elif index >= len(self.leaves):
                self.findings.append(Finding(index, "is missing"))
            elif notes.hash_leaf(self.leaves[index]) != tree.leaf_hash(index):
                self.findings.append(Finding(index, "is not what was signed"))

    def check_header(self, header: EntryHeader) -> None:
        before = self.headers[-1] if self.headers else header
        wrong = {
            "its index is not its place": header.index != len(self.leaves) - 1,
            "it is of another realm": header.realm != before.realm or not header.realm,
            "its salt is not 16 new bytes": len(header.salt) != 16 or header.salt in self.salts,
            "it was decided before the one before it": header.decided_at_ns < before.decided_at_ns,
            "it names no rules": header.policy_version != "founding-1",
            "nobody did it": not self.is_somebody(header),
            "a request without its digest": len(header.request_digest)
            != (0 if header.command.startswith(OWN) else 32),
        }
        for what, is_wrong in wrong.items():
            if is_wrong:
                self.find(what)
        self.salts.add(header.salt)

    def is_somebody(self, header: EntryHeader) -> bool:
        """The principal is registered under the id that the entry says, and may do that."""
        *start, kind, name = header.principal.split("/")
        if header.command.startswith(OWN):
            own = (kind, name) == ("service", "jinkud")
            return own and (not header.device_id or header.device_id in self.books.portal_vault)
        if start != ["spiffe:", "", self.books.trust_domain, str(self.books.realm)]:
            return False
        known, roles = self.books.services.get(header.device_id, ("", set()))
        may = ROLES.get(header.command, REGISTRARS)
        return kind == "service" and name == known and bool(roles & may)

    def check_ids(self, header: EntryHeader, events: Events) -> None:
        """Ids are realm ‖ index ‖ 0, 1, 2 …, and the events make just those."""
        wanted = [
            header.realm.to_bytes(4) + header.index.to_bytes(8) + ordinal.to_bytes(4)
            for ordinal in range(len(header.made_ids))
        ]
        if list(header.made_ids) != wanted:
            self.find("its ids are not numbered as they must be")
        made = [one for event in events.events for one in made_by(event)]
        if made != list(header.made_ids):
            self.find("its events make other ids than it says")
        self.made.update(dict.fromkeys(header.made_ids, header.index))

    def check_command_id(self, header: EntryHeader, events: Events) -> bool:
        """One command id, one outcome. Whether it is one that was there before."""
        key = (header.principal, header.command_id.SerializeToString(deterministic=True))
        if header.command_id.WhichOneof("id") is None:
            self.find("a command without an id")
        before = self.commands.setdefault(key, [])
        before.append(len(self.leaves) - 1)
        if len(before) == 1:
            if any(reason.code == REUSED for reason in header.reasons):
                self.find("a command id is called used that was not")
            return False
        bodies = [(self.headers[at].command, self.headers[at].request_digest) for at in before[:-1]]
        alarms = [one.alarm_raised for one in events.events if one.HasField("alarm_raised")]
        if (header.command, header.request_digest) in bodies:
            self.find("the same command was decided twice")
        if header.outcome != REFUSED or [one.code for one in header.reasons] != [REUSED]:
            self.find("a used command id was not refused")
        if len(events.events) != 1 or [one.code for a in alarms for one in a.reasons] != [REUSED]:
            self.find("a used command id was not alarmed")
        return True

    def check_outcome(self, header: EntryHeader, events: Events) -> None:
        kinds = " ".join(one.WhichOneof("event") or "?" for one in events.events)
        if header.outcome == ACCEPTED:
            if header.reasons:
                self.find("accepted, for reasons against it")
            if not re.fullmatch(EVENTS.get(header.command, "unknown"), kinds):
                self.find(f"{header.command} has events {kinds or 'none'}")
        elif header.outcome == REFUSED:
            if not header.reasons or not all(one.code for one in header.reasons):
                self.find("refused without a reason")
            if kinds or events.extras:
                self.find(f"refused, with events {kinds}")
        else:
            self.find("neither accepted nor refused")

    def check_refusal_number(self, header: EntryHeader, *, alarming: bool) -> None:
        """Numbered within an interval, so that none between two of them is missing."""
        key = (header.principal, alarming)
        since, number = self.refusals.get(key, (0, 0))
        goes_on = (since, number + 1) == (header.refusals_since_ns, header.refusal_number)
        begins = (header.refusals_since_ns, header.refusal_number) == (header.decided_at_ns, 1)
        if not goes_on and not begins:
            self.find("a refusal before it is missing")
        self.refusals[key] = (header.refusals_since_ns, header.refusal_number)

    def check_request(self, header: EntryHeader, events: Events, request: Message) -> None:
        """What was sent ought to have been answered so."""
        if request.DESCRIPTOR.full_name != header.command:
            self.find(f"a {request.DESCRIPTOR.full_name} was taken for a {header.command}")
            return
        asked = Asked(header.device_id, header.decided_at_ns, self.keys)
        ought = expected_reasons(request, self.books, asked)
        if ought is None:
            return
        told = [int(reason.code) for reason in header.reasons]
        said = [code for code in told if code not in UNKNOWABLE]
        if said != ought:
            self.find(
                f"{header.command} ought to be {ought or 'accepted'}, it is {said or 'accepted'}"
            )
        elif not told:
            for what in misread(request, events, self.books):
                self.find(f"{header.command}: {what} is not what was asked for")

    # -- the service's answers

    def check_box(self, answer: GetContainerResponse) -> None:
        """The service says of a box what the journal says."""
        box = self.books.boxes.get(answer.container_id)
        if not answer.found or box is None:
            self.find(f"box {answer.label}: found is {answer.found}")
            return
        tags = [(one.tag_id, one.identity, one.state) for one in answer.tags]
        codes = {id_: code for code, id_ in self.books.institutions.items()}
        said = {
            "label": (answer.label, box.label),
            "holder": (answer.custody.holder_id, box.holder),
            "place": (answer.custody.place, box.place),
            "tags": (tags, [(one, self.books.tags[one].identity, self.books.tags[one].state)
                            for one in box.tags]),
            "institution": (answer.institution_code, codes.get(box.institution)),
            "vault": (self.books.vaults.get(answer.vault_code), box.vault),
            "history": ([(one.entry_index, one.event) for one in answer.history], box.history),
        }  # fmt: skip
        for what, (theirs, ours) in said.items():
            if theirs != ours:
                self.find(f"box {box.label}: its {what} is {ours}, the service says {theirs}")

    def check_presented(self, tag: PresentedTag, vault_id: bytes, *, forged: bool) -> None:
        """The gate was told what it ought to be told."""
        ought, _ = expected_presentation(tag.identity, vault_id, self.books, forged=forged)
        said = [int(reason.code) for reason in tag.reasons]
        decision = HOLD if ought else RELEASE
        if said != ought or tag.decision != decision:
            self.find(f"tag {tag.identity.hex()} is held for {said}, it ought to be for {ought}")

    def check_answer(self, request: bytes, answer: Any, who: str) -> None:
        """The answer to this service is the one of the entry that this very request has, or says that
        it has none.
        """
        outcome, digest = answer.outcome, hashlib.sha256(request).digest()
        if not outcome.HasField("receipt"):
            self.check_unrecorded(answer, self.requests[digest], digest, who)
            return
        self.check_receipt(outcome.receipt)
        header = EntryHeader.FromString(outcome.receipt.header)
        if header.request_digest != digest:
            self.find(f"{type(answer).__name__} is the answer to another request")
        if header.index != outcome.entry_index:
            self.find("the receipt is of another entry than the answer")
        accepted = outcome.WhichOneof("outcome") == "accepted"
        if accepted != (header.outcome == ACCEPTED):
            self.find("the answer says otherwise than the entry")
        said = [int(reason.code) for reason in outcome.refused.reasons]
        if said != [int(reason.code) for reason in header.reasons]:
            self.find("the answer has other reasons than the entry")

    def check_receipt(self, receipt: Receipt) -> None:
        """It proves one of the entries, and has at most 4 KB."""
        if receipt.ByteSize() > RECEIPT_BYTES_MAX:
            self.find(f"a receipt of {receipt.ByteSize()} bytes")
        try:
            verified = receipts.verify(receipt, self.verifier_key)
        except receipts.ReceiptInvalid as error:
            self.find(str(error))
        else:
            if self.leaves[verified.header.index] != receipt.header + receipt.events_digest:
                self.find("a receipt of another entry than the journal's")

    def check_unrecorded(self, answer: Any, request: Any, digest: bytes, who: str) -> None:
        """A refusal beyond the caller's quota: for its own reasons, and for that one."""
        *reasons, last = answer.outcome.refused.reasons or [Reason()]
        said = [int(reason.code) for reason in reasons]
        (by,) = [id_ for id_, (name, _) in self.books.services.items() if name == who]
        ought = expected_reasons(request, self.books, Asked(by, 0, self.keys))
        if (
            last.code != NOT_RECORDED
            or not said
            or (said != [REUSED] and ought not in (None, said))
        ):
            self.find(f"no receipt, for {[*said, last.code]}")
        self.unrecorded += 1
        # As its entry would have been, without salt, index, number and time.
        header = EntryHeader(
            realm=self.books.realm, principal=self.principal_of(who), device_id=by,
            command_id=CommandId(client=request.command_id), policy_version="founding-1",
            command=request.DESCRIPTOR.full_name, request_digest=digest, outcome=REFUSED,
        )  # fmt: skip
        box = self.books.labels.get(getattr(request, "container_label", ""), b"")
        for one in reasons:
            about = box if said != [REUSED] else b""
            header.reasons.add(
                code=one.code, item=one.item, item_id=one.item_id, container_id=about
            )
        self.suppressed.setdefault((header.principal, said == [REUSED]), []).append(header)

    def principal_of(self, who: str) -> str:
        return f"spiffe://{self.books.trust_domain}/{self.books.realm}/service/{who}"

    def check_digests(self) -> int:
        """The digests of counted refusals are of those that were answered. Nobody was told when each
        was decided, the journal has only the first and the last: of how many summaries that was enough.
        """
        checked = 0
        for key, headers in self.suppressed.items():
            waiting = iter(headers)
            for event in self.books.summaries.get(key, []):
                digest = bytes(HASH)
                times = [event.first_ns, event.last_ns][: event.count]
                counted = list(itertools.islice(waiting, event.count))
                if len(counted) != len(times):
                    continue
                for header, at_ns in zip(counted, times, strict=True):
                    header.decided_at_ns = at_ns
                    told = (1).to_bytes(8) + at_ns.to_bytes(8)
                    told += header.SerializeToString(deterministic=True)
                    digest = hashlib.sha256(digest + told).digest()
                checked += 1
                if event.digest != digest:
                    self.find(f"the digest of {event.count} counted refusals is of others")
        return checked

    @property
    def all_counted(self) -> bool:
        """Whether the journal counts every refusal that had no entry of its own."""
        return self.books.counted == self.unrecorded

    def tell_history(self, event: Any) -> None:
        what = getattr(event, event.WhichOneof("event"))
        tag = self.books.tags.get(getattr(what, "tag_id", b""))
        box = getattr(what, "container_id", b"") or (tag.box if tag else b"")
        if box in self.books.boxes:
            self.books.boxes[box].history.append((len(self.leaves) - 1, event))


def root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, by levels."""
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        level = [
            hashlib.sha256(b"\1" + pair[0] + pair[1]).digest() if len(pair) == 2 else pair[0]
            for pair in pairs
        ]
    return level[0] if level else hashlib.sha256(b"").digest()


MAKES = {
    "institution_registered": "institution_id",
    "vault_registered": "vault_id",
    "portal_registered": "portal_id",
    "container_registered": "container_id",
    "tag_issued": "tag_id",
    "alarm_raised": "alarm_id",
    "contact_registered": "contact_id",
    "erasure_requested": "erasure_id",
}


def made_by(event: Any) -> list[bytes]:
    """The ids that an event makes."""
    kind = event.WhichOneof("event")
    if kind == "realm_founded":
        return [service.service_id for service in event.realm_founded.services]
    return [getattr(getattr(event, kind), MAKES[kind])] if kind in MAKES else []
