"""How other processes' threads are scheduled, sched(7): put before those that wait for the same CPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Set as AbstractSet
from enum import IntEnum
from typing import Final

from mrelease_agent.linux import forbidden

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
            forbidden.check("sched_setaffinity")
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
        try:
            _set_policy(tid, os.SCHED_RR | os.SCHED_RESET_ON_FORK, _REALTIME_PRIORITY)
            return Raised.REALTIME
        except ProcessLookupError:
            return Raised.NO
        except OSError:  # EPERM, or what a seccomp filter answers
            pass
        if policy != os.SCHED_OTHER:
            _set_policy(tid, os.SCHED_OTHER, 0)
        forbidden.check("setpriority")
        os.setpriority(os.PRIO_PROCESS, tid, _HIGHEST_NICE)
    except OSError:
        return Raised.NO
    return Raised.NICE


def _set_policy(tid: int, policy: int, priority: int) -> None:
    forbidden.check("sched_setscheduler")
    os.sched_setscheduler(tid, policy, os.sched_param(priority))
