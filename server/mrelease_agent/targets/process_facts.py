"""What tells whose a process is, while it is only looked at and not referred to yet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator

from mrelease_agent.linux import procfs
from mrelease_agent.linux.cgroup_tree import Tree
from mrelease_agent.linux.procfs import ProcessGoneError


@contextlib.contextmanager
def looked_at(pid: int) -> Generator[int]:
    """``/proc/PID`` as a directory fd. Raises ProcessGoneError."""
    proc = procfs.open_process(pid)
    try:
        yield proc
    finally:
        os.close(proc)


def user_ids(proc: int) -> frozenset[int]:
    """Real, effective, saved and file system user id: ``Uid`` of proc_pid_status(5). Raises ProcessGoneError."""
    for line in procfs.read(proc, "status").split(b"\n"):
        if line.startswith(b"Uid:"):
            return frozenset(map(int, line.split()[1:]))
    return frozenset()


def cgroup_tables(proc: int) -> frozenset[bytes]:
    """``/proc/PID/cgroup``; of a process whose first thread has exited those of its living threads, because v1 shows none for it.

    Empty where all of it exits. Raises ProcessGoneError.
    """
    if not procfs.stat(proc).exiting:
        return frozenset({procfs.read(proc, "cgroup")})
    found: set[bytes] = set()
    for tid in procfs.living_threads(proc):
        with contextlib.suppress(ProcessGoneError):
            found.add(procfs.read(proc, f"task/{tid}/cgroup"))
    return frozenset(found)


def place_in(tree: Tree, proc: int) -> str:
    """Canonical path of the one cgroup of ``tree`` in which its living threads are; empty where that is not to be told.

    Raises ProcessGoneError.
    """
    found = {tree.path_in(table) for table in cgroup_tables(proc)}
    return (found.pop() or "") if len(found) == 1 else ""
