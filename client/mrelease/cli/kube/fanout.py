"""One piece of work for each of several nodes of a cluster, by the agents there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from mrelease import AsyncClient, errors
from mrelease.cli import fanout
from mrelease.cli.fanout import failures
from mrelease.cli.kube.settings import KubeSettings
from mrelease.errors import MreleaseError, ResolutionError
from mrelease.resolvers import Agent
from mrelease.resolvers.kubernetes import Kubernetes

__all__ = ["failures", "over", "why"]

ValueT = TypeVar("ValueT")


async def over(
    cluster: Kubernetes,
    settings: KubeSettings,
    nodes: Iterable[str],
    work: Callable[[str, AsyncClient], Awaitable[ValueT]],
    *,
    bar: bool = True,
) -> dict[str, ValueT | MreleaseError]:
    """What ``work`` gave for each node, or why it gave nothing. ``bar``: show on a terminal how many are done."""

    async def ask(name: str) -> ValueT:
        try:
            return await _ask(cluster, settings, name, work)
        finally:
            # Nobody needs the tunnel any more, and there may be a thousand.
            with contextlib.suppress(ResolutionError):
                await asyncio.to_thread(cluster.leave, name)

    return await fanout.over(nodes, ask, bar=bar)


async def _ask(cluster: Kubernetes, settings: KubeSettings, name: str, work: Callable[[str, AsyncClient], Awaitable[ValueT]]) -> ValueT:
    agent = await asyncio.to_thread(cluster.reach, name, settings.end())
    async with AsyncClient(agent.address, tls=agent.tls) as client:
        try:
            return await work(name, client)
        except errors.Unreachable as error:
            raise why(cluster, agent, name, error) from None


def why(cluster: Kubernetes, agent: Agent, node: str, error: MreleaseError) -> MreleaseError:
    """The error in words of the cluster: sockets of tunnels are nobody's concern."""
    if not isinstance(error, errors.Unreachable):
        return error
    said = error.message.replace(f" at {agent.address.removeprefix('unix://')}", "").replace(agent.address, f"node {node}")
    return cluster.why(agent) or errors.NoAgent(f"the agent of node {node} does not answer: {said}", "kubectl mrelease doctor")
