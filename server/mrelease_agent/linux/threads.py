"""What the threads of a dying process do: the one that keeps it, and whether it is given CPU time.

Of files that neither pin the address space nor wait for its lock: ``status``, ``stat``, ``wchan``, ``schedstat``.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.budget import Budget

#: Where a thread waits for mmap_lock, or in a core dump for the others: held up by another thread, it is not the one that keeps.
#: Functions of the lock itself are left out of wchan, so these are their callers.
_QUEUED: Final = frozenset({
    "do_exit", "exit_mm", "exit_mm_release", "coredump_task_exit", "lock_mm_and_find_vma", "do_user_addr_fault", "exc_page_fault",
    "do_page_fault", "vm_mmap_pgoff", "__vm_munmap", "do_mprotect_pkey", "do_madvise", "rwsem_down_read_slowpath",
    "rwsem_down_write_slowpath",
})  # fmt: skip
#: sched(7); what Linux calls SCHED_NORMAL is SCHED_OTHER there.
_POLICIES: Final = {
    0: "SCHED_OTHER",
    1: "SCHED_FIFO",
    2: "SCHED_RR",
    3: "SCHED_BATCH",
    5: "SCHED_IDLE",
    6: "SCHED_DEADLINE",
    7: "SCHED_EXT",
}
#: Of so many runnable threads the CPU time is read.
_SAMPLED: Final = 64
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ThreadState:
    """One thread: state letter of proc_pid_stat(5); wait channel of proc_pid_wchan(5), read in states D and t alone; tracer or 0."""

    tid: int
    state: str
    wchan: str
    tracer: int
    core_dumping: bool

    @property
    def queued(self) -> bool:
        """Whether it only waits for another thread of its process."""
        return self.wchan in _QUEUED

    @property
    def gone(self) -> bool:
        """Whether it has exited."""
        return self.state in ("Z", "X", "x")


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How a thread is scheduled, sched(7). ``cpus``: those that it may use, as a list such as ``0-3,8``."""

    policy: str
    nice: int
    cpus: str


def thread_states(proc: int, budget: Budget) -> list[ThreadState]:
    """Look at each thread, as far as the budget reaches but at one at least; empty where the process is gone. Raises OSError for limits."""
    found: list[ThreadState] = []
    for tid in procfs.thread_ids(proc):
        with contextlib.suppress(procfs.ProcessGoneError):
            found.append(_thread_state(proc, tid))
        if budget.spent:
            break
    return found


def keeper(threads: Iterable[ThreadState]) -> ThreadState | None:
    """The thread that most likely keeps the process: in D, held by a tracer, in D behind another one, runnable, any that has not exited."""
    return min((thread for thread in threads if not thread.gone), key=_rank, default=None)


def wait_channel(proc: int, tid: int) -> str:
    """Kernel function in which a thread sleeps, proc_pid_wchan(5); empty where it does not, or where it may not be known."""
    try:
        channel = procfs.read(proc, f"task/{tid}/wchan").decode("ascii", "replace")
    except (procfs.ProcessGoneError, PermissionError):
        return ""
    return "" if channel == "0" else channel


def scheduling(proc: int, tid: int) -> Scheduling | None:
    """How a thread is scheduled; None where it is gone."""
    with contextlib.suppress(procfs.ProcessGoneError):
        stat = _stat(proc, tid)
        cpus = _fields(proc, tid).get(b"Cpus_allowed_list", b"").decode()
        return Scheduling(_POLICIES.get(int(stat[38]), f"policy {int(stat[38])}"), int(stat[16]), cpus)
    return None


def least_cpu_share(proc: int, tids: Sequence[int], seconds: float) -> float | None:
    """The least share of a CPU that one of the runnable threads gets, measured for so long; None where none still is.

    A thread that is not given a CPU stays in state R. Sleeps.
    """
    before = {tid: _run_time(proc, tid) for tid in tids[:_SAMPLED]}
    start = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - start
    shares: list[float] = []
    for tid, ran in before.items():
        try:
            waits = _stat(proc, tid)[0] == b"R"
        except procfs.ProcessGoneError:
            waits = False
        now = _run_time(proc, tid)
        if waits and ran is not None and now is not None:
            shares.append(min(1.0, (now - ran) / elapsed))
    return min(shares, default=None)


def _rank(thread: ThreadState) -> int:
    match thread.state:
        case "D":
            return 2 if thread.queued else 0
        case "t":
            return 1
        case "R":
            return 3
        case _:
            return 4


def _thread_state(proc: int, tid: int) -> ThreadState:
    fields = _fields(proc, tid)
    state = fields[b"State"][:1].decode()
    return ThreadState(
        tid=tid,
        state=state,
        wchan=wait_channel(proc, tid) if state in ("D", "t") else "",
        tracer=int(fields.get(b"TracerPid", b"0")),
        core_dumping=fields.get(b"CoreDumping") == b"1",
    )


def _fields(proc: int, tid: int) -> dict[bytes, bytes]:
    lines = procfs.read(proc, f"task/{tid}/status").split(b"\n")
    return {name: value.strip() for name, _, value in (line.partition(b":") for line in lines)}


def _stat(proc: int, tid: int) -> list[bytes]:
    """Fields of proc_pid_stat(5) from the state on: field N there is N - 3 here."""
    return procfs.read(proc, f"task/{tid}/stat").rpartition(b")")[2].split()


def _run_time(proc: int, tid: int) -> float | None:
    """Seconds for which a thread has run: Documentation/scheduler/sched-stats.rst, else in clock ticks; None where it is gone."""
    try:
        with contextlib.suppress(procfs.ProcessGoneError, PermissionError):
            if ran := int(procfs.read(proc, f"task/{tid}/schedstat").split()[0]):
                return ran / 1e9
        stat = _stat(proc, tid)
        return (int(stat[11]) + int(stat[12])) * _TICK
    except procfs.ProcessGoneError:
        return None
