"""Where the agent is: what callers may write, what gRPC gets, and why nothing answers there."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

from mrelease._handshake import why_no_connection, why_no_handshake
from mrelease._tls import TLS, from_environment
from mrelease.errors import InvalidAddress

#: The environment variable that names the agent where the caller does not.
VARIABLE = "MRELEASE_AGENT"

# sizeof(sun_path) - 1, unix(7)
_LONGEST_SOCKET_PATH = 107
_FORMS = "expected unix:///path/to/agent.sock, 127.0.0.1:port, or with TLS host:port"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9.])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address: ``text`` for people, ``target`` for gRPC, ``path`` of the socket where it is one, ``tls`` where that is used."""

    text: str
    target: str
    path: str | None = None
    tls: TLS | None = None


def default_socket(environment: Mapping[str, str] = os.environ) -> str:
    """Path of the socket that an agent of this user makes by default.

    ``/run/mrelease/agent.sock`` for root, ``$XDG_RUNTIME_DIR/mrelease/agent.sock`` for others, ``/run/user/UID`` where that is not set.
    """
    uid = os.geteuid()
    if uid == 0:
        return "/run/mrelease/agent.sock"
    return f"{environment.get('XDG_RUNTIME_DIR') or f'/run/user/{uid}'}/mrelease/agent.sock"


def parse(address: str | None, environment: Mapping[str, str] = os.environ, tls: TLS | None = None) -> Address:
    """Parse an address; None: ``$MRELEASE_AGENT``, with the ``TLS`` of the environment where it has a port, else the default socket.

    Raises ``InvalidAddress`` and ``InvalidTLS``, both of which are a ``ValueError``.
    """
    text = address if address is not None else environment.get(VARIABLE) or f"unix://{default_socket(environment)}"
    if text.startswith("unix:"):
        # A tunnel to another machine is a socket of this one, and says whose certificate is at its end.
        if tls is not None and not tls.server_name:
            raise InvalidAddress(f"{text!r} is a socket of this machine, where there is no TLS: leave tls away, or name host:port")
        return _socket(text, text.removeprefix("unix://"), tls)
    return _tcp(text, tls or (from_environment(environment) if address is None else None))


def why_unreachable(address: Address, said: str = "") -> tuple[str, str]:
    """Why no agent answers, and what to do about it; ``said``: what gRPC says.

    Looks at the socket, so it is for the moment after a call has failed.
    """
    start = f"start one (mrelease-agent) or name another ({VARIABLE}, --agent)"
    refused = None if address.tls is None else why_no_handshake(address.text, address.tls, said)
    if refused is not None:
        return refused
    if address.path is None:
        return f"nothing answers at {address.text}{why_no_connection(said, address.tls)}", start
    return _why_no_socket(address.path, start)


def _why_no_socket(path: str, start: str) -> tuple[str, str]:
    error = _probe(path)
    own = "run as the agent's user or as root, or start an agent of your own (mrelease-agent)"
    if isinstance(error, FileNotFoundError):
        return f"there is no socket {path}", start
    if isinstance(error, PermissionError):
        return f"user {os.geteuid()} may not use {path}", own
    if isinstance(error, ConnectionRefusedError) and Path(path).is_socket():
        return f"the agent that made {path} is gone", "start it again (mrelease-agent): it replaces the stale socket"
    if error is not None:
        return f"{path} is not the socket of an agent ({error.strerror})", start
    return f"the agent at {path} took no connection", "try again; if it stays so, look at the agent's log"


def _probe(path: str) -> OSError | None:
    """Connect to a socket without waiting; the error where that fails."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except OSError as error:
        return error
    return None


def _socket(text: str, path: str, tls: TLS | None) -> Address:
    if not path.startswith("/"):
        raise InvalidAddress(f"{text!r} does not name an absolute path: {_FORMS}")
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:
        raw = b"\0"
    if b"\0" in raw:
        raise InvalidAddress(f"{text!r} has what no path can have: {_FORMS}")
    if len(raw) > _LONGEST_SOCKET_PATH:
        raise InvalidAddress(f"{text!r} is longer than the path of a socket can be ({_LONGEST_SOCKET_PATH} bytes): use a shorter directory")
    # gRPC decodes its targets as URIs.
    return Address(text, f"unix://{quote(raw)}", path, tls)


def _tcp(text: str, tls: TLS | None) -> Address:
    # The agent names its own port so, in its log and its option --listen.
    where = text.removeprefix("tcp://")
    host, colon, port = where.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    named = _is_ipv6(host[1:-1]) if bracketed else _HOST.fullmatch(host)
    if not (colon and named and port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise InvalidAddress(f"{text!r} is not an address of an agent: {_FORMS}")
    if tls is None and not _is_loopback(host[1:-1] if bracketed else host):
        raise InvalidAddress(
            f"{text!r} is not on this machine, and without TLS only that is served: give a certificate (tls=TLS(...), "
            "`mrelease context add`), forward the agent's socket (ssh -L) or use unix:///path"
        )
    return Address(text, f"dns:///{where}", tls=tls)


def _is_ipv6(host: str) -> bool:
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
