"""Verifying without the command `jinku`: the program in `jinku-verify.pyz` (see `bundle`).

    python3 jinku-verify.pyz FILE --key KEY

FILE is an evidence package or a receipt. Needs Python and its package `cryptography`, no network.
Exit codes: 0 proven · 2 wrong usage · 4 not valid.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinku import accounts, receipts
from jinku.evidence import verify
from jinku.notes import VerifierKey
from jinku.verdicts import NotProven

EXIT_USAGE, EXIT_INVALID = 2, 4
ZIP_MAGIC = b"PK\x03\x04"
KEY_BYTES_MAX = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify the file; the exit code."""
    given = parse_arguments(arguments)
    try:
        witnesses = [read_key(key) for key in given.witness]
        quorum = len(witnesses) if given.quorum is None else given.quorum
        content = verify.load(given.file)
        if content.startswith(ZIP_MAGIC):
            held = [receipts.load(path) for path in given.receipt]
            package = verify.verify(
                content, read_key(given.key), witnesses, quorum, held,
                without_texts=given.without_texts,
            )  # fmt: skip
            lines = describe_package(package, given.language)
        else:
            receipt = receipts.parse(content[: receipts.RECEIPT_BYTES_MAX + 1], str(given.file))
            verified = receipts.verify(receipt, read_key(given.key), witnesses, quorum)
            lines = [*accounts.read_entry(receipt).lines(given.language),
                     *describe_cosigners(verified.cosigners), *verified.verdict()]  # fmt: skip
    except NotProven as error:
        print(f"not valid / 无效: {error}", file=sys.stderr)
        return EXIT_INVALID
    except (OSError, UnicodeDecodeError) as error:
        print(f"wrong usage / 用法不对: {error}", file=sys.stderr)
        return EXIT_USAGE
    print("\n".join(lines))
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="离线核验证据包或凭证 / verifies evidence offline")
    parser.add_argument("file", type=Path, help="an evidence package, or a receipt")
    parser.add_argument("--key", required=True, help="the realm's verifier key, or a file with it")
    parser.add_argument("--witness", action="append", default=[], help="a witness's, likewise")
    parser.add_argument("--quorum", type=int, help="so many witnesses must have cosigned [all]")
    parser.add_argument("--receipt", action="append", default=[], type=Path,
                        help="a receipt that the package must agree with")  # fmt: skip
    parser.add_argument("--without-texts", action="store_true",
                        help="leave the texts in the package out of account")  # fmt: skip
    parser.add_argument("--language", choices=["zh", "en", "both"], default="both")
    return parser.parse_args(arguments)


def read_key(text: str) -> str:
    """A key, or what a file of that name holds."""
    if "+" in text and not Path(text).is_file():
        return text
    with Path(text).open("rb") as file:
        return file.read(KEY_BYTES_MAX).decode().strip()


def describe_package(verified: verify.Verified, language: str) -> list[str]:
    """The account as this version makes it, and what is proven."""
    wanted = {"zh": ["zh"], "en": ["en"]}.get(language, ["zh", "en"])
    texts = [verified.texts[f"account.{one}.txt"] for one in wanted]
    lines = [*"\n".join(texts).rstrip().splitlines(), ""]
    return [*lines, *describe_cosigners(verified.cosigners), *verified.verdict()]


def describe_cosigners(cosigners: dict[VerifierKey, int]) -> Iterable[str]:
    for key, seconds in cosigners.items():
        when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        yield f"见证 / cosigned: {key.name} {when:%Y-%m-%d %H:%M:%S} UTC"


if __name__ == "__main__":
    sys.exit(main())
