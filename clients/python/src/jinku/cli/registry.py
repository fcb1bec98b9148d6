"""`jinku institutions|vaults|portals|boxes|tags`: the RegistryService for a person."""

from __future__ import annotations

from typing import Any

import click

from jinku.accounts import describe_event, format_time, short, strip
from jinku.channel import Connection
from jinku.cli.common import (
    EXIT_CODES,
    EXIT_REFUSED,
    IDENTITY,
    LANGUAGES,
    connection_options,
    registry_of,
    tell_outcome,
)
from jinku.type.v1.place_pb2 import Antenna, ContainerKind, CustodyPlace, InstitutionKind, VaultKind
from jinku.type.v1.tag_pb2 import AntennaSide, TagScheme, TagState
from jinku.v1.registry_pb2 import (
    FreezeTagRequest,
    GetContainerRequest,
    GetContainerResponse,
    IssueTagRequest,
    RegisterContainerRequest,
    RegisterInstitutionRequest,
    RegisterPortalRequest,
    RegisterVaultRequest,
    RetireTagRequest,
    UnfreezeTagRequest,
)


def choice(enum: Any, prefix: str) -> click.Choice[str]:
    """An enum's values as words: `TAG_SCHEME_COUNTER_CMAC` is `counter-cmac`."""
    names = [name.removeprefix(prefix) for name, number in enum.items() if number]
    return click.Choice([name.lower().replace("_", "-") for name in names])


def number_of(enum: Any, prefix: str, word: str) -> Any:
    return enum.Value(prefix + word.upper().replace("-", "_"))


@click.group(epilog=EXIT_CODES)
def institutions() -> None:
    """Institutions of the bank (机构)."""


@institutions.command("register")
@click.argument("code")
@click.argument("name")
@click.option("--kind", type=choice(InstitutionKind, "INSTITUTION_KIND_"), default="outlet")
@click.option("--parent", default="", help="Code of the institution above it.")
@connection_options
def register_institution(
    connection: Connection, code: str, name: str, kind: str, parent: str
) -> None:
    """Register institution CODE (机构号), called NAME."""
    number = number_of(InstitutionKind, "INSTITUTION_KIND_", kind)
    request = RegisterInstitutionRequest(code=code, name=name, kind=number, parent_code=parent)
    with registry_of(connection) as registry:
        response = registry.register_institution(request)
    tell_outcome(response.outcome, f"institution {short(response.institution_id)}")


@click.group(epilog=EXIT_CODES)
def vaults() -> None:
    """Vaults (金库)."""


@vaults.command("register")
@click.argument("code")
@click.argument("name")
@click.option("--institution", required=True, help="Code of its owner.")
@click.option("--kind", type=choice(VaultKind, "VAULT_KIND_"), default="branch")
@click.option("--time-zone", default="Asia/Shanghai", show_default=True)
@connection_options
def register_vault(
    connection: Connection, code: str, name: str, institution: str, kind: str, time_zone: str
) -> None:
    """Register vault CODE, called NAME."""
    request = RegisterVaultRequest(
        institution_code=institution,
        code=code,
        name=name,
        kind=number_of(VaultKind, "VAULT_KIND_", kind),
        time_zone=time_zone,
    )
    with registry_of(connection) as registry:
        response = registry.register_vault(request)
    tell_outcome(response.outcome, f"vault {short(response.vault_id)}")


@click.group(epilog=EXIT_CODES)
def portals() -> None:
    """Portals at vault doors (通道)."""


@portals.command("register")
@click.argument("name")
@click.option("--vault", required=True, help="Code of the vault.")
@click.option("--inner", type=int, multiple=True, required=True, help="A port looking in.")
@click.option("--outer", type=int, multiple=True, required=True, help="A port looking out.")
@connection_options
def register_portal(
    connection: Connection, name: str, vault: str, inner: tuple[int, ...], outer: tuple[int, ...]
) -> None:
    """Register portal NAME; its certificate carries the same name."""
    antennas = [Antenna(port=port, side=AntennaSide.ANTENNA_SIDE_INNER) for port in inner]
    antennas += [Antenna(port=port, side=AntennaSide.ANTENNA_SIDE_OUTER) for port in outer]
    request = RegisterPortalRequest(vault_code=vault, name=name, antennas=antennas)
    with registry_of(connection) as registry:
        response = registry.register_portal(request)
    tell_outcome(response.outcome, f"portal {short(response.portal_id)}")


@click.group(epilog=EXIT_CODES)
def boxes() -> None:
    """Cash boxes and bags (款箱/款袋)."""


@boxes.command("register")
@click.argument("label")
@click.option("--institution", required=True, help="Code of its owner.")
@click.option("--vault", required=True, help="Code of the vault where it spends its nights.")
@click.option("--kind", type=choice(ContainerKind, "CONTAINER_KIND_"), default="cash-box")
@connection_options
def register_box(
    connection: Connection, label: str, institution: str, vault: str, kind: str
) -> None:
    """Register box LABEL (款箱编号)."""
    request = RegisterContainerRequest(
        institution_code=institution,
        label=label,
        kind=number_of(ContainerKind, "CONTAINER_KIND_", kind),
        vault_code=vault,
    )
    with registry_of(connection) as registry:
        response = registry.register_container(request)
    tell_outcome(response.outcome, f"box {short(response.container_id)}")


