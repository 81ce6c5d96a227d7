"""Which process is a container runtime, a shim, a monitor or the kubelet: by what it does as the kernel sees it, and not by its name.

- A shim or monitor (containerd-shim, conmon) is the parent of a process in a container that it is not in itself.
- A runtime (containerd, dockerd, crio) and the kubelet listen on their sockets.

Both are believed only of what root made: of a cgroup that root owns, and of a socket that a process of root's listens on. A user can make
a cgroup called like a container in one that was delegated to him, and, in a mount namespace of his own, a socket called like any other:
neither makes his process one that is never killed. So a rootless runtime is not told from its user's other processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Final, Literal

from mrelease_agent.linux import procfs
from mrelease_agent.linux.cgroup_tree import Tree
from mrelease_agent.linux.children import children
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.linux.unix_sockets import Listening, TooManyDescriptorsError, sockets
from mrelease_agent.targets.cgroup_path import describe
from mrelease_agent.targets.group import within

Role = Literal["runtime", "kubelet", "unverified"]

#: A path that ends in "/" stands for every socket below it.
RUNTIME_SOCKETS: Final = (
    "/run/containerd/containerd.sock",
    "/run/containerd/s/",  # the shims' own
    "/run/crio/crio.sock",
    "/run/docker.sock",
    "/run/docker/containerd/containerd.sock",
    "/run/cri-dockerd.sock",
    "/run/podman/podman.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
)
#: pod-resources is of Kubernetes 1.13, device-plugins of 1.10: a kubelet has both.
KUBELET_SOCKETS: Final = tuple(
    f"{root}/{kind}/kubelet.sock"
    for root in ("/var/lib/kubelet", "/var/lib/k0s/kubelet", "/var/snap/microk8s/common/var/lib/kubelet")
    for kind in ("pod-resources", "device-plugins")
)


class Runtimes:
    """Judges processes that are in no container. ``sockets``: paths of runtimes' sockets beside the usual ones.

    ``world``: the cgroup of a container that the whole node is (kind), empty where the node is none.
    """

    def __init__(self, more: Iterable[str] = (), world: str = "") -> None:
        self._listening = Listening((*RUNTIME_SOCKETS, *KUBELET_SOCKETS, *more))
        self._kubelet = Listening(KUBELET_SOCKETS)
        self._world = world

    def role(self, ref: ProcessRef, path: str, tree: Tree | None) -> Role | None:
        """What a process in the cgroup ``path``, outside of every container, is; None where it is none of these.

        ``unverified``: it is root's, the agent may not see on which sockets it listens, and some process listens on one of those.

        Some 15 us for a process without children and sockets. Raises ProcessGoneError; OSError for limits.
        """
        if tree is not None and self._is_parent(ref, path, tree):
            return "runtime"
        # The owner is root also of who is not dumpable, proc(5): cheap, and enough to leave out all others.
        return self._listener(ref) if os.fstat(ref.proc).st_uid == 0 else None

    def _listener(self, ref: ProcessRef) -> Role | None:
        opened: set[int] | None = None  # not to be known
        with contextlib.suppress(PermissionError, TooManyDescriptorsError):
            opened = sockets(ref.proc)
            if not opened:
                return None
        found = self._listening.inodes(ref.proc)
        if not found or procfs.status(ref.proc).uid != 0:
            return None
        if opened is None:
            return "unverified"
        held = {path for inode, path in found.items() if inode in opened}
        return ("runtime" if held.isdisjoint(KUBELET_SOCKETS) else "kubelet") if held else None

    def kubelet_is_here(self) -> bool:
        """Whether some process of this node listens on a kubelet's socket; true where that may not be known."""
        try:
            proc = procfs.open_process(1)
            try:
                return bool(self._kubelet.inodes(proc))
            finally:
                os.close(proc)
        except (ProcessGoneError, PermissionError):
            return True

    def _is_parent(self, ref: ProcessRef, path: str, tree: Tree) -> bool:
        """Whether it is the parent of a process in a container that it is not in, in a cgroup that root owns."""
        for child in children(ref.proc, ref.stat):
            with contextlib.suppress(ProcessGoneError, PermissionError):
                proc = procfs.open_process(child)
                try:
                    container = describe(tree.path_of(proc) or "/").container_path
                finally:
                    os.close(proc)
                if container and container != self._world and not within(path, container) and _is_roots(tree, container):
                    return True
        return False


def _is_roots(tree: Tree, path: str) -> bool:
    try:
        fd = tree.open(path)
    except (FileNotFoundError, NotADirectoryError):
        return True  # it ended meanwhile: what cannot be told protects
    try:
        return os.fstat(fd).st_uid == 0
    finally:
        os.close(fd)
