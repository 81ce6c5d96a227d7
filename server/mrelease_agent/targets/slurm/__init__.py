"""Jobs and steps of Slurm as targets: kind ``slurm``, with the attributes ``job``, and where they are known ``step``, ``node``, ``uid``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Final

from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.targets.plugins import (
    AmbiguousError,
    Found,
    FoundGroup,
    FoundProcess,
    NotHereError,
    Spare,
    UnavailableError,
)
from mrelease_agent.targets.process_facts import looked_at, user_ids
from mrelease_agent.targets.slurm import untracked
from mrelease_agent.targets.slurm.attributes import Wanted, wanted
from mrelease_agent.targets.slurm.cgroups import Hierarchies, JobGroup
from mrelease_agent.targets.slurm.untracked import Node, Seen
from mrelease_agent.telemetry.logs import event

_log = logging.getLogger("mrelease")
#: slurmstepd reports the end of the step: it is never killed. On v1 it is in the step's own cgroups.
SPARED: Final = (Spare("slurmstepd", 0),)
_STRAYS: Final = "stray_processes"


class Slurm:
    """See targets.plugins.TargetPlugin.

    Option ``stray_processes``: ``none`` (the default), or ``uid``: processes that have left a job which Slurm tracks without cgroups are
    found by the user's id.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        for name, value in options.items():
            if name != _STRAYS or value not in ("none", "uid"):
                raise UnavailableError(f"it has no option {name}={value}", f"write slurm.{_STRAYS}=uid, slurm.{_STRAYS}=none, or nothing")
        self._by_uid = options.get(_STRAYS) == "uid"
        if not Hierarchies():
            raise UnavailableError("no cgroup hierarchy is mounted where the agent runs", "mount the node's /sys/fs/cgroup there")

    def find(self, attributes: Mapping[str, str]) -> Found:
        """What a job or step is now on this node."""
        want = wanted(attributes)
        hierarchies = Hierarchies()
        everywhere = hierarchies.jobs()
        mine = _the_one([job for job in everywhere if job.job == want.job], want, hierarchies)
        if mine:
            return Found(groups=_groups(mine, want, hierarchies), spare=SPARED)
        return Found(processes=map(_named, self._untracked(want, everywhere, hierarchies)), spare=SPARED)

    def _untracked(self, want: Wanted, everywhere: Iterable[JobGroup], hierarchies: Hierarchies) -> list[Seen]:
        node = untracked.look()
        own = node.descendants(node.of(want.job, want.step))
        uid = _user_of(own, want)
        if not self._by_uid or want.step or not uid:
            if not own:
                raise _not_here(want, strays_allowed=self._by_uid)
            return own
        strays = node.strays(uid)
        others = node.other_jobs(want.job, uid) | _other_jobs(everywhere, want.job, uid, node, hierarchies)
        if strays and others and own:
            # What is certain must not wait for what is not: else a process that is left behind would shield every job of its user.
            event(_log, logging.WARNING, "strays left alone", job=want.job, uid=uid, pids=_some(strays), jobs=" ".join(sorted(others)))
            return own
        if strays and others:
            raise AmbiguousError(
                f"is ambiguous: user {uid} has processes outside of every job ({_some(strays)}), and other jobs on this node",
                sorted(others),
                "name the processes themselves, by pid and start, or end the other jobs first",
            )
        if not own and not strays:
            raise _not_here(want, strays_allowed=True)
        return own + strays


def _the_one(found: list[JobGroup], want: Wanted, hierarchies: Hierarchies) -> list[JobGroup]:
    """Groups of the one job that is meant, in all hierarchies. Raises AmbiguousError, NotHereError."""
    found = [job for job in found if not want.node or job.node in ("", want.node)]
    if want.uid is not None and found:
        found = [job for job in found if _is_users(job, want.uid, hierarchies)]
        if not found:
            raise NotHereError(f"job {want.job} on this node is another user's than {want.uid}", "look up whose it is: `squeue -o %U`")
    for what, remedy in (("node", "name the node: attribute `node`"), ("uid", "name the job's user: attribute `uid`")):
        if len({getattr(job, what) for job in found if getattr(job, what) is not None}) > 1:
            # What a node or a cluster of another name has left behind is empty.
            found = [job for job in found if hierarchies.pids(job)]
            values = {str(getattr(job, what)) for job in found if getattr(job, what) is not None}
            if len(values) > 1:
                raise AmbiguousError(f"job {want.job} is several jobs here: {what} is {', '.join(sorted(values))}", sorted(values), remedy)
    return found


def _is_users(job: JobGroup, uid: int, hierarchies: Hierarchies) -> bool:
    """Whether a job may be this user's: by its path, else (v2) by its processes, of which root's say nothing."""
    if job.uid is not None:
        return job.uid == uid
    users = _users(hierarchies.pids(job))
    return uid in users or not users - {0}


def _users(pids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(ProcessGoneError), looked_at(pid) as proc:
            found |= user_ids(proc)
    return found


def _groups(mine: Iterable[JobGroup], want: Wanted, hierarchies: Hierarchies) -> list[FoundGroup]:
    if not want.step:
        return [FoundGroup(job.path, job.controller) for job in mine]
    found = [FoundGroup(path, job.controller) for job in mine for path in hierarchies.steps(job, want.step)]
    if not found:
        raise NotHereError(f"job {want.job} has no step {want.step} on this node", "it has ended here, or runs on another node")
    return found


def _user_of(own: Iterable[Seen], want: Wanted) -> int | None:
    """The user of a job that has no cgroup; None where that is not known. Raises NotHereError where it is another's than wanted."""
    users = {uid for each in own for uid in each.uids} - {0}
    if want.uid is None:
        return users.pop() if len(users) == 1 else None
    if users and want.uid not in users:
        raise NotHereError(f"job {want.job} on this node is another user's than {want.uid}", "look up whose it is: `squeue -o %U`")
    return want.uid


def _other_jobs(everywhere: Iterable[JobGroup], job: int, uid: int, node: Node, hierarchies: Hierarchies) -> set[str]:
    """Other jobs of a user that have a cgroup here."""
    others = [each for each in everywhere if each.job != job]
    return {str(each.job) for each in others if (each.uid == uid if each.uid is not None else uid in _known(hierarchies.pids(each), node))}


def _known(pids: Iterable[int], node: Node) -> set[int]:
    return {uid for pid in pids if pid in node.processes for uid in node.processes[pid].uids}


def _named(seen: Seen) -> FoundProcess:
    return FoundProcess(seen.pid, seen.start_time)


def _some(seen: Iterable[Seen]) -> str:
    pids = [str(each.pid) for each in seen]
    return " ".join(pids[:8]) + (" ..." if len(pids) > 8 else "")


def _not_here(want: Wanted, *, strays_allowed: bool) -> NotHereError:
    what = f"step {want.step} of job {want.job}" if want.step else f"job {want.job}"
    missing = "" if want.step else ", nor a process by its user's id" if strays_allowed else ""
    remedy = f"`squeue -j {want.job} -o %N` tells where it runs; what has left a job that is tracked without cgroups is found "
    remedy += "with its attribute uid" if strays_allowed else f"where the agent has slurm.{_STRAYS}=uid"
    return NotHereError(f"{what} has neither a cgroup nor a slurmstepd on this node{missing}", remedy)
