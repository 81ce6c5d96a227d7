"""What a resolver gives: targets on nodes, what to expect of them, and where the agents are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from mrelease._async_client import AsyncClient
from mrelease._client import Client
from mrelease._models import NodeRef, ReleaseResult, Target
from mrelease._tls import TLS
from mrelease.errors import MreleaseError, NoAgent, ResolutionError


@dataclass(frozen=True, slots=True)
class Agent:
    """Where an agent is, and what a caller shows it. Of a tunnel the address holds as long as what made it is open.

    ``node``: what the agent calls its node, where whoever found it knows that for certain: a request that reaches another one does nothing.
    Empty: not known.
    """

    address: str
    tls: TLS | None = None
    node: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """One target on one node.

    ``node``: as the orchestrator calls it; ``target``: what to kill there, by an identity that is never used again, not by a name;
    ``expected``: the precondition that every request for it carries, so that another node, or another boot, does nothing; ``title``: what
    people call it. Exactly one of ``agent`` and ``problem``, why there is none, is set. ``uid``: for a ``Process`` whose orchestrator
    knows its user and not its ``pidfd_inode`` or start time: who makes the request for it asks the agent for that user's process of this
    number first, and names it by its inode.
    """

    node: str
    target: Target
    expected: NodeRef
    title: str
    agent: Agent | None = None
    problem: ResolutionError | None = None
    uid: int | None = None

    @classmethod
    def on(cls, node: str, target: Target, title: str, *, deadline: float, boot_id: str = "", uid: int | None = None) -> Placement:
        """A placement with the agent that ``mrelease.addresses`` finds for the node within ``deadline`` seconds, or with why there is none.

        Raises ResolutionError for what is wrong with every node, such as an inventory that cannot be read.
        """
        from mrelease.addresses import agent_of

        try:
            agent = agent_of(node, deadline=deadline)
        except NoAgent as problem:
            return cls(node, target, NodeRef("", boot_id), title, problem=problem, uid=uid)
        return cls(node, target, NodeRef(agent.node, boot_id), title, agent, uid=uid)

    def reach(self) -> Agent:
        """The agent of the node. Raises ``problem``."""
        if self.agent is None:
            raise self.problem or NoAgent(f"there is no agent on node {self.node}")
        return self.agent

    def client(self, *, timeout: float | timedelta = 10.0) -> Client:
        """A client of the agent of the node. Raises ``problem``."""
        agent = self.reach()
        return Client(agent.address, tls=agent.tls, timeout=timeout)

    def async_client(self, *, timeout: float | timedelta = 10.0) -> AsyncClient:
        """A client for asyncio. Raises ``problem``."""
        agent = self.reach()
        return AsyncClient(agent.address, tls=agent.tls, timeout=timeout)


@dataclass(frozen=True, slots=True)
class Acted:
    """What became of a placement: a result, or why there is none."""

    placement: Placement
    result: ReleaseResult | MreleaseError
