"""Mutual TLS 1.3: the port, and its certificates, which are exchanged without a restart."""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from mrelease_agent import grpc_environment
from mrelease_agent.address import TcpAddress, parse_tls
from mrelease_agent.config.schema import Config
from mrelease_agent.config.values import ConfigError
from mrelease_agent.config.watched import Watched
from mrelease_agent.rpc.callers import Callers
from mrelease_agent.rpc.certificates import Certificate, Name, RevocationList, from_pem, read_certificate, read_revocation_list
from mrelease_agent.rpc.listener import check_port
from mrelease_agent.rpc.socket_directory import ListenError

#: Of a server with a TLS port, https://grpc.github.io/grpc/core/group__grpc__arg__keys.html
OPTIONS: Final = (
    # A connection is verified when it is made, so it is made again from time to time. Calls that run go on.
    ("grpc.max_connection_age_ms", 3_600_000),
    # Clients look for dead connections more often than gRPC's 5 minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


@dataclass(frozen=True, slots=True)
class Material:
    """What the files hold. ``expiries``: by key of the configuration, when the first in the file expires, in seconds since the epoch."""

    configuration: Any
    revoked: frozenset[Name]
    expiries: dict[str, float]


class TlsPort:
    """The port ``tls_listen`` of a configuration.

    ``options`` are for the server that gets it; ``watched`` wants to be polled; ``callers`` knows who calls.

    ``tell`` is that of Watched; ``expires`` is told by key (``tls_cert``, ``tls_ca``, ``tls_crl``) when what is in use expires.

    Raises ConfigError where the files cannot be used.
    """

    options: Final = OPTIONS

    def __init__(self, config: Config, tell: Callable[[str, bool, str], None], expires: Callable[[str, float], None]) -> None:
        keys = ["tls_cert", "tls_key", "tls_ca", *(["tls_crl"] if config.tls_crl else [])]
        files = {key: Path(getattr(config, key)) for key in keys}

        def told(what: str, stale: bool, why: str) -> None:
            if not stale:
                self._say_expiries()
            tell(what, stale, why)

        self._address = parse_tls(config.tls_listen)
        self._expires = expires
        self.watched: Watched[Material] = Watched("tls", list(files.values()), lambda contents: _make(files, contents), told)
        self.callers = Callers(lambda: self.watched.value.revoked)
        self._given = self.watched.value
        self._say_expiries()

    def add_to(self, server: grpc.aio.Server) -> TcpAddress:
        """Let the server listen there; returns the address with the port that the kernel chose. Raises ListenError."""
        if not grpc_environment.only_tls_1_3():
            raise ListenError(f"cannot listen on {self._address}: gRPC was imported before it was told to speak TLS 1.3 only")
        check_port(self._address)
        credentials = grpc.dynamic_ssl_server_credentials(self._given.configuration, self._changed, require_client_authentication=True)
        try:
            port = server.add_secure_port(str(self._address), credentials)
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {self._address}: gRPC takes neither the address nor the certificates") from error
        return TcpAddress(self._address.host, port)

    def _changed(self) -> Any:
        """For each handshake, on a thread of gRPC's: the new configuration, None where nothing changed since the last one."""
        current = self.watched.value
        if current is self._given:
            return None
        self._given = current
        return current.configuration

    def _say_expiries(self) -> None:
        for key, when in self.watched.value.expiries.items():
            self._expires(key, when)


def _make(files: dict[str, Path], contents: Sequence[bytes]) -> Material:
    """Check everything that would otherwise fail in a handshake, where nobody is told why. Raises ConfigError."""
    found = dict(zip(files, contents, strict=True))
    now = time.time()
    with _named("tls_cert", files):
        chain = [read_certificate(der) for der in from_pem(found["tls_cert"], "CERTIFICATE")]
        _check_own(chain[0], now)
    with _named("tls_ca", files):
        authorities = _check_authorities(found["tls_ca"], now)
    with _named("tls_key", files):
        _check_key(found["tls_cert"], found["tls_key"])
    expiries = {"tls_cert": min(each.not_after for each in chain), "tls_ca": min(authorities)}
    revoked: frozenset[Name] = frozenset()
    if "tls_crl" in found:
        with _named("tls_crl", files):
            lists = [read_revocation_list(der) for der in from_pem(found["tls_crl"], "X509 CRL")]
            revoked = revoked.union(*(each.revoked for each in lists))
            if due := _due(lists, now):
                expiries["tls_crl"] = due
    pair = (found["tls_key"], found["tls_cert"])
    return Material(grpc.ssl_server_certificate_configuration([pair], root_certificates=found["tls_ca"]), revoked, expiries)


@contextlib.contextmanager
def _named(key: str, files: dict[str, Path]) -> Any:
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{key}, {files[key]}, {error}") from None


def _check_own(certificate: Certificate, now: float) -> None:
    if now >= certificate.not_after:
        raise ValueError("has expired: renew it")
    if now < certificate.not_before:
        raise ValueError("is not valid yet: check the clock, or wait")
    if not certificate.for_servers:
        raise ValueError("is not for servers: issue one whose extended key usage is serverAuth")


def _check_authorities(pem: bytes, now: float) -> list[float]:
    """When those expire that have not yet."""
    found = from_pem(pem, "CERTIFICATE")
    expiries = [expiry for expiry in (read_certificate(der).not_after for der in found) if expiry > now]
    if not expiries:
        raise ValueError("has no certificate that has not expired")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=b"".join(found))
    except ssl.SSLError:
        raise ValueError("has a certificate that cannot be read") from None
    if not context.cert_store_stats()["x509_ca"]:
        raise ValueError("has no certificate of an authority (basic constraints CA)")
    return expiries


def _check_key(certificate: bytes, key: bytes) -> None:
    if b"ENCRYPTED" in key:
        raise ValueError("is encrypted, and nobody is there to type its password: give a plain one that only the agent's user may read")
    # OpenSSL reads files only. One in memory is not written again between being read and being checked.
    with contextlib.ExitStack() as stack:
        paths: list[str] = []
        for content in (certificate, key):
            fd = os.memfd_create("tls", os.MFD_CLOEXEC)
            stack.callback(os.close, fd)
            os.write(fd, content)
            paths.append(f"/proc/self/fd/{fd}")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*paths)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError("is not the key of the certificate in tls_cert: write both before either is used") from None
            raise ValueError("is not a private key in PEM, or not one for the certificate in tls_cert") from None


def _due(lists: Sequence[RevocationList], now: float) -> float | None:
    due = [each.next_update for each in lists if each.next_update is not None]
    if due and min(due) <= now:
        raise ValueError("is out of date: its next update was due")
    return min(due, default=None)
