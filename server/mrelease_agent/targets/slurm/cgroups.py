"""Where Slurm keeps the processes of its jobs: cgroups, whose names are all that has to be known. slurmd and slurmstepd are not asked.

=======  =============================================================================  ==========================================
v1       ``/slurm[_NODE]/uid_UID/job_JOB/step_STEP[/task_TASK]`` of each controller     src/plugins/cgroup/v1/cgroup_v1.c
v2       ``/SLICE/[NODE_]slurmstepd.scope/job_JOB/step_STEP/user/task_TASK``            src/plugins/cgroup/v2/cgroup_v2.c
=======  =============================================================================  ==========================================

JOB is the raw job id: each task of an array, and each component of a heterogeneous job, has one of its own. STEP is a number, with
``+COMPONENT`` where a step has components, or ``batch``, ``extern``, ``interactive``. The node's name is there where slurmd was built with
multiple-slurmd, as Debian's is. On v1 slurmstepd is among the step's processes, on v2 in ``step_STEP/slurm``.

A directory stays as long as a process is in it, so also while the job is COMPLETING, and after slurmstepd has gone.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from mrelease_agent.linux import cgroup_tree
from mrelease_agent.linux.cgroup_tree import Tree, WalkLimitError
from mrelease_agent.targets.group import Group
from mrelease_agent.targets.plugins import CONTROLLERS, Controller

_V1: Final = re.compile(r"slurm(?:_(?P<node>.+))?")
_V2: Final = re.compile(r"(?:(?P<node>.+)_)?slurmstepd\.scope")
_UID: Final = re.compile(r"uid_(0|[1-9][0-9]{0,9})")
_JOB: Final = re.compile(r"job_([1-9][0-9]{0,9})")
_STEP: Final = re.compile(r"step_([0-9a-z]+)(\+[0-9]+)?")
#: A job's cgroup in ``/proc/PID/cgroup``.
IN_A_JOB: Final = re.compile(rb"/(?:slurm(?:_[^/\n]+)?/uid_[0-9]+|(?:[^/\n]+_)?slurmstepd\.scope)/job_([0-9]+)(?:/|$)", re.MULTILINE)

#: Names of the directories in a directory of a hierarchy; empty where it is not there.
Below = Callable[[str], list[str]]


@dataclass(frozen=True, slots=True)
class JobGroup:
    """The cgroup of one job in one hierarchy. ``node`` is empty where the path does not tell, ``uid`` None (v2)."""

    path: str
    job: int
    node: str
    uid: int | None
    controller: Controller = "memory"


def jobs(below: Below, top: str, version: int, controller: Controller = "memory") -> Iterator[JobGroup]:
    """Every job in a hierarchy; ``top`` is the path of what is mounted."""
    base = top.rstrip("/")
    if version == 1:
        for name in below(top):
            if root := _V1.fullmatch(name):
                for user in below(f"{base}/{name}"):
                    if uid := _UID.fullmatch(user):
                        yield from _jobs(below, f"{base}/{name}/{user}", root["node"] or "", int(uid[1]), controller)
        return
    for slice_ in below(top):
        if slice_.endswith(".slice"):
            for name in below(f"{base}/{slice_}"):
                if root := _V2.fullmatch(name):
                    yield from _jobs(below, f"{base}/{slice_}/{name}", root["node"] or "", None, controller)


def steps(below: Below, job: JobGroup, step: str) -> list[str]:
    """Paths of a step of a job: of all its components where none is named."""
    found = ((name, _STEP.fullmatch(name)) for name in below(job.path))
    return [f"{job.path}/{name}" for name, parts in found if parts and step in (parts[1], f"{parts[1]}{parts[2] or ''}")]


def _jobs(below: Below, path: str, node: str, uid: int | None, controller: Controller) -> Iterator[JobGroup]:
    for name in below(path):
        if job := _JOB.fullmatch(name):
            yield JobGroup(f"{path}/{name}", int(job[1]), node, uid, controller)


class Hierarchies:
    """The hierarchies of this node, each once."""

    def __init__(self) -> None:
        found: dict[cgroup_tree.Mount, tuple[Controller, Tree]] = {}
        for controller in CONTROLLERS:
            tree = cgroup_tree.tree(controller)
            if tree is not None:
                found.setdefault(tree.mount, (controller, tree))
        self._trees = dict(found.values())

    def __bool__(self) -> bool:
        return bool(self._trees)

    def jobs(self) -> list[JobGroup]:
        """Every job that has a cgroup here."""
        return [job for each, tree in self._trees.items() for job in jobs(self._below(each), tree.top, tree.version, each)]

    def steps(self, job: JobGroup, step: str) -> list[str]:
        """See steps()."""
        return steps(self._below(job.controller), job, step)

    def pids(self, job: JobGroup) -> list[int]:
        """Who is in it now; empty where it has gone."""
        with contextlib.suppress(OSError, WalkLimitError), Group(self._trees[job.controller], job.path) as group:
            return group.members()
        return []

    def _below(self, controller: Controller) -> Below:
        tree = self._trees[controller]

        def below(path: str) -> list[str]:
            try:
                fd = tree.open(path)
            except OSError:
                return []
            try:
                with os.scandir(fd) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            except OSError:
                return []
            finally:
                os.close(fd)

        return below
