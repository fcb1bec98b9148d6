"""Every command and every question, by its request: what the sequencer and the service look up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from google.protobuf.message import Message

from core.decisions import Handler
from core.personal.office import Office
from core.procedures.clock import CLOCK_HANDLERS
from core.procedures.contact_queries import CONTACT_QUERIES
from core.procedures.contacts import OfficeOf, contact_handlers
from core.procedures.entry_queries import ENTRY_QUERIES
from core.procedures.erasure import erasure_handlers
from core.procedures.portal import PORTAL_HANDLERS
from core.procedures.queries import ALL_QUERIES, Query
from core.procedures.refusals import REFUSAL_HANDLERS
from core.procedures.registry import REGISTRY_HANDLERS
from core.procedures.segments import SEGMENT_HANDLERS
from core.procedures.tags import LoadedTagKeys, tag_handlers

__all__ = ["QUERIES", "LoadedTagKeys", "Query", "handlers"]


def _no_office() -> Office:
    raise LookupError("commands about persons need wrapping keys, and none were opened")


def handlers(
    loaded_keys: LoadedTagKeys, office: OfficeOf = _no_office
) -> dict[type[Message], Handler]:
    """The commands that the writer takes, by type of request: callers' and the service's own.

    `loaded_keys` tells which tag masters are loaded now, `office` gives what opens personal values.
    Deciding may ask them because replay decides nothing. ValueError if a request has two handlers.
    """
    own = [*PORTAL_HANDLERS.values(), *SEGMENT_HANDLERS, *REFUSAL_HANDLERS, *CLOCK_HANDLERS]
    persons = [*contact_handlers(office), *erasure_handlers(office)]
    return _by_request([*REGISTRY_HANDLERS, *tag_handlers(loaded_keys), *persons, *own])


def _by_request(all_handlers: Iterable[Handler]) -> dict[type[Message], Handler]:
    table: dict[type[Message], Handler] = {}
    for handler in all_handlers:
        if handler.request in table:
            raise ValueError(f"{handler.request.DESCRIPTOR.full_name} has two handlers")
        table[handler.request] = handler
    return table


QUERIES: Mapping[type[Message], Query] = MappingProxyType(
    {query.request: query for query in (*ALL_QUERIES, *ENTRY_QUERIES, *CONTACT_QUERIES)}
)
