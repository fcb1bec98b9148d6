"""What every command shares: connection options, errors as exit codes, the console."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from jinku.channel import Connection, ConnectionIncomplete
from jinku.commands import CommandIds
from jinku.errors import JinkuError, Refused, require_accepted
from jinku.failure import plain
from jinku.ledger import LedgerClient
from jinku.notes import NoteInvalid
from jinku.registry import RegistryClient
from jinku.v1.common_pb2 import Outcome
from jinku.verdicts import NotProven

Command = TypeVar("Command", bound=Callable[..., Any])

PLAIN_WIDTH = 160
EXIT_REFUSED = 1
EXIT_NO_ANSWER = 3
EXIT_INVALID = 4
EXIT_CODES = """
\b
Exit codes: 0 done · 1 refused, the reasons are shown · 2 wrong usage
            3 no answer from the service · 4 a receipt, a package or a ledger is not valid
"""
LANGUAGES = click.Choice(["zh", "en", "both"])


def console() -> Console:
    """Plain lines when nobody watches, colours and the terminal's width when somebody does."""
    watched = Console(highlight=False, soft_wrap=True)
    if watched.is_terminal:
        return watched
    return Console(highlight=False, soft_wrap=True, width=PLAIN_WIDTH)


class ReportingGroup(click.Group):
    """Turns our exceptions into a line on standard error and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Refused as error:
            report("refused / 拒绝", error)
            ctx.exit(EXIT_REFUSED)
        except (NotProven, NoteInvalid) as error:
            report("not valid / 无效", error)
            ctx.exit(EXIT_INVALID)
        except ConnectionIncomplete as error:
            raise click.UsageError(f"{error}. See --certificate, --key and --ca.") from error
        except JinkuError as error:
            report("failed / 失败", error)
            ctx.exit(EXIT_NO_ANSWER)


def report(what: str, error: Exception) -> None:
    """Each line of the error as it is, or shown where it would steer the terminal."""
    lines = f"jinku: {what}: {error}".split("\n")
    click.echo("\n".join(map(plain, lines)), err=True)


def state_file(name: str) -> Path:
    """Where this user's command counter lives."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "jinku" / name


def connection_options(command: Command) -> Command:
    """Adds the connection's options and hands the command a `Connection`."""

    @click.option("--target", envvar="JINKU_TARGET", default="localhost:7443", show_default=True,
                  show_envvar=True, help="host:port of the service.")  # fmt: skip
    @click.option("--certificate", envvar="JINKU_CERTIFICATE", required=True, show_envvar=True,
                  type=click.Path(path_type=Path), help="Our certificate, PEM.")  # fmt: skip
    @click.option("--key", "private_key", envvar="JINKU_KEY", required=True, show_envvar=True,
                  type=click.Path(path_type=Path), help="Its private key, PEM.")  # fmt: skip
    @click.option("--ca", envvar="JINKU_CA", required=True, show_envvar=True,
                  type=click.Path(path_type=Path), help="The service's CA, PEM.")  # fmt: skip
    @click.option("--server-name", envvar="JINKU_SERVER_NAME", default="", show_envvar=True,
                  help="Name in the service's certificate, if not the target's.")  # fmt: skip
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        target: str,
        certificate: Path,
        private_key: Path,
        ca: Path,
        server_name: str,
        **kwargs: Any,
    ) -> Any:
        connection = Connection(target, certificate, private_key, ca, server_name)
        return command(*args, connection=connection, **kwargs)

    return wrapped  # type: ignore[return-value]


@contextmanager
def registry_of(connection: Connection) -> Iterator[RegistryClient]:
    with connection.open() as channel:
        yield RegistryClient(channel, CommandIds(state_file("commands.json"), block=1))


@contextmanager
def ledger_of(connection: Connection) -> Iterator[LedgerClient]:
    with connection.open() as channel:
        yield LedgerClient(channel)


class Identity(click.ParamType[bytes]):
    """A tag's EPC, TID or UID as hex digits."""

    name = "identity"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> bytes:
        if isinstance(value, bytes):
            return value
        try:
            identity = bytes.fromhex(value)
        except ValueError:
            self.fail(f"{value!r} is not hex digits", param, ctx)
        if len(identity) not in {7, 8, 12, 16}:
            self.fail(f"{len(identity)} bytes; a tag has 7, 8, 12 or 16", param, ctx)
        return identity


IDENTITY = Identity()


def tell_outcome(outcome: Outcome, *lines: str) -> None:
    """Says that it was done, and where in the journal; raises `Refused` if it was not."""
    require_accepted(outcome)
    for line in lines:
        click.echo(line)
    click.echo(f"accepted as entry {outcome.entry_index} / 已受理，记录 {outcome.entry_index}")
