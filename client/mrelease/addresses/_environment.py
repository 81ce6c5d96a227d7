"""``$MRELEASE_AGENTS``: nodes and the addresses of their agents, one by one."""

from __future__ import annotations

import os
from typing import Final

from mrelease._text import printable
from mrelease.addresses._given import address, tls_for
from mrelease.errors import InvalidInventory, NoAgent
from mrelease.resolvers._placement import Agent

#: The environment variable.
VARIABLE: Final = "MRELEASE_AGENTS"
_FORM: Final = f'write {VARIABLE}="node1=host:port,node2=host:port"'


class Environment:
    """``MRELEASE_AGENTS="node1=10.0.0.1:7443,node2=unix:///run/mrelease/agent.sock"``."""

    is_quick = True

    def find(self, node: str, deadline: float) -> Agent:
        """See ``Finder``."""
        del deadline
        agents = self.check()
        if node not in agents:
            raise NoAgent(f"${VARIABLE} does not name it")
        found = address(agents[node], node, f"${VARIABLE}: node {node}")
        return Agent(found, tls_for(found))

    def check(self) -> dict[str, str]:
        """What it reads. Raises NoAgent where there is nothing, InvalidInventory."""
        text = os.environ.get(VARIABLE, "")
        if not text:
            raise NoAgent(f"${VARIABLE} is not set")
        return parse(text)

    def close(self) -> None:
        """Holds nothing."""


def parse(text: str) -> dict[str, str]:
    """Addresses by nodes. Raises InvalidInventory."""
    found: dict[str, str] = {}
    for entry in text.split(","):
        node, equals, where = (part.strip() for part in entry.partition("="))
        if not (node and equals and where):
            raise InvalidInventory(f"${VARIABLE}: {printable(entry[:80])!r} is not NODE=ADDRESS", _FORM)
        if node in found:
            raise InvalidInventory(f"${VARIABLE} names node {printable(node)} twice", "which of the two is it? leave one")
        found[node] = where
    return found
