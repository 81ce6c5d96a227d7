"""Causes and remedies in words: one sentence each, for the person who reads the result."""

from __future__ import annotations

from typing import Final

from mrelease_agent.reaping.outcome import Unreleased
from mrelease_agent.reaping.report import Report

UNSUPPORTED: Final = "killed, but this node cannot call process_mrelease(2), so its memory waits for its exit"
REMEDY_UNSUPPORTED: Final = "`mrelease doctor` says what to change on the node; the memory comes back when the process exits"
NOT_DYING: Final = "it is alive, and Release never kills"
NOT_PERMITTED: Final = "the agent's user may not signal it"
REMEDY_NOT_PERMITTED: Final = "run the agent as root or with CAP_KILL, or as the user of the process"
STUCK: Final = "process_mrelease(2) waits in the kernel for the lock of the address space"
REMEDY_STUCK: Final = "find the thread that holds mmap_lock (state D, see wchan); the call goes on and releases when the lock is free"
NO_REAPER: Final = "every reaper thread was busy until the deadline, so process_mrelease(2) was not called"
REMEDY_NO_REAPER: Final = "release again, or raise reaper_threads"
CORE_DUMPING: Final = "it dumps core, and the kernel does not reap before the dump has ended"
REMEDY_CORE_DUMPING: Final = "wait for the dump, or send SIGKILL (`mrelease kill`), which ends the dump"
REMEDY_SHARED_MM: Final = "kill those that share the address space too, then release again"
PINNED: Final = "it has exited, but its memory is still charged to its cgroup: something pins its address space or its pages"
REMEDY_PINNED: Final = "look for readers of its /proc files, KVM, vfio, io_uring, or relatives by fork(2) in other cgroups"
COPY_ON_WRITE: Final = "the process gave its pages up, but it inherited part of them by fork(2), and they were charged elsewhere"


def shared_mm(pids: list[int]) -> str:
    """Cause of SHARED_MM, naming at most eight sharers."""
    names = ", ".join(map(str, pids[:8])) + (", ..." if len(pids) > 8 else "")
    return f"its address space belongs also to living processes: {names}"


def remedy_held(state: str) -> str:
    """Remedy for HELD by the state of the process, proc_pid_stat(5)."""
    if state == "D":
        return "it is in uninterruptible sleep: see wchan for what it waits for (storage, NFS, FUSE, a driver), then release again"
    if state in ("t", "T"):
        return "a tracer holds it: end the tracer, then release again"
    return "it has begun to exit and frees its memory at its own priority: give it CPU (weight, affinity), or wait for its exit"


def unreleased(report: Report) -> None:
    """Add what no death gives back at once: shared memory, and hugetlb pages until the exit."""
    if report.before is None:
        return
    if report.before.shmem:
        report.unreleased[Unreleased.SHMEM] = report.before.shmem
    if report.after is not None and report.after.hugetlb:
        report.unreleased[Unreleased.HUGETLB] = report.after.hugetlb
