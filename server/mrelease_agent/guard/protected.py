"""Processes that the agent never kills, whatever the request says. The rules, in the order in which they are asked:

init                 pid 1 of the agent's PID namespace: the node's init, or the sandbox of the agent's own pod
agent                the agent itself
ancestor-of-agent    who started it, up to pid 1
protected-name       configured; a name is what a process says of itself
agent-pod            everything in the agent's own pod, or in its container where it is in no pod
monitor              in the cgroup of a container's monitor (conmon)
protected-cgroup     configured
protected-namespace  in a pod of a configured namespace
protected-user       configured
runtime, kubelet     see runtimes.py
sandbox              the process that holds a pod's namespaces, see targets/sandbox.py
oom-score-adj        so low that the kernel's OOM killer would take it last or never, which only the node's own services may ask for
unverified           a rule above cannot be decided, because the agent may not see enough

Everything is read anew for each process that is to be killed: there is no cache of who is who that could be out of date.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from mrelease_agent.guard.runtimes import Runtimes
from mrelease_agent.guard.subject import PodNames, no_pod_names
from mrelease_agent.linux import cgroup_tree, procfs
from mrelease_agent.linux.cgroup_tree import Tree
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.procfs import PAGE_SIZE, ProcessGoneError
from mrelease_agent.targets import groups, sandbox
from mrelease_agent.targets.cgroup_path import Membership, describe
from mrelease_agent.targets.group import Group, within
from mrelease_agent.targets.group_errors import GroupError, Rule

#: What a runtime gives sandboxes, containerd and the kubelet themselves; containers of a pod have -997 at the least.
OOM_SCORE_ADJ: Final = -998
#: Cgroups whose description is kept: a container's processes have one.
_MOST_PLACES: Final = 1024


@dataclass(frozen=True, slots=True)
class Additions:
    """What the configuration protects beside what always is.

    ``cgroups``: canonical paths, each with all below it. ``users``: effective user ids. ``names``: as ``comm`` shows them, 15 bytes.
    ``oom_score_adj``: at or below which. ``sockets``: who listens on one, of root's processes outside of containers.
    """

    cgroups: tuple[str, ...] = ()
    namespaces: frozenset[str] = frozenset({"kube-system"})
    users: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()
    oom_score_adj: int = OOM_SCORE_ADJ
    sockets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    """What a cgroup says of who is in it."""

    membership: Membership
    rule: Rule | None
    #: In no container and no pod.
    outside: bool


class Protection:
    """Names the rule that protects a process."""

    def __init__(self, additions: Additions | None = None, pod_names: PodNames = no_pod_names) -> None:
        self._more = additions or Additions()
        self._pod_names = pod_names
        self._suspects = set(procfs.ancestors())
        self._tree = cgroup_tree.tree("memory")
        # pid 1 may be in a container: the node's own (kind), or the agent's.
        world, own = _path(self._tree, 1), _path(self._tree, os.getpid())
        self._world = describe(world or "/").container_path
        self._own = _own_place(own, world)
        self._runtimes = Runtimes(self._more.sockets, self._world)
        self._places: dict[str, _Place] = {}

    def rule(self, ref: ProcessRef, cgroup: str | None = None) -> Rule | None:
        """Name the rule that protects a process, None where none does.

        ``cgroup``: its canonical path where that has just been read of it, as a member of a group that is a target: whether that is a
        sandbox has been asked then. Some 20 us for a process in a container, 40 us for one outside.

        Raises ProcessGoneError; OSError for limits.
        """
        return self._related(ref.pid) or self._by_name(ref) or self._by_facts(ref, cgroup)

    def _by_facts(self, ref: ProcessRef, cgroup: str | None) -> Rule | None:
        path = cgroup if cgroup is not None else self._tree.path_of(ref.proc) if self._tree else None
        place = self._place(path or "/")
        found = place.rule or (self._by_namespace(place.membership.pod_uid) if place.membership.pod_uid or path is None else None)
        found = found or self._by_user(ref)
        if found is None and place.outside:
            found = self._runtimes.role(ref, path or "/", self._tree)
        elif found is None and cgroup is None and self._is_sandbox(ref, place.membership):
            found = "sandbox"
        return found or self._by_score(ref)

    def _by_name(self, ref: ProcessRef) -> Rule | None:
        return "protected-name" if ref.stat.comm in self._more.names else None

    def _by_user(self, ref: ProcessRef) -> Rule | None:
        return "protected-user" if self._more.users and procfs.status(ref.proc).uid in self._more.users else None

    def _by_score(self, ref: ProcessRef) -> Rule | None:
        return "oom-score-adj" if int(procfs.read(ref.proc, "oom_score_adj")) <= self._more.oom_score_adj else None

    def _related(self, pid: int) -> Rule | None:
        if pid == 1:
            return "init"
        if pid == os.getpid():
            return "agent"
        # Ancestors only become fewer: an orphan goes to one that it already had, prctl(2) PR_SET_CHILD_SUBREAPER. So who was none is none,
        # and only who was one is looked up again: its pid may be another process's by now.
        if pid not in self._suspects:
            return None
        self._suspects.intersection_update(procfs.ancestors())
        return "ancestor-of-agent" if pid in self._suspects else None

    def _place(self, path: str) -> _Place:
        place = self._places.get(path)
        if place is None:
            if len(self._places) >= _MOST_PLACES:
                self._places.clear()
            known = describe(path)
            outside = not known.pod_uid and (not known.container_path or known.container_path == self._world)
            # A monitor may be in its pod's cgroup (crio), but it is in no container.
            place = self._places[path] = _Place(known, self._by_cgroup(path, known), outside or bool(known.monitors))
        return place

    def _by_cgroup(self, path: str, known: Membership) -> Rule | None:
        if self._own and within(path, self._own):
            return "agent-pod"
        if known.monitors and self._is_roots(path):
            return "monitor"
        return "protected-cgroup" if any(within(path, each) for each in self._more.cgroups) else None

    def _is_roots(self, path: str) -> bool:
        if self._tree is None:
            return True
        try:
            with Group(self._tree, path) as group:
                return group.owner() == 0
        except (FileNotFoundError, NotADirectoryError):
            return True

    def _by_namespace(self, uid: str) -> Rule | None:
        if not self._more.namespaces:
            return None
        name = self._pod_names(uid) if uid else None
        if name is not None:
            return "protected-namespace" if name[0] in self._more.namespaces else None
        # Where a kubelet is, every pod has a namespace, and one that is not known may be a protected one.
        return "unverified" if self._runtimes.kubelet_is_here() else None

    def _is_sandbox(self, ref: ProcessRef, known: Membership) -> bool:
        if self._tree is None or not known.pod_uid or not known.container_path or ref.stat.threads != 1:
            return False
        _, resident, shared = map(int, procfs.read(ref.proc, "statm").split()[:3])
        if (resident - shared) * PAGE_SIZE > sandbox.MOST_MEMORY:
            return False
        try:
            with Group(self._tree, known.container_path) as group:
                return groups.is_sandbox(group)
        except (GroupError, FileNotFoundError, NotADirectoryError):
            return ref.stat.comm == "pause"


def remedy(rule: str) -> str:
    """What a caller can do where a process is protected by a rule."""
    return _REMEDIES.get(rule, "the agent never kills it; there is no override")


_CONFIGURED: Final = "the node's configuration says so ({}); there is no override in a request"
_REMEDIES: Final = {
    "protected-name": _CONFIGURED.format("protected_names"),
    "protected-cgroup": _CONFIGURED.format("protected_cgroups"),
    "protected-namespace": _CONFIGURED.format("protected_namespaces"),
    "protected-user": _CONFIGURED.format("protected_users"),
    "oom-score-adj": _CONFIGURED.format("protected_oom_score_adj"),
    "sandbox": "name the pod: its other containers die and the sandbox lives on",
    "unverified": "let the agent see more: the node's /sys/fs/cgroup and /var/log/pods, its PID namespace, CAP_SYS_PTRACE",
}


def _path(tree: Tree | None, pid: int) -> str | None:
    if tree is None:
        return None
    try:
        proc = procfs.open_process(pid)
        try:
            return tree.path_of(proc)
        finally:
            os.close(proc)
    except (ProcessGoneError, PermissionError):
        return None


def _own_place(own: str | None, world: str | None) -> str:
    """Cgroup of the agent's own pod, else container; empty where it is in none, or where pid 1 is in it too.

    Then the pod or the container is all that the agent sees, and what it is there for.
    """
    known = describe(own or "/")
    for path in (known.pod_path, known.container_path):
        if path and not within(world or "/", path):
            return path
    return ""
