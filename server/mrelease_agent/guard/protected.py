"""Processes that the agent never kills, whatever the request says."""

from __future__ import annotations

import contextlib
import os

from mrelease_agent.linux import procfs
from mrelease_agent.linux.procfs import ProcessGoneError, Stat


def protection(process: Stat) -> str | None:
    """Name the rule that protects a process, None where none does.

    pid 1 of the agent's PID namespace (the node's init, or the sandbox of the agent's own pod), the agent, and its ancestors: killing
    one of those may end the agent before it has answered. Ancestors are looked up at each call: an agent's parent can die, and then it
    has another one.
    """
    if process.pid == 1:
        return "init"
    if process.pid == os.getpid():
        return "agent"
    return "ancestor-of-agent" if process.pid in _ancestors() else None


def _ancestors() -> set[int]:
    found: set[int] = set()
    pid = os.getppid()
    with contextlib.suppress(ProcessGoneError):
        while pid > 0 and pid not in found:
            found.add(pid)
            proc = procfs.open_process(pid)
            try:
                pid = procfs.stat(proc).ppid
            finally:
                os.close(proc)
    return found