@boxes.command("show")
@click.argument("label")
@click.option("--language", type=LANGUAGES, default="both")
@connection_options
def show_box(connection: Connection, label: str, language: str) -> None:
    """Show box LABEL with its tags, custody and history."""
    show(connection, GetContainerRequest(label=label), language)


@click.group(epilog=EXIT_CODES)
def tags() -> None:
    """Tags on boxes (标签): issue, freeze, unfreeze, retire, replace, show."""


def issue_options(command: Any) -> Any:
    command = click.option("--key-version", type=int, help="Of the tag master; else the newest.")(
        command
    )
    schemes = choice(TagScheme, "TAG_SCHEME_")
    return click.option("--scheme", type=schemes, default="tam1", show_default=True)(command)


def issue_tag(
    connection: Connection,
    label: str,
    identity: bytes,
    scheme: str,
    key_version: int | None,
    replaces: bool,
) -> None:
    request = IssueTagRequest(
        container_label=label,
        identity=identity,
        scheme=number_of(TagScheme, "TAG_SCHEME_", scheme),
        key_version=key_version,
        replaces=replaces,
    )
    with registry_of(connection) as registry:
        response = registry.issue_tag(request)
    lines = [f"tag {short(response.tag_id)}, key version {response.key_version}"]
    if response.replaced_tag_id:
        lines.append(f"retired {short(response.replaced_tag_id)}")
    tell_outcome(response.outcome, *lines)


@tags.command("issue")
@click.argument("label")
@click.argument("identity", type=IDENTITY)
@issue_options
@connection_options
def issue(
    connection: Connection, label: str, identity: bytes, scheme: str, key_version: int | None
) -> None:
    """Bind the tag IDENTITY to box LABEL. A box has one live tag."""
    issue_tag(connection, label, identity, scheme, key_version, replaces=False)


@tags.command("replace")
@click.argument("label")
@click.argument("identity", type=IDENTITY)
@issue_options
@connection_options
def replace(
    connection: Connection, label: str, identity: bytes, scheme: str, key_version: int | None
) -> None:
    """Give box LABEL the tag IDENTITY; the tag it has is retired for ever in the same entry."""
    issue_tag(connection, label, identity, scheme, key_version, replaces=True)


@tags.command("freeze")
@click.argument("identity", type=IDENTITY)
@click.option("--note", default="", help="Why.")
@connection_options
def freeze(connection: Connection, identity: bytes, note: str) -> None:
    """Stop the tag IDENTITY from opening any gate (冻结)."""
    with registry_of(connection) as registry:
        response = registry.freeze_tag(FreezeTagRequest(identity=identity, note=note))
    tell_outcome(response.outcome)


@tags.command("unfreeze")
@click.argument("identity", type=IDENTITY)
@click.option("--note", default="", help="Why.")
@connection_options
def unfreeze(connection: Connection, identity: bytes, note: str) -> None:
    """Undo a freeze (解冻)."""
    with registry_of(connection) as registry:
        response = registry.unfreeze_tag(UnfreezeTagRequest(identity=identity, note=note))
    tell_outcome(response.outcome)


@tags.command("retire")
@click.argument("identity", type=IDENTITY)
@click.option("--note", default="", help="Why.")
@connection_options
def retire(connection: Connection, identity: bytes, note: str) -> None:
    """End the tag IDENTITY for ever (注销)."""
    with registry_of(connection) as registry:
        response = registry.retire_tag(RetireTagRequest(identity=identity, note=note))
    tell_outcome(response.outcome)


@tags.command("show")
@click.argument("identity", type=IDENTITY)
@click.option("--language", type=LANGUAGES, default="both")
@connection_options
def show_tag(connection: Connection, identity: bytes, language: str) -> None:
    """Show the box that carries or carried the tag IDENTITY, with its history."""
    show(connection, GetContainerRequest(identity=identity), language)


def show(connection: Connection, request: GetContainerRequest, language: str) -> None:
    with registry_of(connection) as registry:
        found = registry.get_container(request)
    if not found.found:
        for reason in found.refused.reasons:
            click.echo(
                f"{reason.code} {reason.name}: {reason.text_zh} / {reason.text_en}", err=True
            )
        raise SystemExit(EXIT_REFUSED)
    for line in describe_container(found, language):
        click.echo(line)


def describe_container(found: GetContainerResponse, language: str) -> list[str]:
    lines = [
        f"{found.label} ({strip(ContainerKind, found.kind)}) {short(found.container_id)}",
        f"  institution {found.institution_code}, vault {found.vault_code}",
        f"  custody {short(found.custody.holder_id)} {strip(CustodyPlace, found.custody.place)}",
    ]
    for tag in found.tags:
        scheme, state = strip(TagScheme, tag.scheme), strip(TagState, tag.state)
        lines.append(f"  tag {tag.identity.hex()} {scheme} {state} key version {tag.key_version}")
    for item in found.history:
        zh, en = describe_event(item.event)
        text = {"zh": zh, "en": en}.get(language, f"{zh} / {en}")
        lines.append(f"  {item.entry_index:>8} {format_time(item.decided_at_ns)} {text}")
    return lines
