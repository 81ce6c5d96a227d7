"""Where the agent's own threads wait in process_mrelease(2): a call that does not return may be at work, or wait for mmap_lock."""

from __future__ import annotations

import contextlib
import os

from mrelease_agent.linux.process import ProcessRef, pid_of
from mrelease_agent.linux.syscalls import PROCESS_MRELEASE


def waits_to_release(ref: ProcessRef) -> bool | None:
    """Whether a thread of this process sleeps in process_mrelease(2) on ``ref``, or in the look before it, linux/robust.py, which waits for
    the same lock; None where the kernel does not tell.

    ``syscall`` of proc_pid_syscall(5) shows the call and the descriptor of a thread that sleeps, and "running" for one that works.
    """
    told = False
    for tid in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError, ValueError, StopIteration), open(f"/proc/self/task/{tid}/syscall", "rb", buffering=0) as file:
            call = file.read().split()
            told = True
            if len(call) > 1 and _concerns(int(call[0]), int(call[1], 16), ref.pid):
                return True
    return False if told else None


def _concerns(number: int, fd: int, pid: int) -> bool:
    if number == PROCESS_MRELEASE:
        return pid_of(fd) == pid
    link = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - as elsewhere in /proc
    return link.startswith(f"/proc/{pid}/") and link.endswith("/pagemap")
