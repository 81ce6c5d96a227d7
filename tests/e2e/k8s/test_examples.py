"""The examples do on a cluster what they say: room for a pod that pends, and memory above a floor, with as few dead as possible."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from e2e.cluster import hog
from e2e.k8s.conftest import FLOOR
from e2e.k8s.hanging import hanging_pod
from e2e.k8s.release import Release
from e2e.k8s.scarcity import MIB, free_mib, memory_floor, pod, preemption, priorities, wants
from e2e.k8s.victims import await_restart
from support import lab
from support.lab import until

pytestmark = pytest.mark.e2e


@pytest.fixture
def classes(release: Release, namespace: str) -> Generator[str]:
    """The prefix of priority classes of the test's own."""
    with priorities(release.cluster, namespace):
        yield namespace


def phases(release: Release, namespace: str) -> dict[str, str]:
    return {found.name: found.phase for found in release.cluster.pods(namespace)}


def test_a_pod_that_pends_gets_room_from_the_least_important_one_of_the_chosen_namespace(
    release: Release, namespace: str, classes: str, victim_node: str
) -> None:
    cluster = release.cluster
    part = free_mib(cluster, victim_node) // 20
    with cluster.namespace() as elsewhere:
        spared = cluster.run_pod(pod(cluster, "spared", 16, victim_node, f"{classes}-lowest", 5 * part), elsewhere)
        more = cluster.run_pod(pod(cluster, "more", 16, victim_node, f"{classes}-low", 5 * part), namespace)
        # It ignores SIGTERM, and kubelet starts it again as long as nobody deletes the pod.
        stubborn = pod(cluster, "least", 64, victim_node, f"{classes}-lowest", 5 * part, terminationGracePeriodSeconds=600)
        (container,) = stubborn["spec"]["containers"]
        container["command"] = [word.replace("sys.exit(143)", "None") for word in container["command"]]
        least = cluster.run_pod(stubborn, namespace)
        with preemption(release, namespace, "--dry-run") as dry:
            cluster.apply(pod(cluster, "important", 16, victim_node, f"{classes}-high", 9 * part), namespace=namespace)
            dry.await_said(f"would delete {namespace}/least")
        assert cluster.pod("least", namespace) == least, "a dry run"
        with preemption(release, namespace):
            cluster.wait("pod/important", "jsonpath={.status.phase}=Running", namespace)
        assert phases(release, namespace) == {"important": "Running", "more": "Running"}
        assert cluster.pod("more", namespace).uid == more.uid
        assert cluster.pod("spared", elsewhere).containers == spared.containers


def test_who_cannot_end_makes_room_once_its_memory_is_back(release: Release, namespace: str, classes: str, victim_node: str) -> None:
    cluster = release.cluster
    node = cluster.node(victim_node)
    part = free_mib(cluster, victim_node) // 4
    stuck = hanging_pod(cluster, node, namespace, resources=wants(3 * part), priorityClassName=f"{classes}-low")
    with stuck as victim, preemption(release, namespace, "--force") as example:
        cluster.apply(pod(cluster, "important", 16, victim_node, f"{classes}-high", 2 * part), namespace=namespace)
        cluster.wait("pod/important", "jsonpath={.status.phase}=Running", namespace)
        said = example.said()
        assert f"{namespace}/{victim.name} cannot end, and its memory is back" in said
        assert f"{namespace}/{victim.name}: RELEASED" in said


def test_the_floor_is_kept_by_one_death_when_the_kernel_says_that_tasks_wait(
    release: Release, team_namespace: str, victim_node: str, tmp_path: Path
) -> None:
    cluster = release.cluster
    cluster.node(victim_node)  # the stall has to be the node's
    cluster.run_pod(hog("floor-small", 64, cluster.image, node=victim_node, restart="Never"), team_namespace)
    burstable = hog("floor-burstable", 256, cluster.image, node=victim_node, restart="Never", resources=wants(16))
    better = cluster.run_pod(burstable, team_namespace)
    with release.client(victim_node) as client:
        memory = client.get_node().memory
    assert memory is not None
    floor = memory.available_bytes // MIB - 600
    # Not once an hour does it look: what wakes it is the kernel.
    options = ("--floor", f"{floor}Mi", "--margin", "64Mi", "--every", "3600")
    with memory_floor(release, victim_node, FLOOR, tmp_path, *options) as example:
        example.await_said("watches")
        crash(release, victim_node)
        example.await_said("watches", times=2)
        cluster.apply(hog("floor-hog", 1024, cluster.image, node=victim_node, restart="Never"), namespace=team_namespace)
        with lab.thrashing():
            example.await_said(" back from ")
        said = example.said()
    assert "PSI trigger" in said
    until(lambda: phases(release, team_namespace)["floor-hog"] == "Failed", "kubelet to see it")
    first, *others = [line for line in said.splitlines() if "it is the turn of" in line]
    assert cluster.pod("floor-hog", team_namespace).uid in first
    # Were somebody else on this machine to take what came back, the next one's turn would be right.
    assert others or phases(release, team_namespace)["floor-small"] == "Running"
    assert cluster.pod("floor-burstable", team_namespace).containers == better.containers
    # The namespace is every test's.
    cluster.kubectl("delete", "pods", "--all", "--now", "-n", team_namespace)


def crash(release: Release, node: str) -> None:
    """The agent's container dies, and is started again at the same address."""
    agent = release.agents()[node]
    (pid,) = release.cluster.node(node).pids(agent.containers["agent"])
    os.kill(pid, signal.SIGKILL)
    await_restart(release.cluster, agent, "agent")
