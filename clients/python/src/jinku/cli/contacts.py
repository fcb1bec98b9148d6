"""`jinku contacts`: contact persons of institutions, and the erasure of a person's values.

Names and telephone numbers are asked for, never taken from the command line: a shell keeps what was
typed there, and everybody on the machine sees it while the command runs.
"""

from __future__ import annotations

from typing import Any

import click

from jinku.accounts import format_time, short, strip
from jinku.channel import Connection
from jinku.cli.common import (
    EXIT_CODES,
    EXIT_REFUSED,
    connection_options,
    registry_of,
    tell_outcome,
)
from jinku.cli.registry import choice, number_of
from jinku.type.v1.personal_pb2 import PersonalField, ReadPurpose, SubjectState
from jinku.v1.common_pb2 import Refusal
from jinku.v1.contact_pb2 import (
    ChangeContactRequest,
    ConfirmErasureRequest,
    EndContactRequest,
    GetContactRequest,
    ReadContactRequest,
    RegisterContactRequest,
    RequestErasureRequest,
)


class Id(click.ParamType[bytes]):
    """An id as we print it, realm/entry/ordinal, or as hex digits."""

    name = "id"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> bytes:
        if isinstance(value, bytes):
            return value
        try:
            if "/" in value:
                realm, entry, ordinal = map(int, value.split("/"))
                made = realm.to_bytes(4) + entry.to_bytes(8) + ordinal.to_bytes(4)
            else:
                made = bytes.fromhex(value)
        except (ValueError, OverflowError):
            made = b""
        if len(made) != 16:
            self.fail(f"{value!r} is not realm/entry/ordinal, nor 32 hex digits", param, ctx)
        return made


ID = Id()


@click.group(epilog=EXIT_CODES)
def contacts() -> None:
    """Contact persons of institutions (联系人), and erasing a person's values (删除个人信息)."""


@contacts.command("register")
@click.argument("institution")
@click.option("--replaces", is_flag=True, help="Whoever is the contact now is it no more.")
@connection_options
def register(connection: Connection, institution: str, replaces: bool) -> None:
    """Register the contact of INSTITUTION; name and telephone number are asked for."""
    request = RegisterContactRequest(
        institution_code=institution,
        name=click.prompt("name / 姓名", err=True),
        telephone=click.prompt("telephone / 联系电话", err=True),
        replaces=replaces,
    )
    with registry_of(connection) as registry:
        response = registry.register_contact(request)
    tell_outcome(response.outcome, f"contact {short(response.contact_id)}")


@contacts.command("change")
@click.argument("contact", type=ID)
@connection_options
def change(connection: Connection, contact: bytes) -> None:
    """Give person CONTACT new values; what is left empty stays as it is."""
    name = click.prompt("name / 姓名", default="", show_default=False, err=True)
    telephone = click.prompt("telephone / 联系电话", default="", show_default=False, err=True)
    request = ChangeContactRequest(
        contact_id=contact, name=name or None, telephone=telephone or None
    )
    with registry_of(connection) as registry:
        response = registry.change_contact(request)
    tell_outcome(response.outcome)


@contacts.command("end")
@click.argument("contact", type=ID)
@connection_options
def end(connection: Connection, contact: bytes) -> None:
    """Person CONTACT is the contact no more (终止)."""
    with registry_of(connection) as registry:
        response = registry.end_contact(EndContactRequest(contact_id=contact))
    tell_outcome(response.outcome)


def which_options(command: Any) -> Any:
    command = click.option("--id", "contact", type=ID, help="Of the person, as it was registered.")(
        command
    )
    return click.option("--institution", help="Code; its contact now.")(command)


def check_which(institution: str | None, contact: bytes | None) -> None:
    if (institution is None) == (contact is None):
        raise click.UsageError("Give either --institution or --id.")


@contacts.command("show")
@which_options
@connection_options
def show(connection: Connection, institution: str | None, contact: bytes | None) -> None:
    """Show what is known of a contact, its values excepted."""
    check_which(institution, contact)
    request = GetContactRequest(institution_code=institution, contact_id=contact)
    with registry_of(connection) as registry:
        found = registry.get_contact(request)
    if not found.found:
        tell_refusal(found.refused)
    state = strip(SubjectState, found.state).removeprefix("SUBJECT_STATE_")
    click.echo(f"contact {short(found.contact_id)} of institution {found.institution_code} {state}")
    if found.ended_at_ns:
        click.echo(f"  ended / 终止 {format_time(found.ended_at_ns)}")
    if found.erasure_id:
        until = format_time(found.erasure_expires_at_ns)
        click.echo(
            f"  erasure asked for / 已申请删除 {short(found.erasure_id)}, until / 至 {until}"
        )
    if found.erased_at_ns:
        when, entry = format_time(found.erased_at_ns), found.erased_entry_index
        click.echo(f"  erased / 已删除 {when}, entry / 记录 {entry}")


@contacts.command("read")
@which_options
@click.option(
    "--purpose", type=choice(ReadPurpose, "READ_PURPOSE_"), required=True, help="Goes on record."
)
@click.option("--superseded", is_flag=True, help="Earlier values too; for privacy officers.")
@click.option("--openings", is_flag=True, help="What a commitment is checked with, too; likewise.")
@connection_options
def read(
    connection: Connection,
    institution: str | None,
    contact: bytes | None,
    purpose: str,
    superseded: bool,
    openings: bool,
) -> None:
    """Show a contact's values. Who read them and why is journalled."""
    check_which(institution, contact)
    request = ReadContactRequest(
        institution_code=institution,
        contact_id=contact,
        purpose=number_of(ReadPurpose, "READ_PURPOSE_", purpose),
        with_superseded=superseded,
        with_openings=openings,
    )
    with registry_of(connection) as registry:
        response = registry.read_contact(request)
    if response.HasField("withheld"):
        tell_refusal(response.withheld)
    lines = [f"contact {short(response.contact_id)}"]
    for value in response.values:
        field = strip(PersonalField, value.field).removeprefix("PERSONAL_FIELD_")
        old = " (superseded / 已变更)" if value.superseded else ""
        opening = f" opening {value.opening.hex()}" if value.opening else ""
        lines.append(f"  {field} {value.text} entry {value.entry_index}{old}{opening}")
    tell_outcome(response.outcome, *lines)


@contacts.command("erase")
@click.argument("contact", type=ID)
@connection_options
def erase(connection: Connection, contact: bytes) -> None:
    """Ask for the erasure of person CONTACT's values; another principal confirms it."""
    with registry_of(connection) as registry:
        response = registry.request_erasure(RequestErasureRequest(subject_id=contact))
    until = format_time(response.expires_at_ns)
    tell_outcome(
        response.outcome, f"erasure {short(response.erasure_id)}, to be confirmed by {until}"
    )


@contacts.command("confirm")
@click.argument("erasure", type=ID)
@click.argument("contact", type=ID)
@connection_options
def confirm(connection: Connection, erasure: bytes, contact: bytes) -> None:
    """Confirm ERASURE of person CONTACT's values. It cannot be undone."""
    request = ConfirmErasureRequest(erasure_id=erasure, subject_id=contact)
    with registry_of(connection) as registry:
        response = registry.confirm_erasure(request)
    tell_outcome(response.outcome)


def tell_refusal(refusal: Refusal) -> None:
    for reason in refusal.reasons:
        click.echo(f"{reason.code} {reason.name}: {reason.text_zh} / {reason.text_en}", err=True)
    raise SystemExit(EXIT_REFUSED)
