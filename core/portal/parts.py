"""What every portal of a service shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from core.clock import Clock, system_clock
from core.directory import TagDirectory
from core.ledger.ledger import Ledger
from core.portal.alarms import Separator
from core.portal.challenges import ChallengeBook
from core.portal.commands import Submitter
from core.portal.floor import Floor
from core.portal.profile import Profiles
from core.portal.service_time import ServiceTime
from core.readlog.log import ReadLog
from core.settings import PortalSettings, ReadLogSettings


@dataclass(frozen=True)
class Parts:
    """Opened elsewhere, used by all threads."""

    ledger: Ledger
    directory: TagDirectory
    sequencer: Submitter
    read_log: ReadLog
    challenges: ChallengeBook
    settings: PortalSettings
    principal: str
    floor: Floor
    retention: ReadLogSettings = field(default_factory=ReadLogSettings)
    # What is in memory is no longer what is durable: the service must stop.
    on_failure: Callable[[BaseException], None] = lambda _: None
    # An error that one command or one stream ends with; the service goes on.
    on_incident: Callable[[BaseException], None] = lambda _: None
    # Reads of a batch that has become durable, by number of the verdict.
    on_verdicts: Callable[[Sequence[int]], None] = lambda _: None
    # Genuine reads of tags that no track was left for.
    on_untracked: Callable[[int], None] = lambda _: None
    clock: Clock = system_clock
    service_time: ServiceTime = field(default_factory=ServiceTime)
    # Nanoseconds that only go forwards: how long a portal has been silent.
    monotonic: Clock = time.monotonic_ns
    separator: Separator = field(default_factory=Separator)
    profiles: Profiles = field(default_factory=Profiles)

    @property
    def quiet_ns(self) -> int:
        """A tag not read for so long has gone."""
        return self.settings.quiet_ms * 1_000_000
