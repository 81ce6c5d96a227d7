"""A process as the guard sees it: whose it is and where it belongs, read only when a rule asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from mrelease_agent.linux import cgroup_tree, procfs
from mrelease_agent.linux.process import Identity, ProcessRef
from mrelease_agent.targets.cgroup_path import Membership, describe

#: Namespace and name of a pod by its uid; None where the node does not tell.
PodNames = Callable[[str], "tuple[str, str] | None"]


def no_pod_names(_uid: str) -> None:
    """No source of names: no pod has one."""
    return


class Subject:
    """One opened process of a target. What it says is read through the process reference, so it is this process's and no other's.

    ``size``: bytes that its death gives back, where they are measured already. Every property may raise ProcessGoneError, and OSError for
    limits.
    """

    def __init__(self, ref: ProcessRef, size: int | None = None, pod_names: PodNames = no_pod_names, listed: str = "") -> None:
        """``listed``: path of the cgroup that listed it, where one did."""
        self.ref = ref
        self._listed = listed
        self._size = size
        self._pod_names = pod_names

    @property
    def measured(self) -> int | None:
        """``size`` where nothing has to be read for it."""
        return self._size

    @cached_property
    def size(self) -> int:
        """Bytes that its death gives back."""
        if self._size is not None:
            return self._size
        memory = self.ref.memory()
        return memory.reclaimable if memory else 0

    @property
    def identity(self) -> Identity:
        """What identifies the process."""
        return self.ref.identity

    # Properties around what is cached: a protocol that asks for a property does not take a cached_property.
    @property
    def uids(self) -> frozenset[int]:
        """Real, effective, saved and file system user id, as numbers of the agent's user namespace.

        Not the owner of ``/proc/PID``: that is root's where the process is not dumpable, proc(5).
        """
        return self._uids

    @property
    def cgroup(self) -> str:
        """Path in the hierarchy that counts memory, else "/"."""
        return self._cgroup

    @cached_property
    def membership(self) -> Membership:
        """Container, pod and QoS class, as the cgroup's path says."""
        return describe(self._cgroup)

    @property
    def pod(self) -> tuple[str, str] | None:
        """Namespace and name of its pod; None outside of pods, and where the node does not tell."""
        return self._pod

    @cached_property
    def _uids(self) -> frozenset[int]:
        lines = procfs.read(self.ref.proc, "status").split(b"\n")
        return frozenset(int(number) for line in lines if line.startswith(b"Uid:") for number in line.split()[1:])

    @cached_property
    def _cgroup(self) -> str:
        tree = cgroup_tree.tree("memory")
        # On v1 a process that exits says that it is in no cgroup, and is listed where it is all the same: see Group.holds().
        if self._listed and tree is not None and tree.version == 1 and procfs.stat(self.ref.proc).exiting:
            return self._listed
        return (tree.path_of(self.ref.proc) if tree else None) or "/"

    @cached_property
    def _pod(self) -> tuple[str, str] | None:
        uid = self.membership.pod_uid
        return self._pod_names(uid) if uid else None
