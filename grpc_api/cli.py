"""What the commands of `jinkud` share: the option that names the settings, errors and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import lmdb

from core.errors import (
    JinkuError,
    KeyFileError,
    LedgerBusy,
    LedgerCorrupt,
    LedgerFull,
    LedgerInUse,
    LedgerStopped,
    SettingsError,
    WitnessesUnreachable,
)
from core.settings import Settings

from .config import CONFIG_VARIABLE, load_settings

EXIT_FINDINGS = 1
EXIT_SETTINGS = 2
EXIT_IN_USE = 3
EXIT_WITNESSES = 4
# sysexits' EX_SOFTWARE: a supervisor should start the service again, which then verifies itself.
EXIT_STOPPED = 70
# 128 + SIGINT, as shells have it: never to be taken for a finding.
EXIT_INTERRUPTED = 130

EPILOG = (
    "Exit codes: 0 done; 1 the ledger is not sound, the message names the first difference; "
    "2 a wrong option, setting or key file, no room, or a file that may not be read or written; "
    "3 another process holds the ledger; "
    "4 too few witnesses can be asked: start again when they can; "
    "70 the service stopped itself because the outcome of a commit is unknown: start it again, "
    "it verifies itself first; 130 interrupted."
)


class Cli(click.Group):
    """Turns the service's own errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            end("interrupted; nothing was changed by halves", EXIT_INTERRUPTED)
        except LedgerInUse as error:
            end(f"{error}; stop it first", EXIT_IN_USE)
        except LedgerCorrupt as error:
            end(f"the ledger is not sound: {error}", EXIT_FINDINGS)
        except (SettingsError, KeyFileError, LedgerBusy, LedgerFull) as error:
            end(str(error), EXIT_SETTINGS)
        except WitnessesUnreachable as error:
            end(str(error), EXIT_WITNESSES)
        except LedgerStopped as error:
            end(str(error), EXIT_STOPPED)
        except PermissionError as error:
            end(
                f"{_told(error)}; run this as the service's user, or give it the right",
                EXIT_SETTINGS,
            )
        except OSError as error:
            end(_told(error), EXIT_SETTINGS)
        except lmdb.Error as error:
            end(f"{error}; nothing is known to be wrong with what is stored", EXIT_SETTINGS)
        except JinkuError as error:
            end(str(error), EXIT_FINDINGS)


def _told(error: OSError) -> str:
    return f"{error.filename or 'a file'}: {error.strerror}"


def end(message: str, code: int) -> None:
    click.echo("\n".join(f"jinkud: {line}" for line in message.splitlines()), err=True)
    sys.exit(code)


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """The option that every command on an existing realm takes."""
    return click.option(
        "--config",
        "config",
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path("jinku.toml"),
        envvar=CONFIG_VARIABLE,
        show_default=True,
        show_envvar=True,
        help="The settings file; docs/configuration.md explains every key.",
    )(command)


def read_settings(config: Path) -> Settings:
    return load_settings(config, os.environ)
