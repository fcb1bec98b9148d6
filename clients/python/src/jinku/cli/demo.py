"""`jinku demo`: a small bank, recorded reads, a real service."""

from __future__ import annotations

import queue
import shlex
import signal
import tempfile
import time
from pathlib import Path

import click

from jinku.cli.common import EXIT_INVALID, LANGUAGES, console
from jinku.demo.run import KEY_FILE, RECEIPT_FILE, end, prepare, run
from jinku.demo.service import Service
from jinku.demo.show import Teller


@click.command()
@click.option("--serve", is_flag=True, help="Only register the bank, and leave it running.")
@click.option("--language", type=LANGUAGES, default="both", show_default=True)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="A new directory to keep everything in; else a temporary one.",
)
def demo(serve: bool, language: str, directory: Path | None) -> None:
    """See it work: a bank that does not exist, recorded reads, a real service.

    Needs `jinkud` beside it. Exits 0 only if every attack was alarmed for its own reason, every
    read is accounted for, and the ledger verifies.
    """
    teller = Teller(console(), language)
    if serve:
        serve_bank(directory or Path(tempfile.mkdtemp(prefix="jinku-demo-")), teller)
        return
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jinku-demo-") as temporary:
        differences = run(directory or Path(temporary) / "realm", teller)
    for line in differences:
        teller.wrong(line)
    if differences:
        raise SystemExit(EXIT_INVALID)
    seconds = time.monotonic() - started
    teller.done(f"全部符合预期, 用时 {seconds:.0f} 秒", f"all as expected, in {seconds:.0f} s")
    if directory is not None:
        receipt, key = directory / RECEIPT_FILE, directory / KEY_FILE
        teller.console.print(f"  jinku ledger verify {receipt} --key {key}", markup=False)


def serve_bank(directory: Path, teller: Teller) -> None:
    """Runs until interrupted, then verifies the ledger; the directory stays."""
    service = Service(directory)
    try:
        prepare(service, teller)
        tell_how(service, teller)
        wait_for_signal()
        for line in end(service, teller):
            teller.wrong(line)
    finally:
        service.stop()


def tell_how(service: Service, teller: Teller) -> None:
    own = service.connect("service", "registrar")
    portal = service.connect("portal", "cash-centre-gate")
    teller.step("在另一终端中试用 (Ctrl-C 结束)", "try it from another terminal (Ctrl-C ends it)")
    lines = [
        f"export JINKU_TARGET={own.target} JINKU_CA={shlex.quote(str(own.ca))}",
        f"export JINKU_CERTIFICATE={shlex.quote(str(own.certificate))}",
        f"export JINKU_KEY={shlex.quote(str(own.key))}",
        "jinku boxes show K0001",
        f"jinku portal replay --room S1 --tags {service.directory}/tags.json "
        f"--certificate {portal.certificate} --key {portal.key}",
    ]
    for line in lines:
        teller.console.print(f"  {line}", markup=False)


def wait_for_signal() -> None:
    """Until somebody ends it: SIGINT or SIGTERM."""
    # What a signal's handler may use while this thread is about to wait; an Event's lock is not.
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.put(None))
    ended.get()
