"""Who shares an address space: processes made with vfork(2) or clone(2) with CLONE_VM but without CLONE_THREAD."""

from __future__ import annotations

import contextlib
import os

from mrelease_agent.linux import procfs
from mrelease_agent.linux.syscalls import same_address_space


def sharers(pid: int, proc: int) -> list[int]:
    """Find the other processes with the address space of ``pid``, by asking kcmp(2) about every process (1.5 us each).

    Empty where none is found, which includes those that the agent's user may not compare. Can block: belongs on a reaper thread.
    """
    found = procfs.address_space(proc)
    if found is None:
        return []
    tid = found[0]
    others = [other for other in procfs.pids() if other != pid and same_address_space(tid, other)]
    # A thread past exit_mm() has no address space, as zombies and kernel threads have none: then everybody compares equal.
    return others if procfs.address_space(proc) is not None else []


def still_held(pid: int, at_least: int) -> bool:
    """Whether a former sharer still has ``at_least`` bytes of private memory: it has neither exited nor executed a program."""
    with contextlib.suppress(procfs.ProcessGoneError):
        proc = procfs.open_process(pid)
        try:
            found = procfs.address_space(proc)
            return found is not None and found[1].reclaimable >= at_least
        finally:
            os.close(proc)
    return False
