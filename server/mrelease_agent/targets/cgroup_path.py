"""What a cgroup path says of the container and the pod that it belongs to. Pure: nothing is read, and the path need not exist.

Whoever may make cgroups chooses their names, so a path is a claim. Three rules keep a container from passing for another one by making
cgroups below its own: the outermost pod wins, then the outermost container, and names have to match as a whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

_ID: Final = r"(?P<id>[0-9a-f]{64})"
# A UUID, or the MD5 that kubelet gives static pods (pkg/kubelet/config/common.go, applyDefaults).
_UID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}"
_SLICE_UID: Final = _UID.replace("-[", "_[")

_BARE: Final = re.compile(_ID)
# runc's systemd driver makes PREFIX-NAME.scope of slice:PREFIX:NAME; the cgroupfs drivers of CRI-O and podman leave out ".scope".
_SCOPE: Final = re.compile(rf"(?P<prefix>cri-containerd|nerdctl|crio|docker|libpod-payload|libpod)-{_ID}(\.scope)?")
_MONITOR: Final = re.compile(rf"(crio|libpod)-conmon-{_ID}(\.scope)?")
# What becomes of slice:PREFIX:NAME where runc was started without its systemd driver.
_UNSPLIT: Final = re.compile(rf"(?P<slice>[^:]*):(?P<prefix>cri-containerd|nerdctl|crio|docker|libpod):{_ID}")
_POD: Final = re.compile(rf"pod(?P<uid>{_UID})")
_POD_SLICE: Final = re.compile(rf"(?P<parent>([^/]+-)?kubepods(-(?P<qos>burstable|besteffort))?)-pod(?P<uid>{_SLICE_UID})\.slice")
_DELETED: Final = " (deleted)"


class Runtime(Enum):
    """Which container runtime made a cgroup, as far as the path tells."""

    NONE = ""
    #: A container by its id, below a parent that no known runtime chooses by default (``docker run --cgroup-parent``, for example).
    UNKNOWN = "unknown"
    CONTAINERD = "containerd"
    CRIO = "cri-o"
    DOCKER = "docker"
    PODMAN = "podman"


class Qos(Enum):
    """Quality of service class of a pod, from the parents of its cgroup."""

    #: Not a pod, or seen from a cgroup namespace that hides the parents.
    UNKNOWN = ""
    GUARANTEED = "guaranteed"
    BURSTABLE = "burstable"
    BEST_EFFORT = "besteffort"


_RUNTIMES: Final = {
    "cri-containerd": Runtime.CONTAINERD,
    "nerdctl": Runtime.CONTAINERD,
    "crio": Runtime.CRIO,
    "docker": Runtime.DOCKER,
    "libpod": Runtime.PODMAN,
    "libpod-payload": Runtime.PODMAN,
}
# Parents of a bare id outside of pods: dockerd's own, and the usual namespaces of containerd (pkg/oci/spec.go: /NAMESPACE/ID).
_PARENTS: Final = {
    "docker": Runtime.DOCKER,
    "k8s.io": Runtime.CONTAINERD,
    "default": Runtime.CONTAINERD,
    "moby": Runtime.CONTAINERD,
}
_QOS: Final = {None: Qos.GUARANTEED, "burstable": Qos.BURSTABLE, "besteffort": Qos.BEST_EFFORT}


@dataclass(frozen=True, slots=True)
class Membership:
    """To what a cgroup belongs. Everything is empty where it belongs to no container and no pod."""

    runtime: Runtime = Runtime.NONE
    #: 64 hexadecimal digits.
    container_id: str = ""
    #: As the API server has it: systemd's underscores are dashes again.
    pod_uid: str = ""
    qos: Qos = Qos.UNKNOWN
    #: Below the container's own cgroup: systemd or docker inside a container, crun's ``container``.
    nested: bool = False
    #: The cgroup of a container's monitor (conmon): the id of that container. It is no part of the container.
    monitors: str = ""
    #: How many containers enclose the pod, or 0: a node that is a container itself (kind) shows its pods below its own id.
    enclosing: int = 0
    #: The container's own cgroup: the path up to and with its component.
    container_path: str = ""
    #: The pod's own cgroup. Empty for the unsplit form, where the pod has none.
    pod_path: str = ""


@dataclass(frozen=True, slots=True)
class _Container:
    runtime: Runtime
    id: str
    monitor: bool = False
    slice: str = ""


@dataclass(frozen=True, slots=True)
class _Pod:
    uid: str
    qos: Qos


def describe(path: str) -> Membership:
    """Read a cgroup path as ``/proc/PID/cgroup`` shows it, proc_pid_cgroup(5); never raises.

    Of several pods on the path the outermost counts, and of several containers the outermost in that pod, or the outermost at all
    where there is no pod: docker in a pod's container is that container, nested. A container above the outermost pod is a node in a
    container (kind): it encloses the pod, the pod counts. A pod's container has to be a direct child of the pod's cgroup, as every
    kubelet makes it.

    A bare id in a pod is taken for containerd's: cri-dockerd with the cgroupfs driver makes the same paths. Leading ``..`` stand for
    what a cgroup namespace hides, cgroup_namespaces(7); a trailing " (deleted)" is the kernel's.
    """
    names = path.removesuffix(_DELETED).removeprefix("/").split("/")
    hidden = next((i for i, name in enumerate(names) if name != ".."), len(names))
    containers: list[tuple[int, _Container]] = []
    for index in range(hidden, len(names)):
        pod = _pod(names, index, hidden)
        if pod is not None:
            return _in_pod(names, index, pod, len(containers))
        found = _container(names[index], names[index - 1] if index > hidden else "")
        if found is None:
            continue
        parent = _slice(found.slice)
        if parent is not None:
            return _member(names, index, found, parent, enclosing=len(containers))
        containers.append((index, found))
    return _member(names, *containers[0]) if containers else Membership()


def _in_pod(names: list[str], index: int, pod: _Pod, enclosing: int) -> Membership:
    pod_path = "/" + "/".join(names[: index + 1])
    found = _container(names[index + 1], names[index]) if index + 1 < len(names) else None
    if found is None:
        return Membership(pod_uid=pod.uid, qos=pod.qos, enclosing=enclosing, pod_path=pod_path)
    return _member(names, index + 1, found, pod, pod_path=pod_path, enclosing=enclosing)


def _member(
    names: list[str], index: int, found: _Container, pod: _Pod | None = None, *, pod_path: str = "", enclosing: int = 0
) -> Membership:
    runtime = Runtime.CONTAINERD if pod is not None and found.runtime is Runtime.UNKNOWN else found.runtime
    return Membership(
        runtime=runtime,
        container_id="" if found.monitor else found.id,
        pod_uid=pod.uid if pod else "",
        qos=pod.qos if pod else Qos.UNKNOWN,
        nested=not found.monitor and index + 1 < len(names),
        monitors=found.id if found.monitor else "",
        enclosing=enclosing,
        container_path="" if found.monitor else "/" + "/".join(names[: index + 1]),
        pod_path=pod_path,
    )


def _container(name: str, parent: str) -> _Container | None:
    if len(name) < 64:  # most are: searching a node is mostly this
        return None
    if _BARE.fullmatch(name):
        return _Container(_PARENTS.get(parent, Runtime.UNKNOWN), name)
    if match := _SCOPE.fullmatch(name):
        return _Container(_RUNTIMES[match["prefix"]], match["id"])
    if match := _MONITOR.fullmatch(name):
        return _Container(_RUNTIMES[match[1]], match["id"], monitor=True)
    if match := _UNSPLIT.fullmatch(name):
        return _Container(_RUNTIMES[match["prefix"]], match["id"], slice=match["slice"])
    return None


def _pod(names: list[str], index: int, hidden: int) -> _Pod | None:
    if "pod" not in names[index]:
        return None
    parent, grandparent = (names[index - above] if index - above >= hidden else "" for above in (1, 2))
    # Directly after "..", the parents are hidden by a cgroup namespace instead of missing.
    orphan = hidden == index > 0
    match = _POD.fullmatch(names[index])
    if match:
        if parent == "kubepods":
            return _Pod(match["uid"], Qos.GUARANTEED)
        if parent in ("burstable", "besteffort") and (grandparent == "kubepods" or (index - 1 == hidden > 0)):
            return _Pod(match["uid"], _QOS[parent])
        return _Pod(match["uid"], Qos.UNKNOWN) if orphan else None
    match = _POD_SLICE.fullmatch(names[index])
    if match and (orphan or parent == match["parent"] + ".slice"):
        return _slice(names[index])
    return None


def _slice(name: str) -> _Pod | None:
    match = _POD_SLICE.fullmatch(name)
    return _Pod(match["uid"].replace("_", "-"), _QOS[match["qos"]]) if match else None
