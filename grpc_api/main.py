"""The command `jinkud`."""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import click
import structlog

from core.errors import SettingsError

from .cli import EPILOG, EXIT_STOPPED, Cli, read_settings, with_config
from .replaying import replay_reads
from .upkeep import UPKEEP

STOPPED_GRACE_SECONDS = 1.0

log = structlog.get_logger()


@click.group(cls=Cli, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(metadata.version("jinku-server"), prog_name="jinkud")
def main() -> None:
    """The jinku (金库) verification service for a bank's cash boxes.

    Begin with `jinkud init --directory NAME`, then `jinkud serve --config NAME/jinku.toml`.
    """
    from core.dumps import forbid_core_dumps

    # Whatever the command: most of them hold keys.
    forbid_core_dumps()


@main.command(epilog=EPILOG)
@with_config
def serve(config: Path) -> None:
    """Answer calls until SIGTERM or SIGINT, then finish what is under way and exit 0.

    Needs the settings, keys and founded ledger that `jinkud init` makes. Logs go to standard error;
    nothing that identifies a box, a tag or a person is in them.
    """
    # What a start makes stays: nothing of it is to be looked through for garbage, now or later.
    gc.disable()
    from core.collector import settle

    from .logs import configure_logs
    from .service import Service
    from .witnesses import Contradicted

    settings = read_settings(config)
    configure_logs(settings.log.level, settings.log.format)
    # Put to by the handler of a signal, which may come while this thread is about to wait: an Event's own
    # lock would then be asked for twice.
    wake: queue.SimpleQueue[None] = queue.SimpleQueue()
    caught: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        caught.append(number)
        wake.put(None)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    service = Service.open(settings, on_failure=lambda: wake.put(None))
    settle()
    wake.get()
    if service.failure is None:
        log.info("draining", signal=signal.Signals(caught[0]).name)
        service.close()
    if service.failure is not None:
        contradicted = isinstance(service.failure, Contradicted)
        log.critical(
            "stopped: a witness has seen a later checkpoint of this ledger" if contradicted
            else "stopped: the outcome of a commit is unknown",
            exit_code=EXIT_STOPPED, exc_info=service.failure,
        )  # fmt: skip
        service.abandon(STOPPED_GRACE_SECONDS)
        sys.stderr.flush()
        # Nothing of ours runs any more, no exit handler either: what is on disk decides.
        os._exit(EXIT_STOPPED)
    log.info("ended", exit_code=0)


@main.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="A new or empty directory for settings, keys, certificates and data.",
)
@click.option(
    "--profile",
    type=click.Choice(["demonstration", "production"]),
    default="demonstration",
    show_default=True,
    help="`demonstration` makes its own CA for seven days and listens on loopback only; "
    "`production` expects certificates of your own CA.",
)
@click.option("--realm", "number", type=click.IntRange(1, 2**32 - 1), default=1, show_default=True)
@click.option(
    "--trust-domain",
    default="demonstration.jinku.example",
    show_default=True,
    help="Of the certificates' names: spiffe://<trust domain>/<realm>/<kind>/<natural id>.",
)
@click.option("--listen", default="127.0.0.1:7443", show_default=True, help="host:port")
@click.option("--metrics-listen", default="", help="host:port of the Prometheus endpoint.")
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="NAME:ROLE[,ROLE]",
    help="A service that may call, with its roles (REGISTRAR, AUDITOR, PRIVACY_OFFICER); may be "
    "repeated. Fixed at the founding.  [default: registrar:REGISTRAR auditor:AUDITOR "
    "privacy:PRIVACY_OFFICER]",
)
def init(
    directory: Path,
    profile: str,
    number: int,
    trust_domain: str,
    listen: str,
    metrics_listen: str,
    services: Sequence[str],
) -> None:
    """Make a directory with settings and keys, and found the ledger in it."""
    from .founding import DEMONSTRATION_SERVICES, Founding, initialise

    settings, verifier_key = initialise(
        Founding(
            directory=directory,
            profile="production" if profile == "production" else "demonstration",
            number=number,
            trust_domain=trust_domain,
            listen=listen,
            metrics_listen=metrics_listen,
            services=[parse_service(text) for text in services] or DEMONSTRATION_SERVICES,
        )
    )
    click.echo(f"{directory}: realm {number} is founded. Its checkpoints are checked with")
    click.echo(f"  {verifier_key}")
    if profile == "production":
        click.echo(
            f"Put the server's certificate and key, and the CA of its callers, where "
            f"{directory / 'jinku.toml'} names them ({settings.server.certificate.parent})."
        )
    click.echo(f"Next: jinkud serve --config {directory / 'jinku.toml'}")


def parse_service(text: str) -> tuple[str, list[str]]:
    name, _, roles = text.partition(":")
    if not name or not roles:
        raise click.BadParameter("is NAME:ROLE[,ROLE], e.g. registrar:REGISTRAR")
    return name, roles.split(",")


@main.command("demo-certificate")
@with_config
@click.option(
    "--kind", type=click.Choice(["portal", "service"]), default="portal", show_default=True
)
@click.option("--name", help="Natural id: a registered portal's name, or a founding service's.")
@click.option(
    "--renew",
    is_flag=True,
    help="A new CA, and new certificates for all who had one; then restart.",
)
def demo_certificate(config: Path, kind: str, name: str | None, renew: bool) -> None:
    """Issue a client certificate of the demonstration CA, valid as long as that is."""
    from core.guard import NATURAL_ID

    from .certificates import DemonstrationCa
    from .founding import issue
    from .founding import renew as renew_all

    settings = read_settings(config)
    if settings.realm.profile != "demonstration":
        raise SettingsError(
            f"realm.profile is `{settings.realm.profile}`: certificates come from your own CA; "
            "only the demonstration profile has one here"
        )
    if renew:
        issued = renew_all(settings)
    elif name is None or not NATURAL_ID.fullmatch(name):
        raise click.BadParameter(
            "is needed: lower-case letters, digits and `-`, at most 64", param_hint="--name"
        )
    else:
        ca = DemonstrationCa(settings.server.client_ca.parent)
        issued = [issue(ca, settings, kind, name)]
    for files in issued:
        click.echo(f"{files.certificate} {files.private_key}")


@main.command()
@with_config
@click.option(
    "--identities",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="A line per tag: hex identity[,scheme[,key version]]; default TAM1, the newest version.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="JSON for tags in software; only its owner may read it.",
)
def personalise(config: Path, identities: Path, output: Path) -> None:
    """Compute the keys of tags in software. The demonstration profile only.

    In any other profile keys leave the service in a ceremony, and this refuses.
    """
    from .personalise import personalise as write_tags
    from .personalise import read_orders

    settings = read_settings(config)
    count = write_tags(settings, read_orders(identities), output)
    click.echo(f"{output}: {count} tags")


for command in (*UPKEEP, replay_reads):
    main.add_command(command)


if __name__ == "__main__":
    main()
