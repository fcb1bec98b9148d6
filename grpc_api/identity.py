"""Who is calling: the one SPIFFE URI in the verified client certificate.

gRPC has checked the chain against `server.client_ca` before a call gets here. The common name is
never looked at.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cryptography import x509

from . import errors

SPIFFE_URI = re.compile(
    r"spiffe://(?P<trust_domain>[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?)"
    r"/(?P<realm>[1-9][0-9]{0,9})/(?P<kind>[a-z]{1,32})"
    r"/(?P<name>[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?)"
)
CACHED_CERTIFICATES_MAX = 4096
REALM_MAX = 2**32 - 1
PEM_KEY = "x509_pem_cert"


class Peer(NamedTuple):
    """What a certificate says about its holder."""

    uri: str
    trust_domain: str
    realm: int
    kind: str
    name: str
    not_after: datetime.datetime


def parse_uri(uri: str) -> tuple[str, int, str, str] | None:
    """(trust domain, realm, kind, natural id), or None where it is not of our form."""
    found = SPIFFE_URI.fullmatch(uri)
    if found is None or int(found["realm"]) > REALM_MAX:
        return None
    return found["trust_domain"], int(found["realm"]), found["kind"], found["name"]


@functools.lru_cache(maxsize=CACHED_CERTIFICATES_MAX)
def parse_certificate(pem: bytes) -> Peer | str:
    """The peer, or what is wrong with its certificate."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return "has no subject alternative name that can be read"
    uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        return f"has {len(uris)} URI subject alternative names, not exactly one"
    parts = parse_uri(uris[0])
    if parts is None:
        return "names no spiffe://<trust domain>/<realm>/<kind>/<natural id>"
    return Peer(uris[0], *parts, certificate.not_valid_after_utc)


def authenticate(auth_context: Mapping[str, Sequence[bytes]]) -> Peer:
    """Who holds the other end of this connection.

    Raises:
        CallRefused: UNAUTHENTICATED, if there is no such certificate or it has expired meanwhile.
    """
    pems = auth_context.get(PEM_KEY, ())
    if len(pems) != 1:
        raise errors.unauthenticated(
            "This call came without a client certificate.", "本次调用没有客户端证书。"
        )
    peer = parse_certificate(pems[0])
    if isinstance(peer, str):
        raise errors.unauthenticated(
            f"The client certificate {peer}.",
            "客户端证书不符合要求：URI 主体备用名必须恰有一个，形如 "
            "spiffe://<信任域>/<realm>/<类别>/<自然标识>。",
        )
    # A connection may outlive the certificate that opened it.
    if peer.not_after <= datetime.datetime.now(datetime.UTC):
        raise errors.unauthenticated(
            "The client certificate has expired; renew it and connect again.",
            "客户端证书已过期，请更新后重新连接。",
        )
    return peer
