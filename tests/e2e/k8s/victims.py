"""Victims as pods, in every form that Kubernetes gives them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from typing import Any

from e2e.cluster import Cluster, LocalNode, Pod, hog
from support.lab import MIB, until

PYTHON = "/opt/mrelease/bin/python"
#: MiB of a victim.
SIZE = 128


def container(name: str, image: str, mib: int = SIZE, **more: Any) -> dict[str, Any]:
    """One container as ``hog`` makes it, to be put beside others."""
    made: dict[str, Any] = hog(name, mib, image)["spec"]["containers"][0]
    return {**made, "name": name, **more}


def pod(name: str, image: str, node: str, spec: Callable[[dict[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
    """A pod of one ``hog`` on ``node`` with what ``spec`` changes in it."""
    made = hog(name, SIZE, image, node=node)
    return {**made, "spec": {**made["spec"], **spec(made["spec"])}}


def await_charge(node: LocalNode, container_id: str, mib: int = SIZE) -> None:
    """Wait until a container holds ``mib``: for those of which kubelet says nothing, such as init containers."""

    def is_full() -> bool:
        try:
            return node.charge(container_id) >= mib * MIB
        except FileNotFoundError:
            return False

    until(is_full, f"container {container_id[:12]} to hold {mib} MiB")


def await_restart(cluster: Cluster, before: Pod, name: str, times: int = 1) -> Pod:
    """Wait until a container was started again so often, and its pod is ready; the pod as it is then."""
    wanted = before.restarts[name] + times
    until(lambda: cluster.pod(before.name, before.namespace).restarts.get(name, 0) >= wanted, f"{name} to be started again")
    cluster.wait(f"pod/{before.name}", "condition=Ready", before.namespace)
    return cluster.pod(before.name, before.namespace)


@contextlib.contextmanager
def pidfd_of(node: LocalNode, container_id: str) -> Generator[int, None, None]:
    """A pidfd of a container's one process: what the kernel says of it, whatever an agent says."""
    (pid,) = node.pids(container_id)
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)
