"""Where a server of the agent listens: a Unix socket, a TCP port of the loopback interface, or with TLS a port that others reach."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Final

#: Longest path of a Unix socket in bytes: sun_path holds 108 with the closing NUL, unix(7).
MAX_UNIX_PATH: Final = 107


class AddressError(ValueError):
    """An address that this version does not listen on; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket by its absolute path."""

    path: str


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """An IP address and a TCP port; port 0 lets the kernel choose one."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """Address family of ``host``."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def __str__(self) -> str:
        """Write it as a gRPC target or a part of an URL: IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> UnixAddress | TcpAddress:
    """Read ``unix:///path``, ``unix:path`` (relative to the working directory) or ``tcp://HOST:PORT``.

    Raises AddressError for anything else, and for what ``parse_tcp`` refuses.
    """
    scheme, colon, rest = text.partition(":")
    if scheme == "unix" and colon:
        return UnixAddress(_unix_path(rest))
    if text.startswith("tcp://"):
        return parse_tcp(rest.removeprefix("//"))
    raise AddressError("is neither unix:///path nor tcp://127.0.0.1:port")


def parse_tcp(text: str) -> TcpAddress:
    """Read ``127.0.0.1:port`` or ``[::1]:port``.

    Raises AddressError for names (they may resolve to anything) and for addresses that other machines can reach.
    """
    address = _ip_and_port(text, "127.0.0.1:port or [::1]:port")
    packed = socket.inet_pton(address.family, address.host)
    if packed[0] != 127 if address.family == socket.AF_INET else packed != socket.inet_pton(socket.AF_INET6, "::1"):
        raise AddressError("is not a loopback address, and this is without TLS: write 127.0.0.1:port or [::1]:port")
    return address


def parse_tls(text: str) -> TcpAddress:
    """Read ``IP:port`` or ``[IPv6]:port``, also of every interface: ``0.0.0.0:port``, ``[::]:port``.

    Raises AddressError for names: they may resolve to anything.
    """
    return _ip_and_port(text, "IP:port or [IPv6]:port, for every interface 0.0.0.0:port or [::]:port")


def _ip_and_port(text: str, form: str) -> TcpAddress:
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and int(port[:6]) <= 65535 and len(port) <= 5):
        raise AddressError(f"does not end in a port from 0 to 65535: write {form}")
    if host.startswith("[") and host.endswith("]"):
        family, host = socket.AF_INET6, host[1:-1]
    else:
        family = socket.AF_INET
    try:
        packed = socket.inet_pton(family, host)
    except (OSError, ValueError):
        raise AddressError(f"has no IP address before its port: write {form}") from None
    return TcpAddress(socket.inet_ntop(family, packed), int(port))


def _unix_path(rest: str) -> str:
    if rest.startswith("//"):
        path = rest[2:]
        if not path.startswith("/"):
            raise AddressError("has two slashes and a relative path: write unix:///absolute/path")
    else:
        path = os.path.join(os.getcwd(), rest) if rest else ""  # noqa: PTH109, PTH118 - pathlib would drop a trailing slash
    if not path or path.endswith("/"):
        raise AddressError("names no socket: write unix:///directory/agent.sock")
    if not path.isprintable():
        raise AddressError("has characters in it that cannot be printed: choose a plain path")
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise AddressError(f"is longer than {MAX_UNIX_PATH} bytes, the most that a Unix socket's path can have: choose a shorter path")
    return path
