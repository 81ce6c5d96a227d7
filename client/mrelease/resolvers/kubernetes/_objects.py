"""Objects of the API server, as far as they matter here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from mrelease.resolvers.kubernetes._quantity import bytes_of, memory_request

# Of a pod that kubelet made from a file: the API server's uid is another one than kubelet's.
_STATIC_UID: Final = "kubernetes.io/config.hash"
_MIRROR: Final = "kubernetes.io/config.mirror"
_FINISHED: Final = ("Succeeded", "Failed")


def inner(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of an answer; empty where it is not there, or null."""
    return cast("Mapping[str, Any]", item.get(key) or {})


def entries(item: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    """A list of an answer; empty where it is not there, or null."""
    return cast("Sequence[Mapping[str, Any]]", item.get(key) or ())


@dataclass(frozen=True, slots=True)
class ContainerOfPod:
    """A container. ``id``: without the runtime's name, empty before it was made; a dead one has that of its last life."""

    name: str
    id: str
    state: str


@dataclass(frozen=True, slots=True)
class PodObject:
    """A pod at one moment. ``uid``: kubelet's, by which the node knows it; ``api_uid``: the API server's."""

    namespace: str
    name: str
    uid: str
    api_uid: str
    node: str
    phase: str
    is_terminating: bool
    qos: str
    priority: int
    #: How long its processes may take after SIGTERM, before kubelet sends SIGKILL.
    grace_seconds: int
    containers: tuple[ContainerOfPod, ...]
    #: Every workload that it belongs to, as (kind in lower case, name).
    owners: tuple[tuple[str, str], ...]
    #: What the scheduler reserves for it of the node's memory.
    memory_request_bytes: int = 0
    #: Whether kubelet made it from a file of the node: to delete it at the API server ends nothing.
    is_static: bool = False

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> PodObject:
        """A pod of an answer."""
        metadata, spec, status = inner(item, "metadata"), inner(item, "spec"), inner(item, "status")
        annotations = inner(metadata, "annotations")
        kinds = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
        states = [entry for kind in kinds for entry in entries(status, kind)]
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=annotations.get(_STATIC_UID, metadata["uid"]) if _MIRROR in annotations else metadata["uid"],
            api_uid=metadata["uid"],
            node=spec.get("nodeName") or "",
            phase=status.get("phase") or "",
            is_terminating="deletionTimestamp" in metadata,
            qos=status.get("qosClass") or "",
            priority=spec.get("priority") or 0,
            grace_seconds=int(metadata.get("deletionGracePeriodSeconds") or spec.get("terminationGracePeriodSeconds") or 0),
            containers=tuple(map(_container, states)),
            owners=_owners(metadata),
            memory_request_bytes=memory_request(spec),
            is_static=_MIRROR in annotations,
        )

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_finished(self) -> bool:
        """Whether its containers ended, and nobody asks for its end: nothing of it runs."""
        return self.phase in _FINISHED and not self.is_terminating

    @property
    def status(self) -> str:
        """Its state in one word, as `kubectl get` says it."""
        waits = next((c.state for c in self.containers if c.state not in ("Running", "Completed", "")), "")
        return "Terminating" if self.is_terminating else waits or self.phase or "Unknown"


@dataclass(frozen=True, slots=True)
class NodeObject:
    """A node at one moment."""

    name: str
    boot_id: str
    is_ready: bool
    kernel: str
    runtime: str
    #: What pods can ask for of its memory, all together.
    allocatable_bytes: int = 0

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> NodeObject:
        """A node of an answer."""
        status = inner(item, "status")
        info = inner(status, "nodeInfo")
        ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in entries(status, "conditions"))
        boot_id, kernel = info.get("bootID") or "", info.get("kernelVersion") or ""
        allocatable = bytes_of(inner(status, "allocatable").get("memory") or 0)
        return cls(item["metadata"]["name"], boot_id, ready, kernel, info.get("containerRuntimeVersion") or "", allocatable)


def _container(status: Mapping[str, Any]) -> ContainerOfPod:
    state = inner(status, "state")
    word = "Running" if "running" in state else next((str(inner(state, kind).get("reason") or "") for kind in state), "")
    # containerd://0123...; while it waits to be started again, that of its last life.
    last = inner(inner(status, "lastState"), "terminated").get("containerID") or ""
    return ContainerOfPod(str(status["name"]), str(status.get("containerID") or last).rpartition("://")[2], word)


def _owners(metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    pod_hash = str(inner(metadata, "labels").get("pod-template-hash") or "")
    for owner in entries(metadata, "ownerReferences"):
        kind, name = str(owner["kind"]).lower(), str(owner["name"])
        found.append((kind, name))
        # A Deployment calls its ReplicaSets by its own name and this label: to know that nobody needs a right to read either.
        if kind == "replicaset" and pod_hash and name.endswith(f"-{pod_hash}"):
            found.append(("deployment", name.removesuffix(f"-{pod_hash}")))
    return tuple(found)
