"""Who may have what killed: the policy of the values, and what nobody may."""

from __future__ import annotations

import uuid

import pytest

from e2e.cluster import Cluster, hog
from e2e.k8s.release import TEAM, Release
from mrelease import Pod as PodTarget
from mrelease.errors import CallerNotPermitted, Protected

SIZE = 32


def test_a_caller_of_one_namespace_kills_there_and_learns_nothing_of_any_other(
    release: Release, cluster: Cluster, namespace: str, team_namespace: str, victim_node: str
) -> None:
    manifest = hog("victim", SIZE, cluster.image, node=victim_node)
    own = cluster.run_pod(manifest, team_namespace)
    foreign = cluster.run_pod(manifest, namespace)
    said: list[str] = []
    with release.client(victim_node, TEAM) as agent:
        # Somebody else's, one that is not there, and one that is protected: the same answer, to the byte.
        for uid in (foreign.uid, str(uuid.uuid4()), release.agents()[victim_node].uid):
            with pytest.raises(CallerNotPermitted) as denied:
                agent.kill_and_release(PodTarget(uid))
            assert denied.value.nothing_signalled
            said.append(str(denied.value))
        assert len(set(said)) == 1
        seen = {process.pod_uid for process in agent.list_processes(limit=None)}
        assert own.uid in seen <= {pod.uid for pod in cluster.pods(team_namespace)}
        with pytest.raises(CallerNotPermitted):
            agent.get_node()
        assert agent.kill_and_release(PodTarget(own.uid)).is_released
    assert cluster.pod("victim", namespace).restarts["hog"] == 0
    refused = [record for record in release.audit(victim_node) if record["event"] == "refused"]
    assert any(foreign.uid in str(record) for record in refused)


def test_pods_of_kube_system_and_the_agent_itself_are_protected_from_administrators_too(
    release: Release, cluster: Cluster, victim_node: str
) -> None:
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    system = cluster.run_pod(hog(name, SIZE, cluster.image, node=victim_node), "kube-system")
    try:
        with release.client(victim_node) as agent:
            for uid in (system.uid, release.agents()[victim_node].uid):
                with pytest.raises(Protected) as refused:
                    agent.kill_and_release(PodTarget(uid))
                assert refused.value.nothing_signalled
        assert cluster.pod(name, "kube-system").restarts["hog"] == 0
    finally:
        cluster.kubectl("delete", "pod", name, "-n", "kube-system", "--wait=false")
