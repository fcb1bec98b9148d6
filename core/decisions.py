"""What a procedure is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.protobuf.message import Message

from core.ids import make_id
from core.ledger.tables import State, Table
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.event.v1.event_pb2 import Event, Events
from jinku.type.v1.command_pb2 import CommandId, Extra
from jinku.type.v1.reason_pb2 import ReasonCode, ReasonRecord
from jinku.v1.common_pb2 import Outcome


@dataclass(slots=True)
class Context:
    """Where and when a command is decided, and by whom. One per decision."""

    realm: int
    entry_index: int
    decided_at_ns: int
    principal: str
    device_id: bytes
    command_id: CommandId
    request_digest: bytes
    made_ids: list[bytes] = field(default_factory=list)

    def new_id(self) -> bytes:
        """The next id of this entry, 16 bytes."""
        made = make_id(self.realm, self.entry_index, len(self.made_ids))
        self.made_ids.append(made)
        return made


@dataclass(frozen=True)
class Beside:
    """A row beside the journal, committed with the entry; None removes it.

    Of a table in `BESIDE` alone: replay knows nothing of it.
    """

    table: Table[Any]
    key: bytes
    row: Message | None


class Decision(NamedTuple):
    """Events, or reasons why not.

    A refusal may carry events too (an alarm); it never changes what it refused.
    """

    events: Sequence[Event] = ()
    reasons: Sequence[ReasonRecord] = ()
    extras: Sequence[Extra] = ()
    beside: Sequence[Beside] = ()

    @property
    def accepted(self) -> bool:
        """True if no reason stands against it."""
        return not self.reasons


# Decide looks at the state and changes nothing; answer is a pure function of the committed entry.
Decide = Callable[[Any, State, Context], Decision]
Answer = Callable[[EntryHeader, Events, Outcome], Message]


@dataclass(frozen=True)
class Handler:
    """One command.

    Its request, how it is decided, how its entry is answered (None: nobody asked).
    """

    request: type[Message]
    decide: Decide
    answer: Answer | None = None


def reason(code: ReasonCode, item: str = "", item_id: bytes = b"") -> ReasonRecord:
    """A reason as the journal keeps it."""
    return ReasonRecord(code=code, item=item, item_id=item_id)
