"""Processes of jobs on nodes where Slurm tracks them without cgroups (ProctrackType=proctrack/linuxproc or pgid).

Two ways lead to them, and only the first is certain:

- *Descent*: children of the job's slurmstepd, and theirs. Its title says whose it is: ``slurmstepd: [JOB.STEP]``.
- *By user*: what has left its job, by setsid(2) and a parent that exited, or because slurmstepd has gone, is told from the user's other
  processes only by what it is not: in a job, a container or a login session. It has slurmd's cgroups, from which it was started. So it is
  looked for only where the configuration allows it, and where another job of the user is on the node nobody can say whose it is: then it is
  left alone.

Of slurmstepd, and of nobody else, ``cmdline`` is read: no victim is pinned or waited for.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.targets.cgroup_path import describe
from mrelease_agent.targets.process_facts import cgroup_tables, looked_at, user_ids
from mrelease_agent.targets.slurm.cgroups import IN_A_JOB

_TITLE: Final = re.compile(rb"\x00*slurmstepd: \[([0-9]{1,10})\.([0-9a-z+]{1,24})\]")
_SESSION: Final = re.compile(rb"^\d+:[^:\n]*:/user\.slice(?:/|$)", re.MULTILINE)
_PATH: Final = re.compile(rb"^\d+:[^:\n]*:(.*)$", re.MULTILINE)
_ROOT: Final = frozenset({0})


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as it was when it was looked at."""

    pid: int
    parent: int
    start_time: int
    comm: str
    uids: frozenset[int]
    cgroups: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Stepd:
    """A slurmstepd. ``job`` is 0 and ``step`` empty where its title does not say them."""

    pid: int
    job: int = 0
    step: str = ""


@dataclass(slots=True)
class Node:
    """All processes of the node at about one moment."""

    processes: Mapping[int, Seen]
    stepds: tuple[Stepd, ...]
    _children: dict[int, list[int]] = field(default_factory=dict[int, list[int]])

    def __post_init__(self) -> None:
        for process in self.processes.values():
            self._children.setdefault(process.parent, []).append(process.pid)

    def descendants(self, stepds: Iterable[Stepd]) -> list[Seen]:
        """Children of these, and theirs, but no slurmstepd."""
        own = {stepd.pid for stepd in self.stepds}
        found: dict[int, Seen] = {}
        left = [stepd.pid for stepd in stepds]
        while left:
            for child in self._children.get(left.pop(), ()):
                if child not in found and child not in own:
                    found[child] = self.processes[child]
                    left.append(child)
        return list(found.values())

    def of(self, job: int, step: str = "") -> list[Stepd]:
        """The slurmstepd of a job, or of a step of it."""
        return [each for each in self.stepds if each.job == job and (not step or step in (each.step, each.step.partition("+")[0]))]

    def strays(self, uid: int) -> list[Seen]:
        """Processes of a user that may have been started by slurmd, and are in no job that still has a slurmstepd or a cgroup."""
        slurms = [each.cgroups for each in self.processes.values() if each.comm in ("slurmd", "slurmstepd") and each.uids == _ROOT]
        inside = {each.pid for each in self.descendants(self.stepds)}
        return [
            each
            for each in self.processes.values()
            if each.uids == frozenset((uid,))
            and each.pid not in inside
            and all(map(_is_outside, each.cgroups))
            and (not slurms or each.cgroups in slurms)
        ]

    def other_jobs(self, job: int, uid: int) -> set[str]:
        """Jobs with a slurmstepd here that are another one and may be this user's: one with root's processes alone does not say whose."""
        users: dict[str, set[int]] = {}
        for stepd in self.stepds:
            if stepd.job != job:
                name = str(stepd.job) if stepd.job else f"the job of slurmstepd {stepd.pid}"
                users.setdefault(name, set()).update(user for each in self.descendants([stepd]) for user in each.uids if user)
        return {name for name, known in users.items() if not known or uid in known}


def look() -> Node:
    """Look at every process of the node: some 60 us each."""
    processes: dict[int, Seen] = {}
    stepds: list[Stepd] = []
    for pid in procfs.pids():
        with contextlib.suppress(ProcessGoneError, PermissionError), looked_at(pid) as proc:
            stat = procfs.stat(proc)
            if stat.kernel_thread:
                continue
            seen = Seen(pid, stat.ppid, stat.start_time, stat.comm, user_ids(proc), cgroup_tables(proc))
            processes[pid] = seen
            if is_stepd(seen.comm, seen.uids):
                stepds += _stepd(pid, proc)
    return Node(processes, tuple(stepds))


def is_stepd(comm: str, uids: frozenset[int]) -> bool:
    """Whether a process is a slurmstepd: root's, because any process may call itself so."""
    return comm == "slurmstepd" and uids == _ROOT


def _stepd(pid: int, proc: int) -> list[Stepd]:
    with contextlib.suppress(PermissionError):
        line = procfs.read(proc, "cmdline")
        if line.split(b"\0")[1:2] == [b"infinity"]:
            return []  # it keeps the scope of cgroup v2, and has no job
        title = _TITLE.match(line)
        if title:
            return [Stepd(pid, int(title[1]), title[2].decode())]
    return [Stepd(pid)]


def _is_outside(table: bytes) -> bool:
    """Whether a ``/proc/PID/cgroup`` is of no job, container, pod or login session."""
    if IN_A_JOB.search(table) or _SESSION.search(table):
        return False
    places = (describe(path.decode("utf-8", "surrogateescape")) for path in _PATH.findall(table))
    return not any(place.container_id or place.pod_uid or place.monitors for place in places)
