"""How other processes' threads are scheduled, sched(7): put before those that wait for the same CPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Set as AbstractSet
from enum import IntEnum
from typing import Final

#: Classes that are raised. A thread that is real time or deadline already is before us.
_ORDINARY: Final = frozenset({os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE})
#: The least real-time priority: before all that is not real time, after all else that is.
_REALTIME_PRIORITY: Final = 1
_HIGHEST_NICE: Final = -20


class Raised(IntEnum):
    """How far a thread was raised."""

    #: Not at all: it is gone, or that is not permitted.
    NO = 0
    #: Ordinary class and nice -20: counts within its cgroup only.
    NICE = 1
    #: SCHED_RR: goes before every cgroup's ordinary threads, whatever their weights, and no CPU limit (cpu.max) stops it.
    REALTIME = 2


def raise_thread(tid: int, cpus: AbstractSet[int]) -> Raised:
    """Let a thread run before others, on ``cpus`` too where its cpuset has them; what the kernel refuses stays as it was.

    Some 10 us. Children that it forks are ordinary (SCHED_RESET_ON_FORK). A thread id is only a number: see boosting.priority.
    """
    try:
        with contextlib.suppress(PermissionError, ValueError):
            now = os.sched_getaffinity(tid)
            if not cpus <= now:
                # A superset: the thread need not leave its CPU, for which the call would have to wait.
                os.sched_setaffinity(tid, now | cpus)
    except OSError:  # EINVAL: bound by the kernel; ESRCH: gone, which the next call finds too
        pass
    try:
        policy = os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK
        if policy not in _ORDINARY:
            return Raised.REALTIME
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(tid, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(_REALTIME_PRIORITY))
            return Raised.REALTIME
        if policy != os.SCHED_OTHER:
            os.sched_setscheduler(tid, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, tid, _HIGHEST_NICE)
    except OSError:
        return Raised.NO
    return Raised.NICE
