"""Who is calling: the one SPIFFE URI in the verified client certificate, and what it may call.

gRPC has checked the chain against `server.client_ca` before a call gets here. The common name is
never looked at.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from cryptography import x509

from core.authority import (
    Caller,
    Denial,
    Denied,
    Principal,
    caller,
    may_call,
    parse_principal,
)
from core.ledger.ledger import Ledger

from . import errors

CACHED_CERTIFICATES_MAX = 4096
PEM_KEY = "x509_pem_cert"

DENIALS_ZH = {
    Denial.NO_PRINCIPAL: "证书的 URI 不是 spiffe://<信任域>/<realm>/<类别>/<名称>",
    Denial.UNKNOWN_KIND: "证书所指既不是服务也不是通道门",
    Denial.OTHER_TRUST_DOMAIN: "证书属于另一信任域",
    Denial.OTHER_REALM: "证书属于另一 realm",
    Denial.NOT_REGISTERED: "该名称未登记",
}


@dataclass(frozen=True)
class Peer:
    """What a certificate says about its holder."""

    principal: Principal
    not_after: datetime.datetime


@functools.lru_cache(maxsize=CACHED_CERTIFICATES_MAX)
def parse_certificate(pem: bytes) -> Peer | str:
    """The peer, or what is wrong with its certificate."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return "the certificate has no subject alternative name that can be read"
    uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        return f"the certificate has {len(uris)} URI names, not exactly one"
    principal = parse_principal(uris[0])
    if isinstance(principal, Denied):
        return str(principal.denial)
    return Peer(principal, certificate.not_valid_after_utc)


def authenticate(context: grpc.aio.ServicerContext[Any, Any]) -> Peer:
    """Who holds the other end of this call's connection.

    Raises:
        CallRefused: UNAUTHENTICATED, if there is no such certificate or it has expired meanwhile.
    """
    # The stub says one value per key; there is a sequence of them.
    auth_context: Mapping[str, Any] = context.auth_context()
    pems: Sequence[bytes] = auth_context.get(PEM_KEY, ())
    if len(pems) != 1:
        raise errors.unauthenticated(
            "This call came without a client certificate.", "本次调用没有客户端证书。"
        )
    peer = parse_certificate(pems[0])
    if isinstance(peer, str):
        raise errors.unauthenticated(
            f"Not accepted: {peer}.",
            "客户端证书不符合要求：必须恰有一个 URI 主体备用名，形如 "
            "spiffe://<信任域>/<realm>/<类别>/<名称>。",
        )
    # A connection may outlive the certificate that opened it.
    if peer.not_after <= datetime.datetime.now(datetime.UTC):
        raise errors.unauthenticated(
            "The client certificate has expired; renew it and connect again.",
            "客户端证书已过期，请更新后重新连接。",
        )
    return peer


class Authority:
    """Lets callers in by the registry as it is at that moment."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def authorise(self, peer: Peer, rpc: str) -> Caller:
        """The live caller behind this peer.

        Raises:
            CallRefused: PERMISSION_DENIED, if it is not live or has no role for this RPC.
        """
        ledger = self._ledger
        with ledger.read() as state:
            found = caller(state, peer.principal, ledger.realm, ledger.trust_domain)
        if isinstance(found, Denied):
            raise errors.permission_denied(
                found.denial.name,
                f"Not let in: {found.denial}.",
                f"拒绝访问：{DENIALS_ZH[found.denial]}。",
                rpc,
            )
        if not may_call(found, rpc):
            raise errors.permission_denied(
                "ROLE_LACKS_RPC",
                f"None of the caller's roles may call {rpc}.",
                f"调用方的角色均无权调用 {rpc}。",
                rpc,
            )
        return found
