"""A stuck process of an orchestrator, seen from outside: who it is, what it still holds, whether it is over.

It uses nothing of the product, so that the product has something to be compared with.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from support import lab
from support.lab import HangFs

#: What each job of these tests takes. Above the noise of an interpreter, small enough for several at once.
SIZE = 512 * lab.MIB
#: Below this a process holds nothing that a job took.
NOTHING = 32 * lab.MIB


@dataclass(frozen=True, slots=True)
class Stuck:
    """A process, one thread of which (``tid``) waits in a read that is not answered. ``pidfd`` is the context's."""

    pid: int
    tid: int
    pidfd: int

    def held_bytes(self) -> int:
        """See ``held_bytes``."""
        return held_bytes(self.pid) if not self.has_exited() else 0

    def is_killed(self) -> bool:
        """Whether SIGKILL has come and changed nothing: the thread is in state D, where it was interruptible before."""
        return lab.state(self.pid, self.tid) == "D"

    def has_exited(self) -> bool:
        """Whether all of its threads are over."""
        return lab.wait_readable(self.pidfd, 0)


def held_bytes(pid: int) -> int:
    """Anonymous memory of a process in bytes: the most that any thread shows, for a leader that is a zombie shows none; 0: it is gone."""
    most = 0
    with contextlib.suppress(OSError):
        for tid in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                most = max(most, _rss_anon(Path(f"/proc/{pid}/task/{tid}/status").read_text()))
    return most


@contextlib.contextmanager
def next_stuck(fs: HangFs, size: int = SIZE) -> Generator[Stuck]:
    """Wait until a process has taken ``size`` bytes and hangs in ``fs``."""
    tid = fs.wait_held("READ")
    pid = int(_field(Path(f"/proc/{tid}/status").read_text(), "Tgid"))
    pidfd = os.pidfd_open(pid)
    try:
        stuck = Stuck(pid, tid, pidfd)
        lab.until(lambda: stuck.held_bytes() >= size, f"process {pid} holds {size} bytes")
        yield stuck
    finally:
        os.close(pidfd)


def _rss_anon(status: str) -> int:
    found = _field(status, "RssAnon")
    return int(found.split()[0]) * 1024 if found else 0


def _field(status: str, name: str) -> str:
    """A field of proc_pid_status(5); empty where there is none, as of a zombie."""
    return next((line.partition(":")[2].strip() for line in status.splitlines() if line.startswith(f"{name}:")), "")
