"""Every setting of the service, typed. One TOML file; a wrong key or value is refused by name.

Sizes and times are engineering limits; a number that a regulation sets lives in a policy pack
instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$")]
Role = Literal["REGISTRAR", "AUDITOR", "PRIVACY_OFFICER"]
PORT_MAX = 65_535


def check_port(listen: str) -> str:
    if listen and int(listen.rpartition(":")[2]) > PORT_MAX:
        raise ValueError(f"the port is 0 to {PORT_MAX}")
    return listen


class Section(BaseModel):
    """A table of the settings file: unknown keys are errors, values never change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServiceSettings(Section):
    """A service that may call, named in the founding entry (realm.services)."""

    name: Name
    roles: tuple[Role, ...] = Field(min_length=1)


class RealmSettings(Section):
    """Whose journal this is."""

    number: int = Field(ge=1, le=2**32 - 1)
    trust_domain: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,254}$")
    # `demonstration` makes its own short-lived CA and binds to loopback only; any other refuses
    # to start with that CA.
    profile: Literal["demonstration", "production"]
    services: tuple[ServiceSettings, ...] = ()


class StorageSettings(Section):
    """Where the ledger and the read log live."""

    directory: Path
    # Size of the sparse LMDB maps, GiB. Only what is written takes room on disk.
    ledger_map_gib: int = Field(default=64, ge=1, le=16384)
    readlog_map_gib: int = Field(default=64, ge=1, le=16384)


class KeySettings(Section):
    """Where the realm's key file and tag masters live: directory 0700, files 0600."""

    directory: Path


class ServerSettings(Section):
    """The gRPC door."""

    listen: str = Field(default="127.0.0.1:7443", pattern=r"^\S+:\d{1,5}$")
    certificate: Path
    private_key: Path
    client_ca: Path
    # Streams and unary calls at the same time; health checks are not counted.
    streams_max: int = Field(default=256, ge=1, le=4096)
    calls_max: int = Field(default=64, ge=1, le=4096)
    message_bytes_max: int = Field(default=4 << 20, ge=1 << 12, le=64 << 20)
    drain_seconds: float = Field(default=10.0, ge=0, le=600)
    # A client that takes no answer for so long loses its stream.
    write_deadline_seconds: float = Field(default=10.0, ge=0.1, le=600)
    # Pings to a silent peer, and how soon it must answer; how often a peer may ping us.
    keepalive_seconds: float = Field(default=60.0, ge=1, le=7200)
    keepalive_timeout_seconds: float = Field(default=10.0, ge=0.5, le=600)
    ping_seconds_min: float = Field(default=20.0, ge=0.1, le=7200)
    # A connection without calls is closed after so long.
    idle_seconds_max: float = Field(default=900.0, ge=1, le=86_400)
    # host:port of the Prometheus endpoint (plain HTTP, loopback unless you know better); empty:
    # none.
    metrics_listen: str = Field(default="", pattern=r"^(\S+:\d{1,5})?$")

    _check_port = field_validator("listen", "metrics_listen")(check_port)


class SequencerSettings(Section):
    """The one writer."""

    queue_max: int = Field(default=1024, ge=1, le=1 << 20)
    batch_max: int = Field(default=256, ge=1, le=4096)
    # Entries of refusals per caller and interval, and as many of refusals that raise an alarm; the
    # rest are counted and digested into one.
    refusals_per_interval_max: int = Field(default=600, ge=1, le=1_000_000)
    refusal_interval_seconds: float = Field(default=60.0, ge=0.1, le=86_400)


class PortalSettings(Section):
    """What portals may send and how their reads are judged."""

    batch_reads_max: int = Field(default=65_536, ge=1, le=131_072)
    batches_in_flight_max: int = Field(default=8, ge=1, le=256)
    tracks_max: int = Field(default=65_536, ge=16, le=1 << 22)
    live_challenge_seconds: float = Field(default=30.0, ge=0.5, le=3600)
    spool_challenge_hours: float = Field(default=24.0, ge=0.1, le=24 * 31)
    # How far a portal's clock may run ahead of ours, and back within its own epoch.
    time_ahead_ms_max: int = Field(default=2_000, ge=0, le=600_000)
    time_back_ms_max: int = Field(default=1_000, ge=0, le=600_000)
    # A tag that was not read for so long has gone: its passage is decided.
    quiet_ms: int = Field(default=1_500, ge=100, le=600_000)
    # Individually journalled alarms per portal and interval; the rest are counted and digested
    # into one.
    alarms_per_interval_max: int = Field(default=64, ge=1, le=100_000)
    alarm_interval_seconds: float = Field(default=60.0, ge=0.1, le=86_400)
    # The same cause at the same portal is not alarmed again within this time.
    alarm_repeat_seconds: float = Field(default=30.0, ge=0, le=86_400)


