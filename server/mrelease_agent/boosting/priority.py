"""The rung of microseconds: class, nice value and affinity of a victim's threads. Needs no restoring, for the victim dies.

Where the kernel has no RT_GROUP_SCHED (most distributions), SCHED_RR works in every cgroup and is the best rung there is: it goes before
all weights, ends a throttling by cpu.max, and helps even a victim that is inside exit_mm() already. Where it has, SCHED_RR is for
processes of the root cgroup alone, and what is left is nice -20, which counts among the threads of one cgroup only.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.process import ProcessRef, pid_of
from mrelease_agent.linux.scheduling import Raised, raise_thread

#: How often the threads are listed again, for those that were made meanwhile. Dying threads make none.
_ROUNDS: Final = 3


def prioritise(ref: ProcessRef, cpus: frozenset[int]) -> Raised:
    """Raise every thread of a process that has been sent SIGKILL; the least that one of them got.

    ``cpus`` are given to it beside its own. Before each thread is touched it is looked up below the process's own ``/proc`` directory, and
    the process must not have been reaped: as long as that is so, no other process can have its pid. A thread that ends in the very
    microsecond between look and call is not replaced either, because the kernel gives numbers out in turn.
    """
    done: set[int] = set()
    least = Raised.NO
    with contextlib.suppress(OSError):  # a limit of the agent's process
        for _ in range(_ROUNDS):
            fresh = [tid for tid in procfs.thread_ids(ref.proc) if tid not in done]
            if not fresh or pid_of(ref.fd) != ref.pid:
                break
            for tid in fresh:
                done.add(tid)
                if not _is_thread(ref, tid):
                    continue
                raised = raise_thread(tid, cpus)
                least = min(least, raised) if least and raised else least or raised
    return least


def _is_thread(ref: ProcessRef, tid: int) -> bool:
    try:
        os.stat(f"task/{tid}", dir_fd=ref.proc)
    except OSError:
        return False
    return True
