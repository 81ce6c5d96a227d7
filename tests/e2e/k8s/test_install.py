"""From nothing to agents that answer, and back to nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from e2e.cluster import Cluster
from e2e.k8s.conftest import remove_state
from e2e.k8s.release import PORT, Release, find_helm
from e2e.k8s.traces import Traces
from mrelease import Client, Feature
from mrelease.errors import AgentError, Unavailable


def test_from_nothing_to_ready_and_back_to_nothing(cluster: Cluster, record_property: Callable[[str, object], None]) -> None:
    with cluster.namespace() as namespace:
        fresh = Release(cluster, "fresh", namespace, find_helm())
        before = time.monotonic()
        fresh.install({})
        ready = time.monotonic() - before
        record_property("seconds_to_ready", round(ready, 1))
        print(f"helm install to ready: {ready:.1f} s")
        traces = Traces.of(fresh)
        assert fresh.objects()
        assert fresh.agents().keys() == {node["metadata"]["name"] for node in cluster.get("nodes")["items"]}
        fresh.uninstall()
        traces.await_nothing()
        remove_state(fresh)


def test_helm_test_says_that_an_agent_answers(release: Release) -> None:
    assert "Phase:          Succeeded" in release.run_helm("test", release.name)


def test_every_agent_answers_as_its_node_and_can_do_what_it_is_there_for(release: Release) -> None:
    nodes = {node["metadata"]["name"]: node["status"]["nodeInfo"] for node in release.cluster.get("nodes")["items"]}
    assert release.agents().keys() == nodes.keys()
    for name, info in nodes.items():
        with release.client(name) as agent:
            found = agent.get_node()
        assert (found.identity.name, found.identity.boot_id) == (name, info["bootID"])
        for feature in (Feature.PROCESS_MRELEASE, Feature.KILL_ANY_USER, Feature.MEMORY_CGROUP, Feature.COMPARE_MM, Feature.AUDIT):
            assert found.can(feature), feature


def test_who_may_exec_into_an_agents_pod_finds_out_what_it_can_do(release: Release, victim_node: str) -> None:
    said = release.cluster.exec(release.agents()[victim_node], "mrelease", "node")
    assert victim_node in said


def test_without_a_certificate_of_the_releases_authority_nobody_gets_in(release: Release, cluster: Cluster, victim_node: str) -> None:
    pod = release.agents()[victim_node]
    with (
        cluster.port_forward(f"pod/{pod.name}", PORT, release.namespace) as port,
        Client(f"127.0.0.1:{port}", timeout=5) as stranger,
        pytest.raises(AgentError) as refused,
    ):
        stranger.get_node()
    assert isinstance(refused.value, Unavailable)