class VaultRetentionSettings(Section):
    """How long the reads of a vault's portals are kept (readlog.vaults)."""

    code: str = Field(min_length=1, max_length=64)
    retention_days: int = Field(ge=30, le=3660)
    # Whose rule that is: kept with every deletion.
    retention_article: str = Field(min_length=1, max_length=64)


class ReadLogSettings(Section):
    """How reads are made unalterable, and how long they are kept."""

    # A portal's run of batches is complete, and its digest journalled, at the first of these.
    segment_batches_max: int = Field(default=4096, ge=1, le=1 << 20)
    segment_mib_max: int = Field(default=64, ge=1, le=4096)
    segment_minutes_max: int = Field(default=60, ge=1, le=1440)
    # For every portal; the rules say 30, 60 or 90, and policy packs take this over. None: nothing is
    # deleted but where a vault's own rule says so. Where both say something, the longer holds.
    retention_days: int | None = Field(default=None, ge=30, le=3660)
    # Whose rule that is: kept with every deletion.
    retention_article: str = Field(default="readlog.retention_days", min_length=1, max_length=64)
    vaults: tuple[VaultRetentionSettings, ...] = ()
    prune_interval_seconds: float = Field(default=300.0, ge=0.1, le=86_400)


class PersonalSettings(Section):
    """How long personal values are kept, and how they are erased."""

    # Counted from when somebody's office ended. No source of ours names a number; policy packs
    # will.
    retention_days: int = Field(default=1825, ge=0, le=36_500)
    # Whose rule that is: told with every refusal and kept with every erasure.
    retention_article: str = Field(default="personal.retention_days", min_length=1, max_length=64)
    # How long a request to erase waits for its confirmation.
    confirm_hours_max: float = Field(default=72.0, ge=0.001, le=24 * 31)


class PublicSettings(Section):
    """The public door: the newest checkpoint and hash tiles, for everybody, over plain HTTP."""

    # host:port; empty: none.
    listen: str = Field(default="", pattern=r"^(\S+:\d{1,5})?$")
    connections_max: int = Field(default=32, ge=1, le=1024)
    # A connection is cut after so long, whatever it is doing.
    connection_seconds_max: float = Field(default=10.0, ge=0.1, le=600)
    # Of all callers together; more wait.
    requests_per_second_max: float = Field(default=200.0, ge=1, le=100_000)

    _check_port = field_validator("listen")(check_port)


class WitnessSettings(Section):
    """A witness that is asked to cosign (witnesses.asked)."""

    # Submission prefix, e.g. https://witness.example.org/
    url: str = Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#@]*)?$")
    # Its verifier key, name+id+key, as it prints it.
    key: str = Field(pattern=r"^\S+$")
    # Where its latest checkpoints are read; empty: the same prefix.
    monitoring_url: str = Field(default="", pattern=r"^(https?://[^\s/?#@]+(/[^\s?#@]*)?)?$")


class WitnessesSettings(Section):
    """Who cosigns this ledger's checkpoints, and what happens without them."""

    asked: tuple[WitnessSettings, ...] = Field(default=(), max_length=16)
    # So many of them make a checkpoint a witnessed one.
    quorum: int = Field(default=1, ge=1, le=16)
    interval_seconds: float = Field(default=1.0, ge=0.05, le=3600)
    # For one question and its answer.
    timeout_seconds: float = Field(default=5.0, ge=0.1, le=60)
    # Entries that are not witnessed for so long make the health `witnesses` say NOT_SERVING.
    late_seconds: float = Field(default=60.0, ge=1, le=86_400)
    # At the start, when too few witnesses answer to know that none has seen a later checkpoint.
    when_unreachable: Literal["refuse", "serve"] = "refuse"

    @model_validator(mode="after")
    def _check_quorum(self) -> WitnessesSettings:
        if self.asked and self.quorum > len(self.asked):
            raise ValueError(f"quorum is {self.quorum}, of {len(self.asked)} witnesses asked")
        return self


class LogSettings(Section):
    """Structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Settings(Section):
    """The whole file."""

    realm: RealmSettings
    storage: StorageSettings
    keys: KeySettings
    server: ServerSettings
    sequencer: SequencerSettings = SequencerSettings()
    portal: PortalSettings = PortalSettings()
    readlog: ReadLogSettings = ReadLogSettings()
    personal: PersonalSettings = PersonalSettings()
    public: PublicSettings = PublicSettings()
    witnesses: WitnessesSettings = WitnessesSettings()
    log: LogSettings = LogSettings()
