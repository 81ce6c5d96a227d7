"""What a release could leave on the nodes: agents' processes and cgroups, and leaf groups of victims that were moved."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import Cluster, Pod
from e2e.k8s.release import Release
from support.lab import until

_CGROUPS = Path("/sys/fs/cgroup")


def cgroups_of(node: str, uid: str) -> list[Path]:
    """Cgroups of a pod, in every hierarchy. The names of them are kubelet's."""
    return [found for found in _CGROUPS.glob(f"*/mrelease-{node}/kubepods/**/pod{uid}") if found.is_dir()]


def leaves(node: str) -> set[Path]:
    """Leaf groups of victims that agents of a node have moved, and in which somebody still is or could be."""
    return {found for found in _CGROUPS.glob(f"*/mrelease-{node}/mrelease.boost/*") if found.is_dir()}


def containers_of(cluster: Cluster, node: str, uid: str) -> list[str]:
    """Containers, sandboxes too, that the runtime of a node still has for a pod."""
    return cluster.node(node).run("ctr", "-n", "k8s.io", "containers", "list", "-q", f'labels."io.kubernetes.pod.uid"=={uid}').split()


def sandbox(cluster: Cluster, pod: Pod) -> str:
    """The id of a pod's sandbox."""
    (found,) = set(containers_of(cluster, pod.node, pod.uid)) & shims(cluster, pod.node).keys()
    return found


def tasks(cluster: Cluster, node: str) -> list[str]:
    """Containers and sandboxes that the runtime of a node has a process of."""
    return cluster.node(node).run("ctr", "-n", "k8s.io", "tasks", "list", "-q").split()


def shims(cluster: Cluster, node: str) -> dict[str, int]:
    """The shims of a node: sandbox's id to pid."""
    listed = cluster.node(node).run("ps", "-ww", "-eo", "pid,args")
    rows = [line.split() for line in listed.splitlines() if "containerd-shim" in line]
    return {row[row.index("-id") + 1]: int(row[0]) for row in rows if "-id" in row}


@dataclass(frozen=True, slots=True)
class Traces:
    """The processes and pods of a release's agents, as they were when it ran."""

    cluster: Cluster
    agents: Mapping[str, Pod]
    #: Sandboxes of the agents' pods.
    sandboxes: frozenset[str]

    @classmethod
    def of(cls, release: Release) -> Traces:
        """Of a release that is about to be uninstalled."""
        agents = release.agents()
        if not release.cluster.is_local:
            return cls(release.cluster, agents, frozenset())
        sandboxes = {sandbox(release.cluster, pod) for pod in agents.values()}
        return cls(release.cluster, agents, frozenset(sandboxes))

    def await_nothing(self) -> None:
        """Wait until nothing is left. Raises TimeoutError, which names it. Nodes that are other machines nobody can look into."""
        with contextlib.suppress(TimeoutError):
            until(lambda: not self._left(), "nothing to be left")  # kubelet removes cgroups after the pod's object is gone
        left = self._left()
        if left:
            raise TimeoutError(f"uninstalled, and there is still: {', '.join(left)}")

    def _left(self) -> list[str]:
        if not self.cluster.is_local:
            return []
        found: list[str] = []
        for name, pod in self.agents.items():
            running = shims(self.cluster, name)
            found += map(str, cgroups_of(name, pod.uid))
            # Records of dead containers kubelet removes once a minute; what runs is what counts.
            running_tasks = tasks(self.cluster, name)
            found += [f"container {container} on {name}" for container in pod.containers.values() if container in running_tasks]
            found += [f"shim of {sandbox} on {name}" for sandbox in self.sandboxes if sandbox in running]
            found += map(str, leaves(name))
        return found
