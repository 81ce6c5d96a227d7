"""Who makes a call: from what gRPC knows of the connection to a Caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mrelease.v1 import error_reason_pb2
from mrelease_agent.guard.caller import Caller
from mrelease_agent.rpc.errors import RpcError
from mrelease_agent.rpc.peers import peers

if TYPE_CHECKING:
    from mrelease_agent.rpc.certificates import Name

_UNIX: Final = Caller("unix")
_LOOPBACK: Final = Caller("loopback")
#: Certificates that are remembered at most; each was issued by the trusted authority.
_MAX_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class _Peer:
    caller: Caller
    name: Name
    not_after: float


class Callers:
    """Says of each call who makes it. ``revoked``: names of the certificates that are no longer accepted.

    gRPC verifies a certificate when a connection is made. Whether it has expired or was revoked since then is asked for at each call.
    """

    def __init__(self, revoked: Callable[[], frozenset[Name]] = frozenset) -> None:
        self._revoked = revoked
        self._peers: dict[bytes, _Peer] = {}

    def of(self, context: Any) -> Caller:
        """The caller of a call, by its connection. Raises RpcError (UNAUTHENTICATED)."""
        peer = str(context.peer())
        if peer.startswith("unix"):
            return _on_unix_socket(peer)
        properties: Mapping[str, list[bytes]] = context.auth_context()
        if properties.get("transport_security_type") != [b"ssl"]:
            # Without TLS the agent listens on the loopback interface alone.
            if peer.startswith(("ipv4:127.", "ipv6:[::1]:", "ipv6:%5B::1%5D:")):
                return _LOOPBACK
            raise _rejected("the caller has no certificate", "call with a client certificate of the agent's authority")
        return self._certified(properties)

    def _certified(self, properties: Mapping[str, list[bytes]]) -> Caller:
        # Newer versions of gRPC say so; where one does not, the cipher suites alone forbid it (tls.py).
        if properties.get("ssl_tls_version", [b"TLSv1.3"]) != [b"TLSv1.3"]:
            raise _rejected("the connection is older than TLS 1.3", "call with TLS 1.3")
        pem = b"".join(properties.get("x509_pem_cert", ()))
        peer = self._peers.get(pem)
        if peer is None:
            peer = _read(pem, properties)
            if len(self._peers) >= _MAX_REMEMBERED:
                self._peers.clear()
            self._peers[pem] = peer
        if time.time() > peer.not_after:
            raise _rejected("the caller's certificate has expired", "connect again with a new one")
        if peer.name in self._revoked():
            raise _rejected("the caller's certificate was revoked", "ask who issues certificates for a new one")
        return peer.caller


#: Where there is no TLS.
caller_of = Callers().of


def _on_unix_socket(peer: str) -> Caller:
    if not peers.established:
        return _UNIX
    caller = peers.find(peer)
    if caller is None:  # it has hung up
        raise RpcError(
            error_reason_pb2.ERROR_REASON_CALLER_NOT_PERMITTED,
            "the connection is gone, and with it who the caller was; nothing was signalled",
            "connect again",
            caller="unix",
            method="",
        )
    return caller


def _read(pem: bytes, properties: Mapping[str, list[bytes]]) -> _Peer:
    import hashlib

    from mrelease_agent.rpc.certificates import from_pem, read_certificate

    try:
        der = from_pem(pem, "CERTIFICATE")[0]
        certificate = read_certificate(der)
    except ValueError:
        raise _rejected("the caller's certificate cannot be read", "call with an X.509 certificate as RFC 5280 has it") from None
    caller = Caller(
        "mtls",
        # By kind: among x509_subject_alternative_name a DNS name could pass itself off as an URI.
        uris=_texts(properties, "peer_uri"),
        dns=_texts(properties, "peer_dns"),
        common_name="".join(_texts(properties, "x509_common_name")[:1]),
        fingerprint=hashlib.sha256(der).hexdigest(),
    )
    return _Peer(caller, certificate.name, certificate.not_after)


def _texts(properties: Mapping[str, list[bytes]], key: str) -> tuple[str, ...]:
    return tuple(value.decode("utf-8", "backslashreplace") for value in properties.get(key, ()))


def _rejected(message: str, remedy: str) -> RpcError:
    return RpcError(error_reason_pb2.ERROR_REASON_CERTIFICATE_REJECTED, f"{message}; nothing was signalled", remedy)
