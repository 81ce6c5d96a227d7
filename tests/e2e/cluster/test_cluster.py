"""The agent's image on a real cluster, as a plain DaemonSet: a pod is killed and its memory is back, from inside and from outside."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator
from typing import Any

import pytest

from e2e.cluster import Cluster, Pod, hog
from mrelease import Client, Container, Feature, NodeRef, Wait
from mrelease import Pod as PodTarget
from mrelease.errors import NodeMismatch
from support.lab import MIB, until, wait_readable

pytestmark = pytest.mark.e2e

#: MiB of a victim.
SIZE = 256
#: What the privileges below are there for.
NEEDED = (Feature.PROCESS_MRELEASE, Feature.KILL_ANY_USER, Feature.MEMORY_CGROUP, Feature.COMPARE_MM, Feature.BOOST_EVACUATION)


def daemon_set(image: str) -> dict[str, Any]:
    """The agent with no more privileges than DESIGN says. Its /run is a directory of the node, so that the node can reach its socket."""
    container = {
        "name": "agent",
        "image": image,
        "env": [{"name": "MRELEASE_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "seccompProfile": {"type": "RuntimeDefault"},
            "capabilities": {"drop": ["ALL"], "add": ["KILL", "SYS_NICE", "SYS_PTRACE", "IPC_LOCK"]},
        },
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "readinessProbe": {"exec": {"command": ["mrelease", "doctor"]}, "periodSeconds": 1, "timeoutSeconds": 20},
        "volumeMounts": [
            {"name": "run", "mountPath": "/run"},
            {"name": "cgroup", "mountPath": "/sys/fs/cgroup"},
            # Names of namespaces and pods are there, and nowhere else on a node: without them nothing says what is protected.
            {"name": "pods", "mountPath": "/var/log/pods", "readOnly": True},
        ],
    }
    spec = {
        "hostPID": True,
        "automountServiceAccountToken": False,
        "priorityClassName": "system-node-critical",
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [
            {"name": "run", "hostPath": {"path": "/run/mrelease-e2e", "type": "DirectoryOrCreate"}},
            {"name": "cgroup", "hostPath": {"path": "/sys/fs/cgroup"}},
            {"name": "pods", "hostPath": {"path": "/var/log/pods", "type": "DirectoryOrCreate"}},
        ],
    }
    labels = {"app": "mrelease-e2e"}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }


@contextlib.contextmanager
def closing(fd: int) -> Generator[None, None, None]:
    try:
        yield
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def agents(cluster: Cluster) -> Generator[dict[str, Pod], None, None]:
    """The agent's pod on each node, by the node's name."""
    with cluster.namespace() as namespace:
        cluster.apply(daemon_set(cluster.image), namespace=namespace)
        cluster.await_rollout("daemonset/agent", namespace)
        yield {pod.node: pod for pod in cluster.pods(namespace, "app=mrelease-e2e")}


@pytest.fixture
def victim(cluster: Cluster, agents: dict[str, Pod], namespace: str) -> Pod:
    """A BestEffort pod that holds SIZE MiB, on a node that has an agent."""
    del agents
    return cluster.run_pod(hog("victim", SIZE, cluster.image), namespace)


def test_memory_of_a_container_is_back_and_its_pod_goes_on(cluster: Cluster, victim: Pod) -> None:
    node = cluster.node(victim.node)
    (pid,) = node.pids(victim.containers["hog"])
    assert node.charge(victim.containers["hog"]) >= SIZE * MIB
    pidfd = os.pidfd_open(pid)

    with closing(pidfd), Client(f"unix://{node.path('/run/mrelease-e2e/mrelease/agent.sock')}") as agent:
        result = agent.kill_and_release(Container(victim.containers["hog"]), wait=Wait.EXITED, timeout=30, reason="end to end")
        assert wait_readable(pidfd, 0), "the agent says that the victim has exited, and the kernel does not"

    # Where nothing starves the victim it may be faster than the reaper: EXITED.
    assert result.is_released
    assert result.released_bytes >= SIZE * MIB * 0.98
    assert [process.command for process in result.processes] == ["python"]
    # kubelet starts the container once more, in the sandbox that was there: same pod, same address.
    until(lambda: cluster.pod("victim", victim.namespace).restarts["hog"] == 1, "the container to be started again")
    cluster.wait("pod/victim", "condition=Ready", victim.namespace)
    again = cluster.pod("victim", victim.namespace)
    assert again.uid == victim.uid
    assert again.address == victim.address
    assert again.containers["hog"] != victim.containers["hog"]
    assert again.restarts["hog"] == 1


def test_a_pod_is_killed_from_inside_of_the_agents_container(cluster: Cluster, agents: dict[str, Pod], victim: Pod) -> None:
    said = cluster.exec(agents[victim.node], "mrelease", "kill", "--pod", victim.uid, "--timeout", "30s", "-o", "json")
    (answer,) = json.loads(said)["results"]
    assert answer["result"]["verdict"] in {"VERDICT_RELEASED", "VERDICT_EXITED"}
    assert answer["result"]["released_bytes"] >= SIZE * MIB


def test_a_request_for_another_node_kills_nothing(cluster: Cluster, agents: dict[str, Pod], victim: Pod) -> None:
    others = [name for name in agents if name != victim.node]
    node = cluster.node(others[0])
    (pid,) = cluster.node(victim.node).pids(victim.containers["hog"])
    with Client(f"unix://{node.path('/run/mrelease-e2e/mrelease/agent.sock')}") as agent, pytest.raises(NodeMismatch):
        agent.kill_and_release(PodTarget(victim.uid), node=NodeRef(victim.node))
    assert cluster.node(victim.node).pids(victim.containers["hog"]) == [pid]


def test_the_agent_can_do_all_that_it_is_there_for(cluster: Cluster, agents: dict[str, Pod]) -> None:
    for name in agents:
        with Client(f"unix://{cluster.node(name).path('/run/mrelease-e2e/mrelease/agent.sock')}") as agent:
            node = agent.get_node()
        assert node.identity.name == name
        missing = {feature.name for feature in NEEDED if not node.can(feature)}
        assert not missing, node.capabilities
