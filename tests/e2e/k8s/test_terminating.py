"""A pod that stays Terminating because its process cannot end: its memory is given back all the same."""

from __future__ import annotations

import pytest

from e2e.cluster import Cluster
from e2e.k8s.hanging import await_d_state, hanging_pod
from e2e.k8s.release import Release
from e2e.k8s.victims import SIZE
from mrelease import Pod as PodTarget
from mrelease.errors import NotDying
from support.lab import MIB


def test_memory_of_a_pod_that_is_terminating_in_state_d_is_released(
    release: Release, cluster: Cluster, namespace: str, victim_node: str
) -> None:
    node = cluster.node(victim_node)
    with hanging_pod(cluster, node, namespace) as victim:
        container = victim.containers["hog"]
        with release.client(victim_node) as agent:
            with pytest.raises(NotDying):
                agent.release(PodTarget(victim.uid))
            cluster.kubectl("delete", "pod", "victim", "-n", namespace, "--wait=false")
            pid = await_d_state(node, container)
            held = node.charge(container)
            assert held >= SIZE * MIB
            result = agent.release(PodTarget(victim.uid))
            assert result.is_released
            assert result.released_bytes >= SIZE * MIB * 0.98
            assert node.charge(container) <= held - SIZE * MIB
            # It has not ended: only its memory is back.
            assert node.pids(container) == [pid]
            assert "deletionTimestamp" in cluster.get("pod", "victim", namespace)["metadata"]
    release.await_gone(victim)
