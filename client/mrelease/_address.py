"""Where the agent is: what callers may write, what gRPC gets, and why nothing answers there."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

from mrelease.errors import InvalidAddress

#: The environment variable that names the agent where the caller does not.
VARIABLE = "MRELEASE_AGENT"

# sizeof(sun_path) - 1, unix(7)
_LONGEST_SOCKET_PATH = 107
_FORMS = "expected unix:///path/to/agent.sock or 127.0.0.1:port"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address: ``text`` for people, ``target`` for gRPC, ``path`` of the socket where it is one."""

    text: str
    target: str
    path: str | None = None


def default_socket(environment: Mapping[str, str] = os.environ) -> str:
    """Path of the socket that an agent of this user makes by default.

    ``/run/mrelease/agent.sock`` for root, ``$XDG_RUNTIME_DIR/mrelease/agent.sock`` for others, ``/run/user/UID`` where that is not set.
    """
    uid = os.geteuid()
    if uid == 0:
        return "/run/mrelease/agent.sock"
    return f"{environment.get('XDG_RUNTIME_DIR') or f'/run/user/{uid}'}/mrelease/agent.sock"


def parse(address: str | None, environment: Mapping[str, str] = os.environ) -> Address:
    """Parse an address; None: ``$MRELEASE_AGENT``, else the default socket. Raises ``InvalidAddress``, a ``ValueError``."""
    text = address if address is not None else environment.get(VARIABLE) or f"unix://{default_socket(environment)}"
    return _socket(text, text.removeprefix("unix://")) if text.startswith("unix:") else _tcp(text)


def why_unreachable(address: Address) -> tuple[str, str]:
    """Why no agent answers, and what to do about it. Looks at the socket, so it is for the moment after a call has failed."""
    start = f"start one (mrelease-agent) or name another ({VARIABLE}, --agent)"
    if address.path is None:
        return f"nothing answers at {address.text}", start
    path, error = address.path, _probe(address.path)
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


def _socket(text: str, path: str) -> Address:
    if not path.startswith("/"):
        raise InvalidAddress(f"{text!r} does not name an absolute path: {_FORMS}")
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise InvalidAddress(f"{text!r} is longer than the path of a socket can be ({_LONGEST_SOCKET_PATH} bytes): use a shorter directory")
    # gRPC decodes its targets as URIs.
    return Address(text, f"unix://{quote(path)}", path)


def _tcp(text: str) -> Address:
    # The agent names its own port so, in its log and its option --listen.
    where = text.removeprefix("tcp://")
    host, colon, port = where.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536) or (":" in host and not bracketed):
        raise InvalidAddress(f"{text!r} is not an address of an agent: {_FORMS}")
    if not _is_loopback(host[1:-1] if bracketed else host):
        raise InvalidAddress(
            f"{text!r} is not on this machine: plaintext TCP is for loopback only, mTLS comes with a later version; "
            "forward the agent's socket (ssh -L) or use unix:///path"
        )
    return Address(text, f"dns:///{where}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
