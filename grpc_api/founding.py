"""What `jinkud init` makes: a directory with settings, keys, certificates and a founded ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from core.errors import SettingsError
from core.keys import RealmKeys, create_tag_master
from core.realm import found_realm, principal_of
from core.settings import Settings
from core.store.v1.commands_pb2 import FoundingServiceSpec, FoundRealm

from .certificates import CertificateFiles, DemonstrationCa
from .config import load_settings

SETTINGS_FILE = "jinku.toml"
CERTIFICATES = "certificates"
LEDGER = "ledger"
READ_LOG = "readlog"
TAG_INDEX = "tag-index.snapshot"
FIRST_KEY_VERSION = 1
DEMONSTRATION_SERVICES = (
    ("registrar", ("REGISTRAR",)),
    ("auditor", ("AUDITOR",)),
    ("privacy", ("PRIVACY_OFFICER",)),
)

TEMPLATE = """\
# Settings of jinkud. Every key is explained in docs/configuration.md; what is left out has its
# default. Paths are relative to this file. JINKU_SERVER__LISTEN=… in the environment goes before
# `listen` below, and so on.

[realm]
number = {number}
trust_domain = "{trust_domain}"
profile = "{profile}"
{services}
[storage]
directory = "data"
ledger_map_gib = {map_gib}
readlog_map_gib = {map_gib}

[keys]
directory = "keys"

[server]
listen = "{listen}"
certificate = "certificates/server.pem"
private_key = "certificates/server.key"
client_ca = "certificates/ca.pem"
metrics_listen = "{metrics_listen}"

[log]
level = "info"
format = "json"
"""
SERVICE_TEMPLATE = """
# Fixed by the founding entry: a change here is refused.
[[realm.services]]
name = "{name}"
roles = [{roles}]
"""


@dataclass(frozen=True)
class Founding:
    """What a new realm is."""

    directory: Path
    profile: Literal["demonstration", "production"] = "demonstration"
    number: int = 1
    trust_domain: str = "demonstration.jinku.example"
    listen: str = "127.0.0.1:7443"
    metrics_listen: str = ""
    map_gib: int = 64
    services: Sequence[tuple[str, Sequence[str]]] = field(default=DEMONSTRATION_SERVICES)


def ledger_path(settings: Settings) -> Path:
    return settings.storage.directory / LEDGER


def read_log_path(settings: Settings) -> Path:
    return settings.storage.directory / READ_LOG


def tag_index_path(settings: Settings) -> Path:
    return settings.storage.directory / TAG_INDEX


def initialise(founding: Founding) -> tuple[Settings, str]:
    """Makes the directory and founds the ledger; returns the settings and the verifier key.

    Raises:
        SettingsError: the directory is not empty, or a value is not allowed.
    """
    directory = founding.directory
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise SettingsError(f"{directory}: is not empty; name a new directory")
    except OSError as error:
        raise SettingsError(f"{directory}: cannot be used ({error.strerror})") from None
    path = directory / SETTINGS_FILE
    path.write_text(_write_settings(founding), encoding="utf-8")
    try:
        settings = load_settings(path, {})
    except SettingsError:
        path.unlink()
        raise
    keys = RealmKeys.create(settings.keys.directory)
    create_tag_master(settings.keys.directory, founding.number, FIRST_KEY_VERSION)
    certificates = directory / CERTIFICATES
    certificates.mkdir(mode=0o700)
    if founding.profile == "demonstration":
        ca = DemonstrationCa.create(certificates)
        for service in settings.realm.services:
            issue(ca, settings, "service", service.name)
    request = FoundRealm(
        realm=founding.number,
        trust_domain=founding.trust_domain,
        services=[
            FoundingServiceSpec(name=service.name, roles=service.roles)
            for service in settings.realm.services
        ],
    )
    settings.storage.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    verifier_key = found_realm(
        ledger_path(settings), keys, request, map_gib=settings.storage.ledger_map_gib
    )
    return settings, verifier_key


def issue(ca: DemonstrationCa, settings: Settings, kind: str, name: str) -> CertificateFiles:
    """A demonstration certificate for one client of this realm."""
    realm = settings.realm
    return ca.issue_client(kind, name, principal_of(realm.trust_domain, realm.number, kind, name))


def renew(settings: Settings) -> list[CertificateFiles]:
    """A new demonstration CA, and new certificates for everyone who had one from the old."""
    directory = settings.server.client_ca.parent
    clients = [
        (kind, path.stem.removeprefix(f"{kind}-"))
        for kind in ("portal", "service")
        for path in sorted(directory.glob(f"{kind}-*.pem"))
    ]
    ca = DemonstrationCa.create(directory)
    return [issue(ca, settings, kind, name) for kind, name in clients]


def _write_settings(founding: Founding) -> str:
    services = "".join(
        SERVICE_TEMPLATE.format(name=name, roles=", ".join(f'"{role}"' for role in roles))
        for name, roles in founding.services
    )
    return TEMPLATE.format(
        number=founding.number,
        trust_domain=founding.trust_domain,
        profile=founding.profile,
        services=services,
        listen=founding.listen,
        metrics_listen=founding.metrics_listen,
        map_gib=founding.map_gib,
    )
