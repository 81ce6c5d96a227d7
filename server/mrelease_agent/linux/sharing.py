"""Who shares an address space: processes made with vfork(2) or clone(2) with CLONE_VM but without CLONE_THREAD."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.syscalls import same_address_space

#: Threads whose children are looked at: a process has its children from few threads, and may have thousands.
_MAX_THREADS: Final = 64


def alike_relatives(pid: int, proc: int, ppid: int) -> list[int]:
    """Parent and children whose address space has the same size: those that may share it, found without a call that can block.

    A vforked child and its parent, and nearly everything else that shares, are such relatives. Costs some 10 us for each.
    """
    mine = _size(pid)
    if not mine:
        return []
    relatives = {ppid} if ppid > 0 else set[int]()
    for tid in procfs.thread_ids(proc)[:_MAX_THREADS]:
        with contextlib.suppress(procfs.ProcessGoneError, OSError):
            relatives.update(map(int, procfs.read(proc, f"task/{tid}/children").split()))
    return [relative for relative in relatives if _size(relative) == mine]


def sharers(pid: int, proc: int, candidates: Iterable[int] | None = None) -> list[int]:
    """Find the processes with the address space of ``pid`` among ``candidates``, or among all, by kcmp(2).

    Empty where none is found, which includes those that the agent's user may not compare. Can block: belongs on a reaper thread.
    """
    found = procfs.address_space(proc)
    if found is None:
        return []
    tid = found[0]
    others = [other for other in (procfs.pids() if candidates is None else candidates) if other != pid and same_address_space(tid, other)]
    # A thread past exit_mm() has no address space, as zombies and kernel threads have none: then everybody compares equal.
    return others if procfs.address_space(proc) is not None else []


def still_held(pid: int, at_least: int) -> bool:
    """Whether a former sharer still has ``at_least`` bytes of private memory: it has neither exited nor executed a program.

    True also where the agent's process is at a limit and cannot look.
    """
    try:
        proc = procfs.open_process(pid)
        try:
            found = procfs.address_space(proc)
            return found is not None and found[1].reclaimable >= at_least
        finally:
            os.close(proc)
    except procfs.ProcessGoneError:
        return False
    except OSError:
        return True


def _size(pid: int) -> int:
    """Pages of the address space, proc_pid_statm(5); 0 where there is none."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split(b" ", 1)[0])
    return 0
