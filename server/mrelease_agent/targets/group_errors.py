"""Why a container, a pod or a cgroup could not be resolved.

GroupError
|-- InvalidGroupError     the name is malformed
|-- GroupNotFoundError    nothing on this node has it
|-- AmbiguousGroupError   several things have it
|-- RefusedGroupError     it must not be killed as a whole
`-- UnreadableGroupError  the agent cannot see enough of the hierarchy to answer
"""

from __future__ import annotations

from typing import Final, Literal

Field = Literal["container.id", "pod.uid", "pod.containers", "cgroup.path", "process.container_id", "process.pid", "custom"]
Rule = Literal[
    "root",
    "init",
    "agent",
    "ancestor-of-agent",
    "agent-pod",
    "kernel-thread",
    "sandbox",
    "monitor",
    "pod",
    "runtime",
    "kubelet",
    "threaded",
    "not-a-cgroup",
    "oom-score-adj",
    "protected-cgroup",
    "protected-namespace",
    "protected-user",
    "protected-name",
    "unverified",
]

_REMEDIES: Final[dict[Rule, str]] = {
    "root": "name a cgroup below the root",
    "init": "name a cgroup that does not hold the node's pid 1",
    "agent": "name a cgroup that does not hold the agent",
    "ancestor-of-agent": "name a cgroup that does not hold a parent of the agent's process",
    "agent-pod": "name another one than the agent's own pod",
    "kernel-thread": "name a cgroup that holds user processes only",
    "sandbox": "name the pod's other containers: the sandbox holds its network, not its memory",
    "monitor": "name the container that it monitors",
    "pod": "name the pod by its uid, so that its sandbox lives on",
    "runtime": "name the containers or pods themselves: their runtime is needed to run them",
    "kubelet": "name the pods themselves: the kubelet is needed to run them",
    "threaded": "name the domain cgroup above it, to which its processes belong",
    "not-a-cgroup": "name a directory of the hierarchy itself, not a link, a file or a mount",
    "oom-score-adj": "name its other processes one by one; the node's configuration says so (protected_oom_score_adj)",
    "protected-cgroup": "the node's configuration says so (protected_cgroups); there is no override in a request",
    "protected-namespace": "the node's configuration says so (protected_namespaces); there is no override in a request",
    "protected-user": "name the processes of other users one by one; the node's configuration says so (protected_users)",
    "protected-name": "name its other processes one by one; the node's configuration says so (protected_names)",
    "unverified": "let the agent see more: the node's /sys/fs/cgroup and /var/log/pods, its PID namespace, CAP_SYS_PTRACE",
}


class GroupError(Exception):
    """``field`` of the target is wrong, with its ``value``; ``problem`` and ``remedy`` are written for the caller to read."""

    def __init__(self, field: Field, value: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field: Field = field
        self.value = value
        self.problem = problem
        self.remedy = remedy


class InvalidGroupError(GroupError):
    """The name is malformed: nothing was looked for."""


class GroupNotFoundError(GroupError):
    """Nothing on this node has the name (any more)."""


class AmbiguousGroupError(GroupError):
    """Several things on this node have the name; ``candidates`` are what tells them apart: container ids, cgroup paths, or pids."""

    def __init__(self, field: Field, value: str, candidates: tuple[str, ...], remedy: str) -> None:
        super().__init__(field, value, f"is ambiguous: {', '.join(candidates)}", remedy)
        self.candidates = candidates


class RefusedGroupError(GroupError):
    """It must never be killed as a whole; ``rule`` names why, ``pid`` the process that decides where one does (0: none)."""

    def __init__(self, field: Field, value: str, rule: Rule, pid: int = 0) -> None:
        super().__init__(field, value, f"is protected by the rule {rule}" + (f": process {pid}" if pid else ""), _REMEDIES[rule])
        self.rule: Rule = rule
        self.pid = pid


class UnreadableGroupError(GroupError):
    """No cgroup hierarchy that can be used is mounted here, or it is too large to be searched, or part of the target may not be read."""
