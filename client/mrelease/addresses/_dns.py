"""``$MRELEASE_AGENT_TEMPLATE``: the name of a node makes a host name, which is looked up."""

from __future__ import annotations

import os
import socket
from typing import Final

from mrelease._text import printable
from mrelease.addresses._given import NODE, address, tls_for
from mrelease.errors import InvalidInventory, NoAgent, OrchestratorUnavailable
from mrelease.resolvers._placement import Agent

#: The environment variable.
VARIABLE: Final = "MRELEASE_AGENT_TEMPLATE"


class Dns:
    """``MRELEASE_AGENT_TEMPLATE="{node}.example.org:7443"``."""

    def find(self, node: str, deadline: float) -> Agent:
        """See ``Finder``. A name that does not resolve is no agent of ours; a server that does not answer is an error."""
        del deadline  # getaddrinfo(3) has none: whoever calls this does not wait longer
        found = address(self.check(), node, f"${VARIABLE}")
        host, _, port = found.removeprefix("tcp://").rpartition(":")
        try:
            socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in (socket.EAI_AGAIN, socket.EAI_FAIL):
                raise OrchestratorUnavailable(f"{host} cannot be looked up now: {error.strerror}", "is the name server there?") from None
            raise NoAgent(f"{host} does not resolve: {error.strerror}") from None
        except UnicodeError:
            raise NoAgent(f"{host} cannot be a host name: a part of it is empty or longer than 63 characters") from None
        # By its name, so that the agent's certificate is checked against it.
        return Agent(found, tls_for(found))

    def check(self) -> str:
        """What it reads. Raises NoAgent where there is nothing, InvalidInventory."""
        template = os.environ.get(VARIABLE, "")
        if not template:
            raise NoAgent(f"${VARIABLE} is not set")
        if NODE not in template or template.startswith("unix:"):
            raise InvalidInventory(f"${VARIABLE} is {printable(template[:80])!r}", f"write where {NODE} goes: {NODE}.example.org:7443")
        return template

    def close(self) -> None:
        """Holds nothing."""
