"""Who is behind each connection of the Unix socket: gRPC tells a service the name that the other end is bound to, and no more."""

from __future__ import annotations

import secrets
from typing import Final

from mrelease_agent.guard.caller import Caller

#: How gRPC writes a peer with a name in the abstract namespace of unix(7), from ``ServicerContext.peer()``.
_ABSTRACT: Final = "unix-abstract:"


class Peers:
    """Callers by the name of the connection that the relay has opened for each.

    A name has 128 random bits and is used once. It is forgotten before its socket is closed, so nobody can bind it while it means anyone.
    """

    def __init__(self) -> None:
        self._callers: dict[str, Caller] = {}
        self.established = False
        """Whether every connection of a Unix socket has such a name: one without is then nobody's."""

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._callers)

    def add(self, caller: Caller) -> str:
        """Make a name for a connection of this caller: what its socket is bound to, behind a zero byte."""
        name = f"mrelease-{secrets.token_hex(16)}"
        self._callers[name] = caller
        return name

    def forget(self, name: str) -> None:
        """The connection of this name ends."""
        self._callers.pop(name, None)

    def find(self, peer: str) -> Caller | None:
        """The caller behind what gRPC calls ``peer``; None where that is no connection of the relay's, or one that is gone."""
        return self._callers.get(peer.removeprefix(_ABSTRACT)) if peer.startswith(_ABSTRACT) else None


#: Of this process, which has one Unix socket at most: names are unique, so that tests may have several.
peers: Final = Peers()
