"""Keys for tags in software, of the demonstration profile alone.

AN10922 is written here from its specification with a library's AES, so that what the read pipeline
verifies was not computed by the read pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from core.errors import SettingsError
from core.keys import load_tag_masters, wipe
from core.settings import Settings
from jinku.type.v1.tag_pb2 import TagScheme

from .certificates import write_private

IDENTITY_SIZES = (7, 8, 12, 16)
SCHEME_PREFIX = "TAG_SCHEME_"
SCHEMES = tuple(name.removeprefix(SCHEME_PREFIX) for name in TagScheme.keys()[1:])
DEFAULT_SCHEME = "TAM1"
SYSTEM_SUFFIX = b"JK"
BLOCK = 16
REDUCTION = 0x87


@dataclass(frozen=True)
class TagOrder:
    """One line of the list of identities."""

    identity: bytes
    scheme: str
    # None: the newest master of the realm.
    key_version: int | None


def diversify(master: bytes, identity: bytes, issuing_realm: int) -> bytes:
    """A tag's AES-128 key: AN10922 with M = identity ‖ u32 issuing realm ‖ "JK", big-endian."""
    message = b"\x01" + identity + issuing_realm.to_bytes(4, "big") + SYSTEM_SUFFIX
    # Always two blocks; our longest M is 22 bytes, so there is always padding and always K2.
    padded = (message + b"\x80").ljust(2 * BLOCK, b"\x00")
    first = _encrypt(master, bytes(BLOCK))
    subkey = _double(_double(int.from_bytes(first, "big"))).to_bytes(BLOCK, "big")
    middle = _encrypt(master, padded[:BLOCK])
    last = bytes(a ^ b ^ c for a, b, c in zip(padded[BLOCK:], subkey, middle, strict=True))
    return _encrypt(master, last)


def _encrypt(key: bytes, block: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(block) + encryptor.finalize()


def _double(value: int) -> int:
    """Doubling in GF(2^128), as SP 800-38B makes subkeys."""
    shifted = (value << 1) & (2**128 - 1)
    return shifted ^ REDUCTION if value >> 127 else shifted


def read_orders(path: Path) -> list[TagOrder]:
    """A line per tag: hex identity, then scheme and key version where they are not the default.

    Separated by commas; empty lines and what follows `#` do not count.

    Raises:
        SettingsError: names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read ({type(error).__name__})") from None
    orders = []
    for number, line in enumerate(lines, 1):
        fields = [field.strip() for field in line.partition("#")[0].split(",")]
        if fields != [""]:
            orders.append(_read_order(f"{path}:{number}", fields))
    return orders


def _read_order(where: str, fields: Sequence[str]) -> TagOrder:
    try:
        identity = bytes.fromhex(fields[0])
    except ValueError:
        raise SettingsError(f"{where}: the identity is not hexadecimal") from None
    if len(identity) not in IDENTITY_SIZES or not any(identity):
        raise SettingsError(f"{where}: an identity is 7, 8, 12 or 16 bytes, not all zero")
    scheme = (fields[1] if len(fields) > 1 and fields[1] else DEFAULT_SCHEME).upper()
    scheme = scheme.removeprefix(SCHEME_PREFIX)
    if scheme not in SCHEMES:
        raise SettingsError(f"{where}: a scheme is one of {', '.join(SCHEMES)}")
    version = fields[2] if len(fields) > 2 else ""
    if len(fields) > 3 or (version and not version.isdecimal()):
        raise SettingsError(f"{where}: a line is identity[,scheme[,key version]]")
    return TagOrder(identity, scheme, int(version) if version else None)


def personalise(settings: Settings, orders: Sequence[TagOrder], output: Path) -> int:
    """Writes the tags with their keys, mode 0600; returns how many.

    Raises:
        SettingsError: the profile is not `demonstration`, or there is no such key version.
    """
    if settings.realm.profile != "demonstration":
        raise SettingsError(
            f"realm.profile is `{settings.realm.profile}`: keys of tags leave the service only "
            "in a ceremony; tags in software are for the demonstration profile"
        )
    masters = load_tag_masters(settings.keys.directory)
    realm = settings.realm.number
    try:
        own = {version: key for issuer, version, key in masters if issuer == realm}
        if not own:
            raise SettingsError(f"keys.directory: no tag master of realm {realm}")
        tags = []
        for order in orders:
            version = max(own) if order.key_version is None else order.key_version
            if version not in own:
                raise SettingsError(f"keys.directory: no tag master {realm}-{version}.key")
            tag_key = diversify(bytes(own[version]), order.identity, realm)
            tags.append(
                {
                    "identity": order.identity.hex(),
                    "scheme": order.scheme,
                    "key": tag_key.hex(),
                    "key_version": version,
                }
            )
    finally:
        for _, _, key in masters:
            wipe(key)
    listed = {"format": "jinku software tags 1", "realm": realm, "tags": tags}
    write_private(output, json.dumps(listed, indent=1).encode())
    return len(tags)
