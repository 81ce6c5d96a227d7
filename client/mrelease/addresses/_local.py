"""This node: its own names and addresses, and the socket of the agent here."""

from __future__ import annotations

import contextlib
import os
import socket
from ipaddress import ip_address
from pathlib import Path

from mrelease._address import VARIABLE, default_socket
from mrelease.errors import NoAgent
from mrelease.resolvers._placement import Agent


class Local:
    """``localhost``, the host name with or without its domain, and addresses of this machine.

    Their agent is the one at ``$MRELEASE_AGENT`` where that is a socket, else this user's own.
    """

    is_quick = True

    def find(self, node: str, deadline: float) -> Agent:
        """See ``Finder``."""
        del deadline
        if not is_here(node):
            raise NoAgent(f"this node is {socket.gethostname()}")
        return Agent(self.check())

    def check(self) -> str:
        """The socket. Raises NoAgent where there is none."""
        named = os.environ.get(VARIABLE, "")
        if named.startswith("unix:"):
            return named
        path = default_socket()
        if not Path(path).is_socket():
            raise NoAgent(f"there is no socket {path} of an agent of this node: start one (mrelease-agent), or name it ({VARIABLE})")
        return f"unix://{path}"

    def close(self) -> None:
        """Holds nothing."""


def is_here(node: str) -> bool:
    """Whether a name or an address is this machine's. Asks nobody else."""
    own = socket.gethostname().lower()
    if node.lower() in ("localhost", own, own.partition(".")[0]):
        return True
    try:
        address = ip_address(node.strip("[]"))
    except ValueError:
        return False
    if address.is_loopback:
        return True
    if address.is_unspecified:
        return False
    # Only an own address can be bound, ip(7).
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe,
    ):
        probe.bind((str(address), 0))
        return True
    return False
