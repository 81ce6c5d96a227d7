"""The agents: which address is on which node, by the EndpointSlices of their Service, and a client for each that is asked."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

from mrelease import TLS, AsyncClient
from mrelease.errors import NoAgent
from mrelease.resolvers.kubernetes import AgentPod, agents_of

#: Connections that are kept: of a thousand nodes few have something to be released at a time.
_KEPT: Final = 64


@dataclass(slots=True)
class _Client:
    agent: AgentPod
    client: AsyncClient
    users: int = 0


class Agents:
    """A keeper of EndpointSlices, see watching. ``tls``: what agents are shown; ``timeout``: seconds for an answer."""

    def __init__(self, tls: TLS, timeout: float) -> None:
        self._tls, self._timeout = tls, timeout
        self._slices: dict[str, Any] = {}
        self._listed: set[str] = set()
        self._agents: dict[str, AgentPod] | None = None
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    def begin(self) -> None:
        """See watching.Keeper."""
        self._listed = set()

    def end(self) -> None:
        """See watching.Keeper."""
        self._slices = {uid: item for uid, item in self._slices.items() if uid in self._listed}
        self._agents = None

    def see(self, item: Any) -> None:
        """See watching.Keeper."""
        uid = str(item["metadata"]["uid"])
        self._listed.add(uid)
        self._slices[uid] = item
        self._agents = None

    def gone(self, item: Any) -> None:
        """See watching.Keeper."""
        self._slices.pop(str(item["metadata"]["uid"]), None)
        self._agents = None

    def find(self, node: str) -> AgentPod:
        """The agent of a node. Raises NoAgent."""
        if self._agents is None:
            self._agents = agents_of(list(self._slices.values()))
        found = self._agents.get(node)
        if found is None:
            raise NoAgent(
                f"there is no agent on node {node}", "does the chart's nodeSelector leave it out? `kubectl mrelease doctor` looks"
            )
        return found

    @contextlib.asynccontextmanager
    async def use(self, node: str) -> AsyncGenerator[AsyncClient]:
        """A client of the agent of a node, for some calls. Raises NoAgent."""
        agent = self.find(node)
        kept = self._clients.get(node)
        if kept is None or (kept.agent.address, kept.agent.port) != (agent.address, agent.port):
            if kept is not None and not kept.users:
                await kept.client.close()
            host = f"[{agent.address}]" if ":" in agent.address else agent.address
            kept = self._clients[node] = _Client(agent, AsyncClient(f"{host}:{agent.port}", tls=self._tls, timeout=self._timeout))
        self._clients.move_to_end(node)
        kept.users += 1
        try:
            yield kept.client
        finally:
            kept.users -= 1
            await self._tidy(node, kept)

    async def close(self) -> None:
        """End all connections."""
        for kept in self._clients.values():
            await kept.client.close()
        self._clients.clear()

    async def _tidy(self, node: str, used: _Client) -> None:
        """Close what was replaced meanwhile, and of too many what was used least recently."""
        if self._clients.get(node) is not used and not used.users:
            await used.client.close()
        for name in list(self._clients):
            if len(self._clients) <= _KEPT:
                break
            if not self._clients[name].users:
                await self._clients.pop(name).client.close()
