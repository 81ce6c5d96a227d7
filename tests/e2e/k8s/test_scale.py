"""What 50 nodes cost who looks for agents: as many requests as one node. By the API server's own count, on a real one without kubelets."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.k8s.scale_objects import AGENTS, endpoint, populate
from e2e.k8s.standalone import CALLER, Plane, plane
from mrelease.resolvers.kubernetes import Kubernetes
from support.lab import until

pytestmark = pytest.mark.e2e

NODES = 50
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{AGENTS}/endpointslices"


@pytest.fixture(scope="module")
def big() -> Generator[Plane]:
    """An API server that says that there are NODES nodes, an agent and two pods on each."""
    with plane() as made:
        populate(made, NODES, pods_per_node=2)
        yield made


def kubernetes(big: Plane, *, watched: bool = False) -> Kubernetes:
    return Kubernetes(kubeconfig=str(big.kubeconfig(CALLER)), tunnel=False, watched=watched)


def soon() -> float:
    return time.monotonic() + 60


def reads(counts: Counter[str]) -> dict[str, int]:
    """What a caller asks of objects; the API server asks for none of these kinds by itself once it is ready."""
    kinds = ("pods", "nodes", "endpointslices", "services")
    return {name: count for name, count in counts.items() if name.split()[-1] in kinds and name.split()[0] in ("GET", "LIST")}


def test_a_pod_of_each_node_is_five_requests(big: Plane) -> None:
    before = big.requests()
    with kubernetes(big) as kube:
        found = kube.resolve("k8s://load?selector=app%3Dweb", 60)
    assert {placement.node: placement.problem for placement in found} == {f"node-{k}": None for k in range(NODES)}
    assert len({placement.reach().address for placement in found}) == NODES
    assert reads(big.requests() - before) == {"LIST pods": 1, "LIST nodes": 1, "LIST services": 1, "LIST endpointslices": 1}


def test_fifty_threads_that_look_for_an_agent_each_ask_once_together(big: Plane) -> None:
    before = big.requests()
    with kubernetes(big) as kube, ThreadPoolExecutor(NODES) as threads:

        def reach(number: int) -> str:
            return kube.reach(f"node-{number}", soon()).address

        assert len(set(threads.map(reach, range(NODES)))) == NODES
    assert reads(big.requests() - before) == {"LIST services": 1, "LIST endpointslices": 1}


def test_who_keeps_up_asks_once_and_is_told(big: Plane) -> None:
    before = big.requests()
    with kubernetes(big, watched=True) as kube:
        for _ in range(20):
            for k in range(NODES):
                kube.reach(f"node-{k}", soon())
        assert reads(big.requests() - before) == {"LIST services": 1, "LIST endpointslices": 1}
        (item,) = json.loads(big.ask("GET", SLICES))["items"]
        item["endpoints"][7] = endpoint(7, "another")
        again = big.requests()
        big.ask("PUT", f"{SLICES}/{item['metadata']['name']}", item)
        until(lambda: kube.agents(soon())["node-7"].pod == "another", "the new agent to be known")
        assert reads(big.requests() - again) == {}
