"""Challenges that tags answer, without a table of them.

    challenge_id = u8 purpose ‖ u64 issued_at_ns                              (9 bytes, big-endian)
    challenge    = HMAC-SHA-256(challenge_key,
                     "jinku challenge v1" ‖ portal_id ‖ challenge_id)[:10]     (TAM1's IChallenge)

Only the service can make one, a restart loses none, and nothing has to be stored: see
docs/decisions/0002-challenges-are-derived.md.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from jinku.v1.portal_pb2 import Challenge, ChallengePurpose, ChallengeState

_LABEL: Final = b"jinku challenge v1"
_ID: Final = struct.Struct(">BQ")
CHALLENGE_SIZE: Final = 10
DERIVED_MAX: Final = 4096
_NS_PER_SECOND: Final = 1_000_000_000
_STATES: Final[dict[int, ChallengeState]] = {
    ChallengePurpose.CHALLENGE_PURPOSE_LIVE: ChallengeState.CHALLENGE_STATE_LIVE,
    ChallengePurpose.CHALLENGE_PURPOSE_SPOOL: ChallengeState.CHALLENGE_STATE_SPOOL,
}


@dataclass(frozen=True)
class ChallengeBook:
    """Issues and judges the challenges of every portal. Times are UTC nanoseconds, service's clock."""

    key: bytes
    live_ns: int
    spool_ns: int
    # Derived before: a portal's batches quote the same challenge again and again.
    _derived: Callable[[bytes, bytes], bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_derived", lru_cache(maxsize=DERIVED_MAX)(self._derive))

    @classmethod
    def of(cls, key: bytes, live_seconds: float, spool_hours: float) -> ChallengeBook:
        """With lifetimes as the settings give them. `key` is 32 bytes."""
        return cls(
            key, int(live_seconds * _NS_PER_SECOND), int(spool_hours * 3600 * _NS_PER_SECOND)
        )

    def lifetime_ns(self, purpose: int) -> int:
        """How long a challenge of this purpose is good. KeyError for any other number."""
        return {
            int(ChallengePurpose.CHALLENGE_PURPOSE_LIVE): self.live_ns,
            int(ChallengePurpose.CHALLENGE_PURPOSE_SPOOL): self.spool_ns,
        }[purpose]

    def issue(self, portal_id: bytes, purpose: ChallengePurpose, now_ns: int) -> Challenge:
        """A new challenge for this portal."""
        challenge_id = _ID.pack(purpose, now_ns)
        return Challenge(
            challenge_id=challenge_id,
            challenge=self._derive(portal_id, challenge_id),
            purpose=purpose,
            expires_at_ns=now_ns + self.lifetime_ns(purpose),
        )

    def judge(
        self, portal_id: bytes, challenge_id: bytes, now_ns: int
    ) -> tuple[ChallengeState, bytes | None]:
        """Whether the quoted challenge may be answered now, and its 10 bytes if so.

        FOREIGN: no id of ours, or issued after `now_ns`. That it was issued to this portal shows in
        the answers: another portal's id derives another challenge here.
        """
        if len(challenge_id) != _ID.size:
            return ChallengeState.CHALLENGE_STATE_FOREIGN, None
        purpose, issued_ns = _ID.unpack(challenge_id)
        state = _STATES.get(purpose)
        if state is None or issued_ns > now_ns:
            return ChallengeState.CHALLENGE_STATE_FOREIGN, None
        if now_ns >= issued_ns + self.lifetime_ns(purpose):
            return ChallengeState.CHALLENGE_STATE_EXPIRED, None
        return state, self._derived(portal_id, challenge_id)

    def _derive(self, portal_id: bytes, challenge_id: bytes) -> bytes:
        return hmac.digest(self.key, _LABEL + portal_id + challenge_id, "sha256")[:CHALLENGE_SIZE]


class ChallengeSchedule:
    """When one portal gets new challenges: at once, then whenever half of a lifetime is over."""

    def __init__(self, book: ChallengeBook, portal_id: bytes) -> None:
        self._book = book
        self._portal_id = portal_id
        self._renew_at_ns: dict[ChallengePurpose, int] = {
            ChallengePurpose.CHALLENGE_PURPOSE_LIVE: 0,
            ChallengePurpose.CHALLENGE_PURPOSE_SPOOL: 0,
        }

    def due(self, now_ns: int) -> list[Challenge]:
        """The challenges to send now, none to two; they count as sent."""
        issued = []
        for purpose, renew_at_ns in self._renew_at_ns.items():
            if now_ns >= renew_at_ns:
                issued.append(self._book.issue(self._portal_id, purpose, now_ns))
                self._renew_at_ns[purpose] = now_ns + self._book.lifetime_ns(purpose) // 2
        return issued
