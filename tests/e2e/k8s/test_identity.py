"""A request that is meant for another node, another boot or another pod does nothing: never is the new one killed for the old."""

from __future__ import annotations

import pytest

from e2e.cluster import Cluster, hog
from e2e.k8s.release import Release
from mrelease import NodeRef
from mrelease import Pod as PodTarget
from mrelease.errors import NodeMismatch, TargetNotFound

SIZE = 32


def test_a_request_that_reaches_the_wrong_node_or_another_boot_does_nothing(
    release: Release, cluster: Cluster, namespace: str, victim_node: str
) -> None:
    victim = cluster.run_pod(hog("victim", SIZE, cluster.image, node=victim_node), namespace)
    target = PodTarget(victim.uid)
    other = max(release.agents())
    assert other != victim_node, "needs two nodes"
    with release.client(other) as agent, pytest.raises(NodeMismatch) as elsewhere:
        agent.kill_and_release(target, node=NodeRef(victim_node))
    with release.client(other) as agent, pytest.raises(TargetNotFound):
        agent.kill_and_release(target)
    with release.client(victim_node) as agent, pytest.raises(NodeMismatch) as before:
        agent.kill_and_release(target, node=NodeRef(victim_node, "00000000-0000-4000-8000-000000000000"))
    assert elsewhere.value.nothing_signalled
    assert before.value.nothing_signalled
    assert cluster.pod("victim", namespace).restarts["hog"] == 0
    boot = cluster.get("node", victim_node)["status"]["nodeInfo"]["bootID"]
    with release.client(victim_node) as agent:
        assert agent.kill_and_release(target, node=NodeRef(victim_node, boot)).is_released


def test_a_pod_that_was_made_anew_under_its_old_name_is_not_killed_for_the_old_one(
    release: Release, cluster: Cluster, namespace: str, victim_node: str
) -> None:
    manifest = hog("victim", SIZE, cluster.image, node=victim_node)
    old = cluster.run_pod(manifest, namespace)
    cluster.kubectl("delete", "pod", "victim", "-n", namespace)
    new = cluster.run_pod(manifest, namespace)
    assert new.uid != old.uid
    with release.client(victim_node) as agent:
        with pytest.raises(TargetNotFound):
            agent.kill_and_release(PodTarget(old.uid))
        with pytest.raises(TargetNotFound):
            agent.kill_and_release(PodTarget(new.uid, (old.containers["hog"],)))
    assert dict(cluster.pod("victim", namespace).restarts) == {"hog": 0}
