"""The command `jinku`."""

from __future__ import annotations

import importlib

import click

from jinku import __version__
from jinku.cli.common import EXIT_CODES, ReportingGroup

# Where each command lives; imported when it is asked for, so that `jinku ledger verify` starts fast.
COMMANDS = {
    "bench": ("jinku.cli.bench", "bench"),
    "boxes": ("jinku.cli.registry", "boxes"),
    "contacts": ("jinku.cli.contacts", "contacts"),
    "demo": ("jinku.cli.demo", "demo"),
    "evidence": ("jinku.cli.evidence", "evidence"),
    "institutions": ("jinku.cli.registry", "institutions"),
    "ledger": ("jinku.cli.ledger", "ledger"),
    "portal": ("jinku.cli.portal", "portal"),
    "portals": ("jinku.cli.registry", "portals"),
    "tags": ("jinku.cli.registry", "tags"),
    "vaults": ("jinku.cli.registry", "vaults"),
    "witness": ("jinku.cli.witness", "witness"),
}


class LazyGroup(ReportingGroup):
    """Imports a command's module only when that command is used or described."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=LazyGroup, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="jinku")
def main() -> None:
    """Client of the jinku (金库) verification service.

    Who we are and where the service is comes from --target, --certificate, --key and --ca, or from
    JINKU_TARGET, JINKU_CERTIFICATE, JINKU_KEY and JINKU_CA.
    """


if __name__ == "__main__":
    main()
