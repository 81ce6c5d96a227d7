"""Work over many nodes: each on its own, what fails beside what does not, and a bar on a terminal that goes again."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Generator
from pathlib import Path

import pytest
from rich.console import Console

from mrelease import AsyncClient, errors
from mrelease.cli import fanout as nodes
from mrelease.cli.kube import fanout
from mrelease.cli.kube.settings import KubeSettings
from mrelease.errors import NoAgent
from mrelease.resolvers import Agent
from mrelease.resolvers.kubernetes import Kubernetes
from support.kube_api import FakeApi
from support.sdk_fake_agent import FakeAgent, fake_agent


class Cluster(Kubernetes):
    """Without an API server: what ``reach`` finds is given, agents by their sockets, or nothing."""

    def __init__(self, kubeconfig: str, agents: dict[str, str]) -> None:
        super().__init__(kubeconfig=kubeconfig)
        self.found, self.left = agents, set[str]()

    def reach(self, node: str, end: float) -> Agent:
        del end
        if node not in self.found:
            raise NoAgent(f"there is no agent on node {node}", "wait")
        return Agent(self.found[node])

    def leave(self, node: str) -> None:
        self.left.add(node)


@pytest.fixture
def agent(tmp_path: Path) -> Generator[FakeAgent]:
    with fake_agent(tmp_path) as made:
        yield made


@pytest.fixture
def cluster(agent: FakeAgent, tmp_path: Path) -> Generator[Cluster]:
    addresses = {"n1": agent.address, "n2": agent.address, "dead": f"unix://{tmp_path}/nobody"}
    made = Cluster(FakeApi("http://127.0.0.1:1").kubeconfig(tmp_path), addresses)
    with made:
        yield made


async def name(node: str, client: AsyncClient) -> str:
    return f"{node} at {client.address}"


async def test_each_node_has_its_answer_or_its_error(cluster: Cluster, agent: FakeAgent) -> None:
    async def ask(node: str, client: AsyncClient) -> str:
        if node == "dead":
            await client.get_node()
        return await name(node, client)

    found = await fanout.over(cluster, KubeSettings(), ["n2", "none", "n1", "dead", "n1"], ask)
    assert list(found) == ["dead", "n1", "n2", "none"]
    assert found["n1"] == f"n1 at {agent.address}"
    assert isinstance(found["none"], NoAgent)
    assert isinstance(found["dead"], NoAgent), "a socket is nobody's concern"
    assert "the agent of node dead does not answer" in str(found["dead"])
    assert cluster.left == {"n1", "n2", "none", "dead"}, "no tunnel is kept"


async def test_so_many_at_the_same_time_and_no_more(cluster: Cluster, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "CONCURRENCY", 2)
    cluster.found = {f"n{number}": agent.address for number in range(6)}
    now, most = 0, 0
    both = asyncio.Event()

    async def work(_node: str, _client: AsyncClient) -> None:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        if now == 2:
            both.set()
        await both.wait()
        now -= 1

    await fanout.over(cluster, KubeSettings(), cluster.found, work)
    assert most == 2


async def test_a_bar_shows_how_many_nodes_are_done_and_goes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    first, seen = asyncio.Event(), asyncio.Event()

    class Shown(io.StringIO):
        def write(self, text: str) -> int:
            if "1 of 2 nodes" in text:
                seen.set()
            return super().write(text)

    shown = Shown()
    monkeypatch.setattr(nodes, "can_draw", lambda: True)
    monkeypatch.setattr(nodes, "DELAY", 0)
    monkeypatch.setattr(nodes, "console", lambda: Console(file=shown, force_terminal=True, width=80))

    async def work(node: str, _client: AsyncClient) -> None:
        if node == "n1":
            first.set()
            return
        await first.wait()
        await seen.wait()

    await fanout.over(cluster, KubeSettings(), ["n1", "n2"], work)
    assert "1 of 2 nodes" in shown.getvalue()
    assert shown.getvalue().endswith("\x1b[2K"), "wiped"


def test_what_is_no_way_stays_what_it_is(cluster: Cluster) -> None:
    import grpc

    lost = errors.ConnectionLost("lost", code=grpc.StatusCode.UNAVAILABLE)
    assert fanout.why(cluster, Agent("unix:///x"), "n1", lost) is lost
