"""Processes that the agent never kills, whatever the request says."""

from __future__ import annotations

import os

from mrelease_agent.linux import procfs
from mrelease_agent.linux.procfs import Stat


def protection(process: Stat) -> str | None:
    """Name the rule that protects a process, None where none does.

    pid 1 of the agent's PID namespace (the node's init, or the sandbox of the agent's own pod), the agent, and its ancestors: killing
    one of those may end the agent before it has answered.
    """
    if process.pid == 1:
        return "init"
    if process.pid == os.getpid():
        return "agent"
    # Ancestors only become fewer: an orphan goes to one that it already had, prctl(2) PR_SET_CHILD_SUBREAPER. So who was none is none,
    # and only who was one is looked up again: its pid may be another process's by now.
    if process.pid not in _suspects:
        return None
    _suspects.intersection_update(procfs.ancestors())
    return "ancestor-of-agent" if process.pid in _suspects else None


_suspects = set(procfs.ancestors())
