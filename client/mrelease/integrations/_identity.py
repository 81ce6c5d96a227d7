"""Who a process is, found out on its own node by whoever may look at it there: a nanny, the main process of a Celery worker.

It needs the standard library alone: Dask's client sends these functions to nannies that do not have this package.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

# proc_ns.h: the number of the PID namespace that the node began with. In any other one a pid is not the node's.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC
_CONTAINER = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])")


def identify(pid: int) -> dict[str, Any]:
    """What tells this process from every other: plain values that JSON and msgpack carry, as ``located`` reads them.

    Nothing is read that waits for the process's memory (``mmap_lock``). Raises OSError, ProcessLookupError where there is none.
    """
    boot_id = _text("/proc/sys/kernel/random/boot_id").strip()
    pidfd = os.pidfd_open(pid)
    try:
        stat = _text(f"/proc/{pid}/stat")
        cgroups = _text(f"/proc/{pid}/cgroup")
        inode = _inode(pid, pidfd)
        # As long as it is not reaped, the number that was read is its number.
        with contextlib.suppress(PermissionError):
            signal.pidfd_send_signal(pidfd, 0)
    finally:
        os.close(pidfd)
    containers = _CONTAINER.findall(cgroups)
    return {
        "pid": pid,
        "pidfd_inode": inode,
        # proc_pid_stat(5), field 22; the name in parentheses may have spaces and parentheses itself.
        "start_time_ticks": int(stat[stat.rindex(")") + 2 :].split()[19]),
        "boot_id": boot_id,
        "hostname": socket.gethostname(),
        "container_id": containers[-1] if containers else "",
        "is_nested": Path("/proc/self/ns/pid").stat().st_ino != _FIRST_PID_NAMESPACE,
    }


def _inode(pid: int, pidfd: int) -> int:
    """The inode of a pidfd, unique until the next boot; 0 before Linux 6.9, where every pidfd has the same."""
    inode = os.fstat(pidfd).st_ino
    other = os.pidfd_open(os.getpid() if pid != os.getpid() else os.getppid() or 1)
    try:
        return inode if os.fstat(other).st_ino != inode else 0
    finally:
        os.close(other)


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
