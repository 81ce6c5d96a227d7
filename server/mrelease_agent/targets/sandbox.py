"""Which container of a pod is its sandbox: the one that holds the pod's namespaces, and whose death restarts the whole pod.

No path says so, and a name proves nothing: any program may call itself ``pause``. The rule, all of it from facts of this node:

1. It has exactly one process.
2. No process of another container of the pod started before that process: containers are made in a sandbox that runs.
3. It holds at most 1 MiB of memory that its death would give back or leave behind (anonymous, swap, shared, hugetlb). A pause
   holds some 40 KiB.
4. One of these: it is called ``pause``; its oom_score_adj is -998, which the runtimes give to sandboxes alone (containerd
   internal/cri/server/podsandbox, defaultSandboxOOMAdj; CRI-O PodInfraOOMAdj; kubelet gives containers -997 at the least) and no
   unprivileged process can take; or it shares network and IPC namespace with every other container. The last alone does not count
   for CRI-O, which can do without a process in the sandbox, so that the first small container would pass for one.

Where no other container has a process left, the first two of 4 alone count.

Limits: a small container that satisfies the rule in the sandbox's stead is spared, which leaves at most 1 MiB. gVisor's sandbox holds the
memory of the pod, so by 3 it is none, and killing the pod kills it: nothing else gives that memory back. Start times are clock ticks
(10 ms): a small container that started in the sandbox's very tick may pass for one too, and is spared: better than a sandbox that is not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.targets.cgroup_path import Runtime
from mrelease_agent.targets.group import Group

#: The most memory that a sandbox may hold, in bytes.
MOST_MEMORY: Final = 1 << 20
_OOM_SCORE_ADJ: Final = -998


@dataclass(frozen=True, slots=True)
class _Process:
    comm: str
    start_time: int
    memory: int
    oom_score_adj: int
    namespaces: tuple[str, str] | None


def sandboxes(containers: Sequence[Group]) -> frozenset[str]:
    """Find the ids of those of a pod's containers, all of them given, that are its sandbox by the rule above: mostly one or none.

    Raises WalkLimitError; PermissionError.
    """
    found = {group.membership.container_id: group.members() for group in containers}
    read = {id_: [process for process in map(_read, pids) if process] for id_, pids in found.items()}
    return frozenset(
        id_
        for id_, runtime in ((group.membership.container_id, group.membership.runtime) for group in containers)
        if len(found[id_]) == len(read[id_]) == 1
        and _is_sandbox(read[id_][0], [process for other in read if other != id_ for process in read[other]], runtime)
    )


def _is_sandbox(one: _Process, others: Sequence[_Process], runtime: Runtime) -> bool:
    if one.memory > MOST_MEMORY or any(other.start_time < one.start_time for other in others):
        return False
    if one.comm == "pause" or one.oom_score_adj == _OOM_SCORE_ADJ:
        return True
    shared = one.namespaces is not None and all(other.namespaces == one.namespaces for other in others)
    return bool(others) and shared and runtime is not Runtime.CRIO


def _read(pid: int) -> _Process | None:
    """Read what decides; None for a process that is gone or has no memory any more, which says nothing about the others."""
    with contextlib.suppress(ProcessGoneError, PermissionError):
        proc = procfs.open_process(pid)
        try:
            stat, space = procfs.stat(proc), procfs.address_space(proc)
            if space is None:
                return None
            memory = space[1]
            return _Process(
                comm=stat.comm,
                start_time=stat.start_time,
                memory=memory.reclaimable + memory.shmem + memory.hugetlb,
                oom_score_adj=int(procfs.read(proc, "oom_score_adj")),
                namespaces=_namespaces(proc),
            )
        finally:
            os.close(proc)
    return None


def _namespaces(proc: int) -> tuple[str, str] | None:
    """Network and IPC namespace, namespaces(7); None where they may not be known (no CAP_SYS_PTRACE)."""
    with contextlib.suppress(OSError):
        return os.readlink("ns/net", dir_fd=proc), os.readlink("ns/ipc", dir_fd=proc)
    return None
