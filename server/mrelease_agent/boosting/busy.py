"""Whether a victim has to wait for CPU time: others want its CPUs, or its cgroup may use no more of them.

A look of microseconds, since on an idle node every boost is a loss. What runs at this moment is the only measure that is at once right:
averages (load, PSI) still speak of a node that was busy ten seconds ago, or not yet of one that is busy since one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.cgroup_tree import Tree, read
from mrelease_agent.linux.process import ProcessRef

#: Of so many processes and threads the state is read, and the rest taken to be like them.
_SAMPLED: Final = 16
#: CPU seconds that freeing a byte takes, measured at 12 GiB/s; a throttling that costs less than _WORTH seconds is let be.
_SECONDS_PER_BYTE: Final = 0.085 / (1 << 30)
_WORTH: Final = 0.02
#: Seconds for which a count of the agent's own threads is good.
_MOMENT: Final = 0.005
#: When they were counted, time.monotonic(), and how many.
_agent: Final = [-_MOMENT, 0.0]


def contended(refs: Sequence[ProcessRef], loadavg: int) -> bool:
    """Whether at least as many other threads are running or waiting to run as there are CPUs that the victims may use.

    Neither the victims' own threads count, which die, nor the agent's. ``loadavg`` is an fd of /proc/loadavg, proc_loadavg(5). Some 10 us
    where the answer is no, some 0.3 ms where it is yes: then threads are looked at and the load a second time, which is often no more
    than a moment's.
    """
    cpus: set[int] = set()
    for ref in refs[:_SAMPLED]:
        with contextlib.suppress(OSError):
            cpus |= os.sched_getaffinity(ref.pid)
    if not cpus or _runnable(loadavg) - 1 < len(cpus):
        return False
    ours = max(1, _running_of_agent()) + _running(refs)
    return _runnable(loadavg) - ours >= len(cpus)


def throttled(ref: ProcessRef, tree: Tree, size: int) -> bool:
    """Whether the CPU limit of its cgroup, or of one above, makes freeing ``size`` bytes take noticeably longer.

    Before Linux 6.18, that is: with 1 % of a CPU not even reaping brought 1 GiB back in 12 s. Since then a thread in the kernel is not
    throttled (kernel/sched/fair.c, throttle_cfs_rq_work).
    """
    limit = 1.0
    with contextlib.suppress(procfs.ProcessGoneError, OSError, ValueError):
        path = tree.path_of(ref.proc)
        while path is not None and path != tree.top:
            fd = tree.open(path)
            try:
                limit = min(limit, _limit(tree, fd))
            finally:
                os.close(fd)
            path = path.rpartition("/")[0] or "/"
    return size * _SECONDS_PER_BYTE * (1 / limit - 1) > _WORTH


def _limit(tree: Tree, fd: int) -> float:
    """CPUs that a cgroup may use, 1.0 where there are more or it is not limited."""
    if tree.version == 2:
        quota, _, period = read(fd, "cpu.max").partition(b" ")
    else:
        quota, period = read(fd, "cpu.cfs_quota_us"), read(fd, "cpu.cfs_period_us")
    if not quota or quota.strip() in (b"max", b"-1"):
        return 1.0
    return max(0.0001, int(quota) / int(period))


def _runnable(loadavg: int) -> int:
    """Threads that run or wait to run on the whole node, the caller included."""
    return int(os.pread(loadavg, 64, 0).split()[3].partition(b"/")[0])


def _running_of_agent() -> int:
    """Threads of the agent that run or wait to run; for many who ask at the same time, as they were a moment ago."""
    now = time.monotonic()
    if now - _agent[0] > _MOMENT:
        _agent[:] = now, _count_agent()
    return int(_agent[1])


def _count_agent() -> int:
    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _running_threads(proc, _SAMPLED)
    finally:
        os.close(proc)


def _running(refs: Sequence[ProcessRef]) -> int:
    sampled = refs[:_SAMPLED]
    each = _SAMPLED // max(1, len(sampled))
    return sum(_running_threads(ref.proc, each) for ref in sampled) * len(refs) // max(1, len(sampled))


def _running_threads(proc: int, most: int) -> int:
    tids = procfs.thread_ids(proc)
    sampled = tids[:most]
    found = 0
    for tid in sampled:
        with contextlib.suppress(procfs.ProcessGoneError):
            found += procfs.read(proc, f"task/{tid}/stat").rpartition(b") ")[2].startswith(b"R")
    return found * len(tids) // max(1, len(sampled))
