"""A kill in a pod gives the memory back, and touches what was named and nothing beside it: in every form of pod."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.cluster import Cluster, Pod, hog
from e2e.k8s.release import Release
from e2e.k8s.traces import cgroups_of, sandbox, shims, tasks
from e2e.k8s.victims import PYTHON, SIZE, await_charge, await_restart, container, pidfd_of, pod
from mrelease import Container, QosClass, UnreleasedCause, Wait
from mrelease import Pod as PodTarget
from mrelease.errors import TargetNotFound
from support.lab import MIB, until, wait_readable


def test_a_killed_containers_memory_is_back_and_its_pod_goes_on(
    release: Release, cluster: Cluster, namespace: str, victim_node: str
) -> None:
    victim = cluster.run_pod(hog("victim", SIZE, cluster.image, node=victim_node), namespace)
    node = cluster.node(victim_node)
    held, shim = sandbox(cluster, victim), shims(cluster, victim_node)[sandbox(cluster, victim)]
    killed = victim.containers["hog"]
    assert node.charge(killed) >= SIZE * MIB
    with release.client(victim_node) as agent, pidfd_of(node, killed) as pidfd:
        result = agent.kill_and_release(Container(killed), wait=Wait.EXITED, reason="end to end")
        assert wait_readable(pidfd, 0), "the agent says that the victim has exited, and the kernel does not"
    assert result.is_released
    assert result.released_bytes >= SIZE * MIB * 0.98
    again = await_restart(cluster, victim, "hog")
    assert (again.uid, again.address, again.restarts["hog"]) == (victim.uid, victim.address, 1)
    assert again.containers["hog"] != killed
    # Sandbox and shim are those that were there, and of the dead container no task is left.
    assert sandbox(cluster, again) == held
    assert shims(cluster, victim_node)[held] == shim
    assert held in tasks(cluster, victim_node)
    assert killed not in tasks(cluster, victim_node)

    cluster.kubectl("delete", "pod", "victim", "-n", namespace)
    release.await_gone(victim)
    until(lambda: not cgroups_of(victim_node, victim.uid), "the pod's cgroups to be removed")
    until(lambda: held not in shims(cluster, victim_node), "the shim to end")
    assert not {held, *again.containers.values()} & set(tasks(cluster, victim_node))


QOS = {
    QosClass.BEST_EFFORT: {},
    QosClass.BURSTABLE: {"requests": {"memory": "64Mi"}},
    QosClass.GUARANTEED: {"limits": {"cpu": "200m", "memory": "256Mi"}},
}


@pytest.mark.parametrize("qos", QOS, ids=lambda qos: qos.name.lower())
def test_pods_of_each_quality_of_service(release: Release, cluster: Cluster, namespace: str, victim_node: str, qos: QosClass) -> None:
    victim = cluster.run_pod(hog("victim", SIZE, cluster.image, node=victim_node, resources=QOS[qos]), namespace)
    with release.client(victim_node) as agent:
        (listed,) = agent.list_processes(within=PodTarget(victim.uid))
        assert listed.qos is qos
        result = agent.kill_and_release(PodTarget(victim.uid))
    assert result.is_released
    assert result.released_bytes >= SIZE * MIB * 0.98
    assert await_restart(cluster, victim, "hog").uid == victim.uid


def test_of_several_containers_the_one_that_is_named_dies_and_no_other(
    release: Release, cluster: Cluster, namespace: str, victim_node: str
) -> None:
    made = pod("victim", cluster.image, victim_node, lambda spec: {"containers": [*spec["containers"], container("other", cluster.image)]})
    victim = cluster.run_pod(made, namespace)
    with release.client(victim_node) as agent:
        result = agent.kill_and_release(PodTarget(victim.uid, (victim.containers["hog"],)))
    assert result.is_released
    assert len(result.processes) == 1
    again = await_restart(cluster, victim, "hog")
    assert dict(again.restarts) == {"hog": 1, "other": 0}
    assert again.containers["other"] == victim.containers["other"]


def test_with_a_shared_process_namespace_the_others_and_the_sandbox_live(
    release: Release, cluster: Cluster, namespace: str, victim_node: str
) -> None:
    def shared(spec: dict[str, Any]) -> dict[str, Any]:
        return {"shareProcessNamespace": True, "containers": [*spec["containers"], container("other", cluster.image)]}

    victim = cluster.run_pod(pod("victim", cluster.image, victim_node, shared), namespace)
    held = sandbox(cluster, victim)
    with release.client(victim_node) as agent:
        result = agent.kill_and_release(Container(victim.containers["hog"]))
    assert result.is_released
    again = await_restart(cluster, victim, "hog")
    assert dict(again.restarts) == {"hog": 1, "other": 0}
    assert sandbox(cluster, again) == held


def test_of_a_pod_with_the_nodes_processes_only_its_own_die(release: Release, cluster: Cluster, namespace: str, victim_node: str) -> None:
    bystander = cluster.run_pod(hog("bystander", 16, cluster.image, node=victim_node), namespace)
    victim = cluster.run_pod(pod("victim", cluster.image, victim_node, lambda _: {"hostPID": True}), namespace)
    before = cluster.node(victim_node).pids(bystander.containers["hog"])
    with release.client(victim_node) as agent:
        result = agent.kill_and_release(PodTarget(victim.uid))
    assert result.is_released
    assert len(result.processes) == 1
    assert await_restart(cluster, victim, "hog").restarts["hog"] == 1
    assert cluster.node(victim_node).pids(bystander.containers["hog"]) == before


def test_an_init_container_that_is_killed_begins_again_and_the_pod_comes_up(
    release: Release, cluster: Cluster, namespace: str, victim_node: str
) -> None:
    # Once it was killed, it ends: what it left in the volume says so.
    once = (
        "import pathlib, signal, sys\n"
        "mark = pathlib.Path('/shared/began')\n"
        "if mark.exists(): sys.exit(0)\n"
        f"memory = b'x' * ({SIZE} << 20)\n"
        "mark.touch()\n"
        "signal.pause()\n"
    )

    def with_init(_: dict[str, Any]) -> dict[str, Any]:
        mount = {"name": "work", "mountPath": "/shared"}
        init = {"name": "init", "image": cluster.image, "command": [PYTHON, "-Sc", once], "volumeMounts": [mount]}
        return {"initContainers": [init], "volumes": [{"name": "work", "emptyDir": {}}]}

    made = pod("victim", cluster.image, victim_node, with_init)
    cluster.apply(made, namespace=namespace)
    until(lambda: "init" in cluster.pod("victim", namespace).containers, "the init container to be started")
    victim = cluster.pod("victim", namespace)
    await_charge(cluster.node(victim_node), victim.containers["init"])
    with release.client(victim_node) as agent:
        result = agent.kill_and_release(PodTarget(victim.uid))
    assert result.is_released
    assert result.released_bytes >= SIZE * MIB * 0.98
    cluster.wait("pod/victim", "condition=Ready", namespace)
    assert dict(cluster.pod("victim", namespace).restarts) == {"init": 1, "hog": 0}


def test_a_sidecar_is_started_again_and_what_it_serves_never_stops(
    release: Release, cluster: Cluster, namespace: str, victim_node: str
) -> None:
    def with_sidecar(_: dict[str, Any]) -> dict[str, Any]:
        return {"initContainers": [container("sidecar", cluster.image, restartPolicy="Always")]}

    victim = cluster.run_pod(pod("victim", cluster.image, victim_node, with_sidecar), namespace)
    with release.client(victim_node) as agent:
        result = agent.kill_and_release(Container(victim.containers["sidecar"]))
    assert result.is_released
    again = await_restart(cluster, victim, "sidecar")
    assert dict(again.restarts) == {"sidecar": 1, "hog": 0}
    assert again.containers["hog"] == victim.containers["hog"]


def test_files_of_a_memory_volume_outlive_the_kill_and_the_result_says_so(
    release: Release, cluster: Cluster, namespace: str, victim_node: str
) -> None:
    written = 32
    fills = f"open('/shared/file', 'wb').write(b'x' * ({written} << 20))"

    def with_memory_volume(spec: dict[str, Any]) -> dict[str, Any]:
        (hogging,) = spec["containers"]
        volume = {"name": "work", "emptyDir": {"medium": "Memory"}}
        mount = {"name": "work", "mountPath": "/shared"}
        return {"containers": [{**hogging, "volumeMounts": [mount]}], "volumes": [volume]}

    victim = cluster.run_pod(pod("victim", cluster.image, victim_node, with_memory_volume), namespace)
    cluster.exec(victim, PYTHON, "-Sc", fills, container="hog")
    with release.client(victim_node) as agent:
        result = agent.kill_and_release(Container(victim.containers["hog"]))
    kept = {found.cause: found.size_bytes for found in result.unreleased}
    assert kept[UnreleasedCause.SHMEM] >= written * MIB
    assert result.released_bytes >= SIZE * MIB * 0.98
    again = await_restart(cluster, victim, "hog")
    said = cluster.exec(again, PYTHON, "-Sc", "import os; print(os.stat('/shared/file').st_size)", container="hog")
    assert int(said) == written * MIB


def test_a_pod_between_two_crashes_has_nothing_to_kill_and_keeps_its_sandbox(
    release: Release, cluster: Cluster, namespace: str, victim_node: str
) -> None:
    def crashing(spec: dict[str, Any]) -> dict[str, Any]:
        return {"containers": [{"name": "hog", "image": cluster.image, "command": [PYTHON, "-Sc", "raise SystemExit(1)"]}]}

    cluster.apply(pod("victim", cluster.image, victim_node, crashing), namespace=namespace)
    reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff"
    cluster.wait("pod/victim", reason, namespace)
    victim: Pod = cluster.pod("victim", namespace)
    held = sandbox(cluster, victim)
    with release.client(victim_node) as agent, pytest.raises(TargetNotFound) as nothing:
        agent.kill_and_release(PodTarget(victim.uid))
    assert nothing.value.nothing_signalled
    assert held in shims(cluster, victim_node)
    assert sandbox(cluster, cluster.pod("victim", namespace)) == held
