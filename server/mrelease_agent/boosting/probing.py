"""Which rungs work here: tried out on a child process, each answer with its reason and remedy."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from mrelease_agent.boosting.evacuation import evacuate
from mrelease_agent.boosting.leaf import FOLDER, folder_path, open_folder
from mrelease_agent.boosting.trees import Trees
from mrelease_agent.boosting.weights import HIGHEST
from mrelease_agent.linux import forbidden, procfs
from mrelease_agent.linux.budget import Budget
from mrelease_agent.linux.capabilities import Capability, Feature, effective_capability
from mrelease_agent.linux.cgroup_tree import Tree, read
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.scheduling import Raised, raise_thread

_CAP_SYS_NICE: Final = 23  # linux/capability.h
_MOVE_SECONDS: Final = 5.0
_REMEDY_FOLDER: Final = "make that directory before the agent starts, as deploy/systemd does, or give the agent CAP_DAC_OVERRIDE"
_REMEDY_MOUNT: Final = "mount the node's /sys/fs/cgroup into the agent's container by hostPath, to be written"


@dataclass(frozen=True, slots=True)
class Probed:
    """What works. ``realtime``: SCHED_RR does, in every cgroup; ``realtime_at_top``: at least for processes of the root cgroup."""

    priority: Capability
    evacuation: Capability
    lift: Capability
    realtime: bool
    realtime_at_top: bool


def probe(trees: Trees, journal_trouble: str) -> Probed:
    """Find out. ``journal_trouble`` says why there is no journal, empty where there is one. Forks: call it before there are other threads.

    Takes as long as moving one process does, 8 to 32 ms.
    """
    with _child() as child:
        evacuation, in_leaf = _evacuation(trees.cpu, child)
        here = raise_thread(child.pid, frozenset())
        in_group = trees.cpu is not None and trees.cpu.path_of(child.proc) != trees.cpu.top
    rt_groups = _has_rt_groups(trees.cpu)
    realtime = (here is Raised.REALTIME and (in_group or not rt_groups)) if in_leaf is None else in_leaf is Raised.REALTIME
    at_top = realtime or here is Raised.REALTIME or (rt_groups and here is not Raised.NO)
    return Probed(_priority(here, realtime, at_top), evacuation, _lift(trees.cpu, journal_trouble), realtime, at_top)


@contextlib.contextmanager
def _child() -> Generator[ProcessRef, None, None]:
    """A child that does nothing until it is killed, or this process dies."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writer)
            os.read(reader, 1)
        finally:
            os._exit(0)
    os.close(reader)
    try:
        with ProcessRef.open(pid) as ref:
            yield ref
    finally:
        os.kill(pid, signal.SIGKILL)  # a child of ours that is not reaped: the number is its own
        os.waitpid(pid, 0)
        os.close(writer)


def _evacuation(tree: Tree | None, child: ProcessRef) -> tuple[Capability, Raised | None]:
    """Whether processes can be moved, and how far one in a leaf can be raised; None where none can be moved."""
    feature = Feature.BOOST_EVACUATION
    if tree is None:
        return Capability(feature, False, "no cgroup hierarchy with CPU weights is mounted", _REMEDY_MOUNT), None
    if not _shows_node(tree):
        return Capability(feature, False, f"{tree.mount.path} shows the agent's own cgroups alone", _REMEDY_MOUNT), None
    if not _has_weights(tree):
        return _no_weights(feature), None
    try:
        os.close(open_folder(tree, make=True))
    except OSError as error:
        # The top of a hierarchy may be written by nobody (0555): root needs CAP_DAC_OVERRIDE for it, as least privilege does not have.
        remedy = _REMEDY_FOLDER if error.errno == errno.EACCES and os.geteuid() == 0 else _remedy(error)
        return Capability(feature, False, _refusal(f"{tree.mount.path}/{FOLDER} cannot be made", error), remedy), None
    refused: list[OSError] = []
    moved = evacuate(tree, None, [child], Budget(_MOVE_SECONDS), refused=refused.append)
    if moved is None:
        why = refused[-1] if refused else OSError(0, "the kernel said yes and moved nothing")
        return Capability(feature, False, _refusal("a child of the agent cannot be moved between cgroups", why), _remedy(why)), None
    raised = raise_thread(child.pid, frozenset())
    moved.close()
    return Capability(feature, True, f"processes are moved to {tree.mount.path}/{FOLDER}, cgroup v{tree.version}"), raised


