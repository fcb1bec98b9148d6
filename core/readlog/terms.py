"""What a portal's batches are judged and followed under while a service runs. Pure.

Batches name it by its digest, so that whoever judges them again does so under what was in force, and
not under today's settings.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from core.errors import LedgerCorrupt
from core.portal.challenges import ChallengeBook
from core.portal.columns import U8
from core.settings import PortalSettings
from core.store.v1.reads_pb2 import LoadedMaster, ReadTerms

_NS_PER_SECOND = 1_000_000_000
_NS_PER_MS = 1_000_000


def terms_of(
    settings: PortalSettings,
    challenges: ChallengeBook,
    masters: Iterable[tuple[int, int]],
    sides: U8,
) -> bytes:
    """The terms of a portal, serialised. `masters`: issuing realm and version of those loaded."""
    loaded = [
        LoadedMaster(issuing_realm=realm, key_version=version) for realm, version in sorted(masters)
    ]
    terms = ReadTerms(
        masters=loaded,
        live_challenge_ns=challenges.live_ns,
        spool_challenge_ns=challenges.spool_ns,
        quiet_ns=settings.quiet_ms * _NS_PER_MS,
        tracks_max=settings.tracks_max,
        alarm_repeat_ns=int(settings.alarm_repeat_seconds * _NS_PER_SECOND),
        sides=sides.tobytes(),
        time_back_ns=settings.time_back_ms_max * _NS_PER_MS,
    )
    return terms.SerializeToString(deterministic=True)


def parse_terms(packed: bytes) -> ReadTerms:
    """Terms again. LedgerCorrupt if it is no such thing."""
    try:
        return ReadTerms.FromString(packed)
    except DecodeError:
        raise LedgerCorrupt("read log", "terms are of an unknown layout") from None