def _lift(tree: Tree | None, journal_trouble: str) -> Capability:
    feature = Feature.BOOST_LIFT
    if tree is None:
        return Capability(feature, False, "no cgroup hierarchy with CPU weights is mounted", _REMEDY_MOUNT)
    if journal_trouble:
        remedy = "give the agent a directory of its own that outlives it and that it may write"
        return Capability(feature, False, f"without a journal nobody would restore the weights after a crash: {journal_trouble}", remedy)
    if not _has_weights(tree):
        return _no_weights(feature)
    name = HIGHEST[tree.version][1][0]
    refused = _refused_weight(tree, name)
    if refused is not None:
        path, error = refused
        return Capability(feature, False, _refusal(f"{name} of {path} cannot be written", error), _remedy(error))
    return Capability(feature, True, f"{name} of the cgroups above a victim is raised and restored, cgroup v{tree.version}")


def _refused_weight(tree: Tree, name: str) -> tuple[str, OSError] | None:
    """Open the weight of a cgroup of the node, or where there is none yet of ours: whose may not be written, and why; None where it may."""
    for path, fd in tree.walk(enter=lambda path: path == tree.top):
        if path == tree.top:
            continue
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd))
        except FileNotFoundError:
            continue
        except OSError as error:
            return path, error
        return None
    try:
        os.close(open_folder(tree, make=True))
    except OSError as error:
        return folder_path(tree), error
    return None


def _priority(raised: Raised, realtime: bool, at_top: bool) -> Capability:
    feature = Feature.BOOST_PRIORITY
    without = "victims keep their class, nice value and CPUs"
    if raised is Raised.NO and (trouble := forbidden.why("setpriority")):
        return Capability(feature, False, f"{trouble}: {without}", "allow setpriority and sched_setscheduler in the seccomp profile")
    if raised is Raised.NO or not effective_capability(_CAP_SYS_NICE):
        return Capability(feature, False, f"no CAP_SYS_NICE: {without}", "run the agent as root or give it CAP_SYS_NICE")
    found = _highest(realtime, at_top)
    if trouble := forbidden.why("sched_setaffinity"):
        return Capability(feature, True, f"{found.reason}; victims keep their CPUs ({trouble})")
    return found


def _highest(realtime: bool, at_top: bool) -> Capability:
    feature = Feature.BOOST_PRIORITY
    if realtime:
        return Capability(feature, True, "SCHED_RR works in every cgroup, and goes before all CPU weights and limits")
    if trouble := forbidden.why("sched_setscheduler"):
        return Capability(feature, True, f"nice -20, which counts within one cgroup; SCHED_RR is refused ({trouble})")
    if at_top:
        return Capability(
            feature,
            True,
            "SCHED_RR works in the root cgroup alone (the kernel has RT_GROUP_SCHED); elsewhere nice -20, which counts within one cgroup",
        )
    return Capability(feature, True, "nice -20, which counts within one cgroup; SCHED_RR is refused (RT_GROUP_SCHED, or a seccomp filter)")


def _has_rt_groups(tree: Tree | None) -> bool:
    """Whether v1 shows that the kernel has RT_GROUP_SCHED; v2 shows nothing."""
    if tree is None or tree.version == 2:
        return False
    top = tree.open(tree.top)
    try:
        return bool(read(top, "cpu.rt_runtime_us"))
    finally:
        os.close(top)


def _shows_node(tree: Tree) -> bool:
    """Whether pid 1, as far as the agent can see it, is below the mount: where /proc is mounted with hidepid, it cannot."""
    with contextlib.suppress(procfs.ProcessGoneError, PermissionError):
        proc = procfs.open_process(1)
        try:
            return tree.path_of(proc) is not None
        finally:
            os.close(proc)
    return True


def _has_weights(tree: Tree) -> bool:
    if tree.version == 1:
        return True
    top = tree.open(tree.top)
    try:
        return b"cpu" in read(top, "cgroup.subtree_control").split()
    finally:
        os.close(top)


def _no_weights(feature: Feature) -> Capability:
    return Capability(
        feature,
        False,
        "cgroup v2 distributes no CPU time here: cpu is not in cgroup.subtree_control of the root, so no cgroup starves another one",
        "nothing: BOOST_PRIORITY is enough here",
    )


def _refusal(what: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"{what}: the agent is in a cgroup namespace of its own, and cgroup2 is mounted with nsdelegate (ENOENT)"
    return f"{what}: {error.strerror}"


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "run the agent in the node's cgroup namespace: as a service of the node, or as a privileged container"
        case errno.EROFS:
            return _REMEDY_MOUNT
        case errno.EACCES | errno.EPERM:
            return "run the agent as root, or let its user write the cgroups"
        case _:
            return "see the reason"
